//! Why an instance or a backend gets no traffic, and what an operator does about it: the table that people keep in
//! their heads for `error.log`, as a function of the status report.

use super::columns::{Align, table};
use super::status_table::ending;
use crate::control::protocol::{BackendStatus, InstanceStatus, ProcessState, StatusReport};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The instance or `upstream/address`.
    pub name: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

/// The findings as a table, or a sentence that there are none.
pub fn findings(findings: &[Finding], width: Option<u16>) -> String {
    if findings.is_empty() {
        return "every instance is RUNNING and every backend is IN".to_owned();
    }
    let titles = [("NOT IN", Align::Left), ("WHY", Align::Fold), ("WHAT TO DO", Align::Fold)];
    let rows = findings.iter().map(|each| vec![each.name.clone(), each.why.clone(), each.remedy.clone()]);
    table(&titles, rows.collect(), width)
}

/// Everything in `report` that does not run or gets no traffic.
pub fn diagnose(report: &StatusReport) -> Vec<Finding> {
    let instances = report.instances.iter().filter_map(instance);
    let backends = report.backends.iter().filter(|backend| !backend.supervised).filter_map(backend);
    let workers = report.workers.is_empty().then(|| Finding {
        name: "worker".to_owned(),
        why: "no worker process runs: connections wait in the listening sockets".to_owned(),
        remedy: "see the master's log and `lbctl events`".to_owned(),
    });
    workers.into_iter().chain(instances).chain(backends).collect()
}

/// What is wrong with an instance.
fn instance(instance: &InstanceStatus) -> Option<Finding> {
    let name = &instance.name;
    let out = !matches!(instance.traffic_state.as_deref(), None | Some("IN" | "WARMING"));
    let remedy = match instance.process_state {
        ProcessState::Running if out => remedy(&instance.reason, name, instance.address.as_deref()),
        ProcessState::Running => return None,
        ProcessState::Stopped => format!("`lbctl start {name}`"),
        ProcessState::Exited => {
            format!("it ended by itself and is not to be restarted (autorestart): `lbctl start {name}`")
        }
        ProcessState::Starting => format!(
            "wait; if it stays so, the startup probe asks for something that it does not answer: `lbctl logs {name}`"
        ),
        ProcessState::Stopping => "wait; its drain and kill deadlines end it".to_owned(),
        ProcessState::Backoff => {
            format!("it is started again by itself; read why it ended: `lbctl logs {name}`")
        }
        ProcessState::Fatal => {
            format!("read why it ended (`lbctl logs {name}`), mend it, then `lbctl start {name}`")
        }
    };
    Some(Finding { name: name.clone(), why: instance_why(instance), remedy })
}

/// The state, the reason, and how its last life ended.
fn instance_why(instance: &InstanceStatus) -> String {
    let traffic = instance.traffic_state.iter().map(String::as_str);
    let states = std::iter::once(instance.process_state.name()).chain(traffic).collect::<Vec<_>>().join(" ");
    let mut why = format!("{states}: {}", instance.reason);
    if matches!(instance.process_state, ProcessState::Backoff | ProcessState::Fatal | ProcessState::Exited) {
        let ending = instance.ending.map(ending).filter(|ending| !why.contains(ending.as_str()));
        why.extend(ending.map(|ending| format!("; {ending}")));
        why.extend(instance.last_line.as_ref().map(|line| format!("; last line: {line}")));
    }
    why
}

/// What is wrong with a backend that we do not supervise.
fn backend(backend: &BackendStatus) -> Option<Finding> {
    if matches!(backend.traffic_state.as_str(), "IN" | "WARMING") {
        return None;
    }
    let name = format!("{}/{}", backend.upstream, backend.name);
    let why = format!("{}: {}", backend.traffic_state, backend.reason);
    let remedy = remedy(&backend.reason, &name, Some(&backend.address));
    Some(Finding { name, why, remedy })
}

/// What each reason asks an operator to do. First match wins.
fn remedy(reason: &str, name: &str, address: Option<&str>) -> String {
    let address = address.unwrap_or("its address");
    let says = |words: &[&str]| words.iter().any(|word| reason.to_lowercase().contains(word));
    if reason.starts_with("drained by ") {
        format!("an operator took it out: `lbctl undrain {name}`")
    } else if says(&["refused", "listen"]) {
        format!(
            "nothing listens at {address}: it is not started, listens on another port (`ss -ltnp`), or a firewall rejects"
        )
    } else if says(&["timeout", "timed out", "no answer"]) {
        format!(
            "{address} does not answer in time: slow backend or network; look at its load, or raise the timeout"
        )
    } else if says(&["unreachable", "no route"]) {
        format!("no way to {address}: check `ip route get` and the firewall")
    } else if says(&["reset", "closed"]) {
        format!("{address} breaks connections off: it crashes or is overloaded; read its log")
    } else if says(&["malformed", "not http"]) {
        format!("{address} does not speak HTTP/1.1: is it TLS, or another service's port?")
    } else if says(&["status"]) {
        "it answers, but not as the probe asks: see its log, or the probe's path and `status`".to_owned()
    } else if says(&["not found", "no such file"]) {
        format!("{address} does not exist: is the backend started, and is the path the one it uses?")
    } else {
        format!("see `lbctl events` for what happened to {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::WorkerStatus;

    fn check_reason(reason: &str, expect: &str) {
        let text = remedy(reason, "api/10.0.0.7:80", Some("10.0.0.7:80"));
        assert!(text.contains(expect), "{reason}: {text}");
    }

    #[test]
    fn each_reason_has_its_remedy() {
        check_reason("connect_refused after=2", "nothing listens at 10.0.0.7:80");
        check_reason("connect: Connection refused (os error 111)", "firewall");
        check_reason("response_timeout", "raise the timeout");
        check_reason("probe: timed out", "raise the timeout");
        check_reason("response_reset", "breaks connections off");
        check_reason("response_malformed", "does not speak HTTP");
        check_reason("status 503", "not as the probe asks");
        check_reason("drained by uid=0 pid=412", "lbctl undrain api/10.0.0.7:80");
        check_reason("listener closed", "nothing listens");
        check_reason("something new", "lbctl events");
    }

    #[test]
    fn a_healthy_node_has_no_findings() {
        let running = InstanceStatus {
            name: "docs:0".into(),
            process_state: ProcessState::Running,
            traffic_state: Some("IN".into()),
            ..InstanceStatus::default()
        };
        let workers = vec![WorkerStatus::default()];
        let report = StatusReport { instances: vec![running], workers, ..StatusReport::default() };
        assert_eq!(diagnose(&report), []);
    }

    #[test]
    fn a_fatal_instance_shows_its_last_line_and_how_to_go_on() {
        let fatal = InstanceStatus {
            name: "docs:0".into(),
            process_state: ProcessState::Fatal,
            reason: "failed 3 times".into(),
            last_line: Some("no such table".into()),
            ..InstanceStatus::default()
        };
        let finding = instance(&fatal).unwrap();
        assert_eq!(finding.why, "FATAL: failed 3 times; last line: no such table");
        assert!(finding.remedy.ends_with("then `lbctl start docs:0`"));
    }

    #[test]
    fn supervised_backends_are_told_once() {
        let backend =
            BackendStatus { supervised: true, traffic_state: "OUT".into(), ..BackendStatus::default() };
        let workers = vec![WorkerStatus::default()];
        let report = StatusReport { backends: vec![backend], workers, ..StatusReport::default() };
        assert_eq!(diagnose(&report), []);
    }
}
