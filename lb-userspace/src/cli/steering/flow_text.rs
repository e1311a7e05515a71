//! What `lbctl flow lookup` shows: a few lines, the answer first.

use crate::cli::spans::uptime;
use crate::control::protocol::steering::{FlowBackend, FlowFound, FlowReport};

/// The answer, why, and what it was read from.
pub fn flow(report: &FlowReport) -> String {
    let answer = match &report.backend {
        Some(backend) => format!("goes to {}", self::backend(backend)),
        None => "goes to nobody".to_owned(),
    };
    let vip = match &report.vip_name {
        Some(name) => format!("{name}, {}", report.forward),
        None => "none".to_owned(),
    };
    let mut lines = vec![
        format!("{} -> {}/{}  {answer}", report.client, report.vip, report.transport.name()),
        format!("  because  {}", report.why),
        format!("  vip      {vip}"),
    ];
    lines.extend(found(&report.found).into_iter().map(|(title, text)| format!("  {title:<7}  {text}")));
    lines.join("\n") + "\n"
}

/// What the tables hold, as titles and texts.
fn found(found: &FlowFound) -> Vec<(&'static str, String)> {
    match found {
        FlowFound::Known { idle_ms, flags } => {
            vec![("flow", format!("known, last packet {} ago{}", span(*idle_ms), flagged(flags)))]
        }
        FlowFound::Translated { source, target, idle_ms, is_half_open, flags } => {
            let opening = if *is_half_open { ", handshake not finished" } else { "" };
            vec![
                (
                    "flow",
                    format!("translated{opening}, last packet {} ago{}", span(*idle_ms), flagged(flags)),
                ),
                ("becomes", format!("{source} -> {target}")),
            ]
        }
        FlowFound::Row { row, rows, generation, since_ms, now, before } => {
            let mut lines = vec![
                ("flow", "not known: the lookup table decides".to_owned()),
                ("row", format!("{row} of {rows}, generation {generation} since {}", span(*since_ms))),
                ("now", nobody_or(now.as_ref())),
            ];
            if before != now {
                lines.push(("before", nobody_or(before.as_ref())));
            }
            lines
        }
        FlowFound::Nothing => Vec::new(),
    }
}

fn nobody_or(found: Option<&FlowBackend>) -> String {
    found.map_or_else(|| "nobody".to_owned(), backend)
}

/// Name and address once where they are the same.
fn backend(backend: &FlowBackend) -> String {
    let FlowBackend { slot, name, address, traffic_state } = backend;
    match name == address {
        true => format!("{name} ({traffic_state}, slot {slot})"),
        false => format!("{name} at {address} ({traffic_state}, slot {slot})"),
    }
}

fn flagged(flags: &[String]) -> String {
    if flags.is_empty() { String::new() } else { format!(", {}", flags.join(", ").replace('_', " ")) }
}

/// Milliseconds below ten seconds, then as up-times.
fn span(span_ms: u64) -> String {
    match span_ms {
        ..10_000 => format!("{span_ms} ms"),
        _ => uptime(span_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::steering::Transport;

    fn backend_of(name: &str, state: &str) -> FlowBackend {
        FlowBackend {
            slot: 3,
            name: name.into(),
            address: "10.0.0.7:443".into(),
            traffic_state: state.into(),
        }
    }

    fn report(found: FlowFound, backend: Option<FlowBackend>, why: &str) -> FlowReport {
        FlowReport {
            client: ([192, 0, 2, 7], 51000).into(),
            vip: ([203, 0, 113, 10], 443).into(),
            transport: Transport::Tcp,
            vip_name: Some("web".into()),
            forward: "nat".into(),
            found,
            backend,
            why: why.into(),
        }
    }

    #[test]
    fn an_unknown_flow_shows_its_row_and_who_had_it_before() {
        let found = FlowFound::Row {
            row: 812,
            rows: 65_537,
            generation: 4,
            since_ms: 62_000,
            now: Some(backend_of("10.0.0.7:443", "IN")),
            before: Some(backend_of("docs:0", "OUT")),
        };
        let text = flow(&report(found, Some(backend_of("10.0.0.7:443", "IN")), "the row's backend is IN"));
        let expect = "\
192.0.2.7:51000 -> 203.0.113.10:443/tcp  goes to 10.0.0.7:443 (IN, slot 3)
  because  the row's backend is IN
  vip      web, nat
  flow     not known: the lookup table decides
  row      812 of 65537, generation 4 since 0:01:02
  now      10.0.0.7:443 (IN, slot 3)
  before   docs:0 at 10.0.0.7:443 (OUT, slot 3)
";
        assert_eq!(text, expect);
    }

    #[test]
    fn a_translated_flow_shows_what_it_becomes() {
        let found = FlowFound::Translated {
            source: ([10, 0, 0, 1], 40_001).into(),
            target: ([10, 0, 0, 7], 8443).into(),
            idle_ms: 12,
            is_half_open: true,
            flags: vec!["client_finished".into()],
        };
        let text = flow(&report(found, Some(backend_of("10.0.0.7:443", "DRAINING")), "the flow is known"));
        let expect = "\
192.0.2.7:51000 -> 203.0.113.10:443/tcp  goes to 10.0.0.7:443 (DRAINING, slot 3)
  because  the flow is known
  vip      web, nat
  flow     translated, handshake not finished, last packet 12 ms ago, client finished
  becomes  10.0.0.1:40001 -> 10.0.0.7:8443
";
        assert_eq!(text, expect);
    }

    #[test]
    fn an_address_that_is_no_vip_goes_to_nobody() {
        let mut report = report(FlowFound::Nothing, None, "no VIP has this address, port and protocol");
        report.vip_name = None;
        let expect = "\
192.0.2.7:51000 -> 203.0.113.10:443/tcp  goes to nobody
  because  no VIP has this address, port and protocol
  vip      none
";
        assert_eq!(flow(&report), expect);
    }
}
