//! What `lbctl vip` shows: VIPs with rates, their backends with shares, and what was dropped or answered.

use lb_common::verdict::Reason;

use super::quantity::quantity;
use crate::cli::columns::{Align, table};
use crate::control::protocol::steering::{ReasonCount, TableUse, VipBackend, VipReport, VipStatus};

/// The tables. Rates are the difference of two reports; `width` is the terminal's, where there is one.
pub fn vips(before: &VipReport, now: &VipReport, width: Option<u16>) -> String {
    if now.vips.is_empty() {
        return "no VIP is configured\n".to_owned();
    }
    let rates = Rates { before, seconds: now.at_ns.saturating_sub(before.at_ns) as f64 / 1e9 };
    let mut parts = vec![vip_rows(now, &rates, width)];
    if now.vips.iter().any(|vip| !vip.backends.is_empty()) {
        parts.push(backend_rows(now, &rates, width));
    }
    if !now.reasons.is_empty() {
        parts.push(reason_rows(&now.reasons, &rates, width));
    }
    parts.extend((!now.tables.is_empty()).then(|| uses(&now.tables)));
    parts.join("\n\n") + "\n"
}

/// How fast counts grow.
struct Rates<'a> {
    before: &'a VipReport,
    seconds: f64,
}

impl Rates<'_> {
    /// Per second, of a count that was `before` (0 where it did not exist yet) and is `now`. A count that was reset has no rate.
    fn rate(&self, before: Option<u64>, now: u64) -> String {
        let grown = now.checked_sub(before.unwrap_or(now));
        match grown.filter(|_| self.seconds > 0.0) {
            Some(grown) => quantity(grown as f64 / self.seconds),
            None => "-".to_owned(),
        }
    }

    fn vip(&self, name: &str) -> Option<&VipStatus> {
        self.before.vips.iter().find(|vip| vip.name == name)
    }
}

fn vip_rows(now: &VipReport, rates: &Rates<'_>, width: Option<u16>) -> String {
    let titles = [
        ("VIP", Align::Left),
        ("ADDRESS", Align::Left),
        ("FORWARD", Align::Left),
        ("ON", Align::Left),
        ("PACKETS/S", Align::Right),
        ("BYTES/S", Align::Right),
        ("NEW FLOWS/S", Align::Right),
        ("FLOWS", Align::Right),
        ("DROPPED/S", Align::Right),
        ("PACKETS", Align::Right),
        ("BYTES", Align::Right),
    ];
    let row = |vip: &VipStatus| {
        let was = rates.vip(&vip.name);
        let rate = |count: fn(&VipStatus) -> u64| rates.rate(was.map(count), count(vip));
        vec![
            vip.name.clone(),
            format!("{}/{}", vip.address, vip.protocol),
            vip.forward.clone(),
            place(vip),
            rate(|vip| vip.packets),
            rate(|vip| vip.bytes),
            rate(|vip| vip.new_flows),
            vip.flows.map_or_else(|| "-".to_owned(), |flows| flows.to_string()),
            rate(|vip| vip.dropped),
            quantity(vip.packets as f64),
            quantity(vip.bytes as f64),
        ]
    };
    table(&titles, now.vips.iter().map(row).collect(), width)
}

/// Interface and mode.
fn place(vip: &VipStatus) -> String {
    match vip.interface.as_str() {
        "" => vip.mode.clone(),
        interface => format!("{interface} {}", vip.mode),
    }
}

fn backend_rows(now: &VipReport, rates: &Rates<'_>, width: Option<u16>) -> String {
    let titles = [
        ("VIP", Align::Left),
        ("BACKEND", Align::Left),
        ("TRAFFIC", Align::Left),
        ("WEIGHT", Align::Right),
        ("SHARE", Align::Right),
        ("PACKETS/S", Align::Right),
        ("BYTES/S", Align::Right),
        ("NEW FLOWS/S", Align::Right),
        ("NOTE", Align::Fold),
    ];
    let row = |vip: &VipStatus, backend: &VipBackend| {
        let was =
            rates.vip(&vip.name).and_then(|vip| vip.backends.iter().find(|was| was.slot == backend.slot));
        let rate = |count: fn(&VipBackend) -> u64| rates.rate(was.map(count), count(backend));
        vec![
            vip.name.clone(),
            backend.name.clone(),
            backend.traffic_state.clone(),
            backend.weight.to_string(),
            share(backend.rows, vip.rows),
            rate(|backend| backend.packets),
            rate(|backend| backend.bytes),
            rate(|backend| backend.new_flows),
            backend.trouble.clone(),
        ]
    };
    let rows = now.vips.iter().flat_map(|vip| vip.backends.iter().map(move |backend| row(vip, backend)));
    table(&titles, rows.collect(), width)
}

/// Of new flows: the part of the lookup table that leads to the backend.
fn share(rows: u32, of: u32) -> String {
    match of {
        0 => "-".to_owned(),
        of => format!("{:.1} %", f64::from(rows) * 100.0 / f64::from(of)),
    }
}

fn reason_rows(reasons: &[ReasonCount], rates: &Rates<'_>, width: Option<u16>) -> String {
    let titles = [
        ("DROPPED, ANSWERED", Align::Left),
        ("PACKETS/S", Align::Right),
        ("PACKETS", Align::Right),
        ("MEANING", Align::Fold),
    ];
    let row = |each: &ReasonCount| {
        let was = rates.before.reasons.iter().find(|was| was.reason == each.reason);
        vec![
            each.reason.clone(),
            rates.rate(Some(was.map_or(0, |was| was.packets)), each.packets),
            quantity(each.packets as f64),
            meaning(&each.reason).to_owned(),
        ]
    };
    table(&titles, reasons.iter().map(row).collect(), width)
}

/// A sentence; empty for a reason of a newer master.
fn meaning(name: &str) -> &'static str {
    Reason::ALL.into_iter().find(|reason| reason.name() == name).map_or("", Reason::text)
}

/// One line for all tables.
fn uses(tables: &[TableUse]) -> String {
    let one = |table: &TableUse| match table.entries {
        Some(entries) => {
            let (entries, most) = (quantity(entries as f64), quantity(table.entries_max as f64));
            format!("{} {entries} of {most}", table.name)
        }
        None => format!("{} room for {}", table.name, quantity(table.entries_max as f64)),
    };
    format!("tables: {}", tables.iter().map(one).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    fn report(at_s: u64, packets: u64) -> VipReport {
        let backend = |slot: u32, state: &str, rows: u32| VipBackend {
            slot,
            name: format!("10.0.0.{slot}:443"),
            traffic_state: state.into(),
            weight: rows / 100,
            rows,
            packets: packets / 2,
            bytes: packets * 40,
            new_flows: 10 * at_s,
            trouble: if slot == 8 { "no neighbour at 10.0.0.8".into() } else { String::new() },
            ..VipBackend::default()
        };
        let web = VipStatus {
            name: "web".into(),
            address: "203.0.113.10:443".into(),
            protocol: "tcp".into(),
            forward: "nat".into(),
            interface: "eth0".into(),
            mode: "native".into(),
            rows: 400,
            packets,
            bytes: packets * 80,
            new_flows: 20 * at_s,
            flows: Some(1234),
            dropped: 0,
            backends: vec![backend(7, "IN", 300), backend(8, "OUT", 100)],
            ..VipStatus::default()
        };
        let reason = ReasonCount { reason: "denied".into(), is_answer: false, packets: 5 * at_s };
        let table = |name: &str, entries| TableUse { name: name.into(), entries, entries_max: 524_288 };
        VipReport {
            at_ns: at_s * 1_000_000_000,
            vips: vec![web],
            reasons: vec![reason],
            tables: vec![table("nat", Some(2468)), table("flows", None)],
            ..VipReport::default()
        }
    }

    #[test]
    fn rates_are_the_difference_of_two_reports() {
        let text = vips(&report(10, 1_000_000), &report(12, 3_000_000), None);
        let expect = "\
VIP  ADDRESS               FORWARD  ON           PACKETS/S  BYTES/S  NEW FLOWS/S  FLOWS  DROPPED/S  PACKETS  BYTES
web  203.0.113.10:443/tcp  nat      eth0 native      1.00M    80.0M           20   1234          0    3.00M   240M

VIP  BACKEND       TRAFFIC  WEIGHT   SHARE  PACKETS/S  BYTES/S  NEW FLOWS/S  NOTE
web  10.0.0.7:443  IN            3  75.0 %       500k    40.0M           10
web  10.0.0.8:443  OUT           1  25.0 %       500k    40.0M           10  no neighbour at 10.0.0.8

DROPPED, ANSWERED  PACKETS/S  PACKETS  MEANING
denied                     5       60  the source is in the deny list, or not in the allow list

tables: nat 2.47k of 524k, flows room for 524k
";
        assert_eq!(strip_str(&text).to_string(), expect);
    }

    #[test]
    fn a_count_that_began_again_has_no_rate() {
        let text = strip_str(&vips(&report(10, 1_000), &report(12, 10), None)).to_string();
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains("native          -        -           20"), "{row}");
    }

    #[test]
    fn a_node_without_vips_says_so() {
        assert_eq!(vips(&VipReport::default(), &VipReport::default(), None), "no VIP is configured\n");
    }
}
