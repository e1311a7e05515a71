//! What `lbctl status` shows: a line on the node, a table of instances, a table of static backends.

use super::columns::{Align, table};
use super::spans::uptime;
use crate::control::protocol::{BackendStatus, InstanceStatus, ProcessState, StatusReport};
use crate::printable::printable;
use crate::state::event::Ending;

/// The whole picture. `width` is the terminal's, where there is one.
pub fn status(report: &StatusReport, width: Option<u16>) -> String {
    let mut parts = vec![node(report)];
    if !report.instances.is_empty() {
        parts.push(instances(&report.instances, width));
    }
    let fixed: Vec<_> = report.backends.iter().filter(|backend| !backend.supervised).collect();
    if !fixed.is_empty() {
        parts.push(backends(&fixed, width));
    }
    parts.join("\n\n") + "\n"
}

/// The master, its workers and its listeners, on one or two lines.
fn node(report: &StatusReport) -> String {
    let workers: Vec<_> = report.workers.iter().map(|worker| worker.pid.to_string()).collect();
    let workers = match workers.as_slice() {
        [] => "no worker".to_owned(),
        [pid] => format!("worker {pid}"),
        pids => format!("workers {}", pids.join(" ")),
    };
    let (pid, uptime, snapshot) = (report.master_pid, uptime(report.uptime_ms), report.snapshot);
    let listening = match report.listeners.as_slice() {
        [] => "nothing".to_owned(),
        listeners => listeners.join(" "),
    };
    printable(&format!(
        "{}  master {pid}  up {uptime}  {workers}  snapshot {snapshot}  listening on {listening}",
        report.node
    ))
}

/// One line for each instance of a program.
fn instances(instances: &[InstanceStatus], width: Option<u16>) -> String {
    let titles = [
        ("PROGRAM", Align::Left),
        ("INSTANCE", Align::Left),
        ("PID", Align::Right),
        ("PROCESS", Align::Left),
        ("TRAFFIC", Align::Left),
        ("UPTIME", Align::Right),
        ("RESTARTS", Align::Right),
        ("ACTIVE", Align::Right),
        ("ADDRESS", Align::Left),
        ("REASON", Align::Fold),
    ];
    table(&titles, instances.iter().map(instance).collect(), width)
}

/// The cells of an instance.
fn instance(instance: &InstanceStatus) -> Vec<String> {
    vec![
        instance.program.clone(),
        instance.name.clone(),
        dash(instance.pid),
        instance.process_state.name().to_owned(),
        dash(instance.traffic_state.clone()),
        dash(instance.uptime_ms.map(uptime)),
        instance.restarts.to_string(),
        instance.active.to_string(),
        dash(instance.address.clone()),
        reason(instance),
    ]
}

/// Why the instance is what it is; for one that failed, with how it ended and the last it said.
fn reason(instance: &InstanceStatus) -> String {
    let mut parts = vec![instance.reason.clone()];
    if matches!(instance.process_state, ProcessState::Backoff | ProcessState::Fatal | ProcessState::Exited) {
        parts.extend(instance.ending.map(ending).filter(|ending| !instance.reason.contains(ending.as_str())));
        parts.extend(instance.last_line.as_ref().map(|line| format!("last line: {line}")));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

/// How a process ended, in words.
pub fn ending(ending: Ending) -> String {
    match ending {
        Ending::Code(code) => format!("exit code {code}"),
        Ending::Signal(signal) => format!("signal {signal}"),
        Ending::OutOfMemory => "out of memory".to_owned(),
    }
}

/// One line for each backend that is not supervised.
fn backends(backends: &[&BackendStatus], width: Option<u16>) -> String {
    let titles = [
        ("UPSTREAM", Align::Left),
        ("BACKEND", Align::Left),
        ("TRAFFIC", Align::Left),
        ("WEIGHT", Align::Right),
        ("TIER", Align::Left),
        ("ACTIVE", Align::Right),
        ("REQUESTS", Align::Right),
        ("REASON", Align::Fold),
    ];
    table(&titles, backends.iter().map(|backend| self::backend(backend)).collect(), width)
}

/// The cells of a backend.
fn backend(backend: &BackendStatus) -> Vec<String> {
    vec![
        backend.upstream.clone(),
        backend.name.clone(),
        backend.traffic_state.clone(),
        backend.weight.to_string(),
        if backend.backup { "backup" } else { "main" }.to_owned(),
        backend.active.to_string(),
        backend.requests.to_string(),
        backend.reason.clone(),
    ]
}

/// The value, or a dash where there is none.
fn dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;
    use crate::control::protocol::WorkerStatus;

    fn report() -> StatusReport {
        let running = InstanceStatus {
            name: "docs:0".into(),
            program: "docs".into(),
            pid: Some(4711),
            process_state: ProcessState::Running,
            traffic_state: Some("IN".into()),
            address: Some("127.0.0.1:20000".into()),
            uptime_ms: Some(65_000),
            restarts: 2,
            active: 5,
            reason: "ready".into(),
            ..InstanceStatus::default()
        };
        let failing = InstanceStatus {
            name: "docs:1".into(),
            program: "docs".into(),
            process_state: ProcessState::Backoff,
            traffic_state: Some("OUT".into()),
            reason: "starts again in 2 s".into(),
            ending: Some(Ending::Code(3)),
            last_line: Some("no such table: users".into()),
            ..InstanceStatus::default()
        };
        let backend = BackendStatus {
            upstream: "api".into(),
            name: "10.0.0.7:80".into(),
            traffic_state: "OUT".into(),
            weight: 3,
            backup: true,
            requests: 12,
            reason: "connect_refused".into(),
            ..BackendStatus::default()
        };
        StatusReport {
            node: "edge-1".into(),
            master_pid: 100,
            uptime_ms: 3_600_000,
            snapshot: 4,
            workers: vec![WorkerStatus { pid: 101, ..WorkerStatus::default() }],
            instances: vec![running, failing],
            backends: vec![backend],
            listeners: vec!["0.0.0.0:80".into()],
            ..StatusReport::default()
        }
    }

    #[test]
    fn status_shows_node_instances_and_static_backends() {
        let expect = "\
edge-1  master 100  up 1:00:00  worker 101  snapshot 4  listening on 0.0.0.0:80

PROGRAM  INSTANCE   PID  PROCESS  TRAFFIC   UPTIME  RESTARTS  ACTIVE  ADDRESS          REASON
docs     docs:0    4711  RUNNING  IN       0:01:05         2       5  127.0.0.1:20000  ready
docs     docs:1       -  BACKOFF  OUT            -         0       0  -                starts again in 2 s; exit code 3; last line: no such table: users

UPSTREAM  BACKEND      TRAFFIC  WEIGHT  TIER    ACTIVE  REQUESTS  REASON
api       10.0.0.7:80  OUT           3  backup       0        12  connect_refused
";
        assert_eq!(strip_str(&status(&report(), None)).to_string(), expect);
    }

    #[test]
    fn an_empty_node_says_so() {
        let report = StatusReport { node: "edge-1".into(), master_pid: 1, ..StatusReport::default() };
        assert_eq!(
            status(&report, None),
            "edge-1  master 1  up 0:00:00  no worker  snapshot 0  listening on nothing\n"
        );
    }

    #[test]
    fn an_ending_that_the_reason_names_is_not_said_twice() {
        let instance = InstanceStatus {
            process_state: ProcessState::Fatal,
            reason: "exit code 3 after 4 starts".into(),
            ending: Some(Ending::Code(3)),
            ..InstanceStatus::default()
        };
        assert_eq!(reason(&instance), "exit code 3 after 4 starts");
    }
}
