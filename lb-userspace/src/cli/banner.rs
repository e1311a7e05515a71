//! What `lbctl up` says once it has started: what runs, what is in use, what to try.

use anstyle::{AnsiColor, Style};

use super::columns::{Align, table};
use crate::control::protocol::{Capability, InstanceStatus};
use crate::master::Started;

/// How an operator reaches this master: what must follow `lbctl` on the command line.
pub struct Reach<'a> {
    /// `""`, or ` --run-dir …` with its leading blank.
    pub options: &'a str,
    /// Columns of the terminal, where there is one.
    pub width: Option<u16>,
}

/// The whole of it.
pub fn banner(started: &Started, reach: &Reach<'_>) -> String {
    let mut parts = vec![headline(started), addresses(started)];
    if !started.instances.is_empty() {
        parts.push(instances(&started.instances, reach.width));
    }
    if !started.capabilities.is_empty() {
        parts.push(capabilities(&started.capabilities, reach.width));
    }
    parts.push(tries(started, reach.options));
    parts.join("\n\n") + "\n\n"
}

/// The node and how long it took.
fn headline(started: &Started) -> String {
    let bold = Style::new().bold();
    let took = started.took.as_secs_f64();
    let (style, word) = match started.ready {
        true => (AnsiColor::Green.on_default().bold(), "ready after"),
        false => (AnsiColor::Yellow.on_default().bold(), "not ready yet after"),
    };
    let version = env!("CARGO_PKG_VERSION");
    format!("{bold}lbctl {version}{bold:#}  node {}  {style}{word} {took:.2} s{style:#}", started.node)
}

/// Where it listens.
fn addresses(started: &Started) -> String {
    let listeners = started.listeners.iter().map(|(name, address)| format!("  {name:<12} http://{address}/"));
    let metrics = started
        .metrics
        .iter()
        .map(|at| format!("  {:<12} http://{at}/metrics  /healthz  /readyz", "metrics"));
    listeners.chain(metrics).collect::<Vec<_>>().join("\n")
}

/// One short line for each instance.
fn instances(instances: &[InstanceStatus], width: Option<u16>) -> String {
    let titles = [
        ("INSTANCE", Align::Left),
        ("PID", Align::Right),
        ("PROCESS", Align::Left),
        ("TRAFFIC", Align::Left),
        ("ADDRESS", Align::Left),
    ];
    let dash = || "-".to_owned();
    let row = |each: &InstanceStatus| {
        vec![
            each.name.clone(),
            each.pid.map_or_else(dash, |pid| pid.to_string()),
            each.process_state.name().to_owned(),
            each.traffic_state.clone().unwrap_or_else(dash),
            each.address.clone().unwrap_or_else(dash),
        ]
    };
    table(&titles, instances.iter().map(row).collect(), width)
}

/// The capability matrix: name, on or off, why, and what to change.
pub fn capabilities(capabilities: &[Capability], width: Option<u16>) -> String {
    let titles = [
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("WHY", Align::Fold),
        ("WHAT TO CHANGE", Align::Fold),
    ];
    let row = |each: &Capability| {
        let state = if each.on { "on" } else { "off" };
        vec![each.name.clone(), state.to_owned(), each.why.clone(), each.remedy.clone()]
    };
    table(&titles, capabilities.iter().map(row).collect(), width)
}

/// Three things to try; `options` reach this master.
fn tries(started: &Started, options: &str) -> String {
    let mut tries = Vec::new();
    if let Some((_, address)) = started.listeners.first() {
        tries.push((format!("curl -s http://{address}/headers"), "what a backend receives"));
    }
    if let Some(pid) = started.instances.iter().find_map(|each| each.pid) {
        let watch = format!("kill -9 {pid}; lbctl{options} status");
        tries.push((watch, "it is back at once, and no request fails"));
    }
    match started.instances.first() {
        Some(first) => {
            let restart = format!("lbctl{options} restart {}", first.program);
            tries.push((restart, "one instance after the other, each drained first"));
        }
        None => tries.push((format!("lbctl{options} status"), "what is, and why")),
    }
    let wide = tries.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let (bold, cyan) = (Style::new().bold(), AnsiColor::Cyan.on_default());
    let lines = tries.iter().map(|(command, what)| format!("\n  {cyan}{command:<wide$}{cyan:#}  {what}"));
    format!("{bold}try{bold:#}{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anstream::adapter::strip_str;

    use super::*;
    use crate::control::protocol::ProcessState;

    #[test]
    fn banner_names_addresses_instances_capabilities_and_three_things_to_try() {
        let instance = InstanceStatus {
            name: "demo:0".into(),
            program: "demo".into(),
            pid: Some(4711),
            process_state: ProcessState::Running,
            traffic_state: Some("IN".into()),
            address: Some("127.0.0.1:20000".into()),
            ..InstanceStatus::default()
        };
        let capability = Capability {
            name: "exit_watch".into(),
            on: false,
            why: "not root".into(),
            remedy: "start as root".into(),
        };
        let started = Started {
            node: "edge-1".into(),
            listeners: vec![("web".into(), ([127, 0, 0, 1], 8080).into())],
            metrics: Some(([127, 0, 0, 1], 9901).into()),
            instances: vec![instance],
            capabilities: vec![capability],
            ready: true,
            took: Duration::from_millis(84),
        };
        let expect = "\
lbctl 0.1.0  node edge-1  ready after 0.08 s

  web          http://127.0.0.1:8080/
  metrics      http://127.0.0.1:9901/metrics  /healthz  /readyz

INSTANCE   PID  PROCESS  TRAFFIC  ADDRESS
demo:0    4711  RUNNING  IN       127.0.0.1:20000

NAME        STATE  WHY       WHAT TO CHANGE
exit_watch  off    not root  start as root

try
  curl -s http://127.0.0.1:8080/headers        what a backend receives
  kill -9 4711; lbctl --run-dir /tmp/x status  it is back at once, and no request fails
  lbctl --run-dir /tmp/x restart demo          one instance after the other, each drained first

";
        let text = banner(&started, &Reach { options: " --run-dir /tmp/x", width: None });
        assert_eq!(strip_str(&text).to_string(), expect);
    }
}
