//! `lbctl doctor`: what this host allows, what the master makes of it, and what is wrong now. Asks the master, if there is one.

use std::path::Path;

use anstyle::Style;
use serde_json::json;

use super::banner::capabilities;
use super::commands::print;
use super::diagnosis::{self, Finding};
use super::exit::{CommandError, Exit};
use super::{host_reading, steering_host};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Answer, Capability, Command, StatusReport};

/// What the master says.
struct Patient {
    capabilities: Vec<Capability>,
    /// Empty where there are no VIPs.
    steering: Vec<Capability>,
    findings: Vec<Finding>,
}

/// Prints the examination. No master is no failure: the host can be examined without one.
///
/// # Errors
/// When there is a master and it does not answer.
pub fn doctor(run_dir: &Path, json: bool, width: Option<u16>) -> Result<Exit, CommandError> {
    let mut host = host_reading::read().matrix();
    host.extend(host_reading::orphaned_pins().iter().map(steering_host::orphaned));
    let patient = match examine(run_dir) {
        Ok(patient) => Ok(patient),
        Err(CommandError::Client(error @ (ClientError::NotThere(_) | ClientError::Denied(_)))) => Err(error),
        Err(error) => return Err(error),
    };
    print(&if json { as_json(&host, &patient) } else { as_text(&host, &patient, width) })
}

/// Asks the master.
fn examine(run_dir: &Path) -> Result<Patient, CommandError> {
    let capabilities = match Client::ask(run_dir, Command::Doctor)?.next_answer()? {
        Some(Answer::Doctor(capabilities)) => capabilities,
        Some(Answer::Failed { kind, message }) => return Err(CommandError::Refused { kind, message }),
        other => return Err(anyhow::anyhow!("the master answered doctor with {other:?}").into()),
    };
    let report: StatusReport =
        match Client::ask(run_dir, Command::Status { names: Vec::new() })?.next_answer()? {
            Some(Answer::Status(report)) => report,
            Some(Answer::Failed { kind, message }) => return Err(CommandError::Refused { kind, message }),
            other => return Err(anyhow::anyhow!("the master answered status with {other:?}").into()),
        };
    let steering = match Client::ask(run_dir, Command::Vips { names: Vec::new() })?.next_answer()? {
        Some(Answer::Vips(vips)) if !vips.vips.is_empty() => {
            steering_host::matrix(&vips, &host_reading::read_for_steering(&vips))
        }
        _ => Vec::new(),
    };
    Ok(Patient { capabilities, steering, findings: diagnosis::diagnose(&report) })
}

/// Tables for people.
fn as_text(host: &[Capability], patient: &Result<Patient, ClientError>, width: Option<u16>) -> String {
    let bold = Style::new().bold();
    let section = |title: &str, body: &str| format!("{bold}{title}{bold:#}\n{body}\n");
    let mut parts = vec![section("this host, as this user", &capabilities(host, width))];
    match patient {
        Ok(patient) => {
            parts.push(section("the running master", &capabilities(&patient.capabilities, width)));
            if !patient.steering.is_empty() {
                parts.push(section("steering", &capabilities(&patient.steering, width)));
            }
            parts.push(section("traffic", &diagnosis::findings(&patient.findings, width)));
        }
        Err(error) => parts.push(section("the running master", &error.to_string())),
    }
    parts.join("\n")
}

/// The same for programs.
fn as_json(host: &[Capability], patient: &Result<Patient, ClientError>) -> String {
    let value = match patient {
        Ok(patient) => {
            let finding = |each: &Finding| json!({"name": each.name, "why": each.why, "remedy": each.remedy});
            let findings: Vec<_> = patient.findings.iter().map(finding).collect();
            json!({
                "host": host,
                "master": patient.capabilities,
                "steering": patient.steering,
                "findings": findings
            })
        }
        Err(error) => json!({"host": host, "master": null, "error": error.to_string()}),
    };
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    fn capability(on: bool) -> Capability {
        Capability { name: "bpf".into(), on, why: "because".into(), remedy: String::new() }
    }

    #[test]
    fn without_a_master_the_host_is_shown_all_the_same() {
        let text =
            as_text(&[capability(true)], &Err(ClientError::NotThere("/run/lbctl/control.sock".into())), None);
        let expect = "\
this host, as this user
NAME  STATE  WHY      WHAT TO CHANGE
bpf   on     because

the running master
cannot reach the master at /run/lbctl/control.sock: is it running? start it with \"lbctl up\"
";
        assert_eq!(strip_str(&text).to_string(), expect);
    }

    #[test]
    fn with_a_master_its_capabilities_and_findings_follow() {
        let finding = Finding { name: "docs:0".into(), why: "OUT".into(), remedy: "wait".into() };
        let patient = Patient {
            capabilities: vec![capability(false)],
            steering: vec![capability(true)],
            findings: vec![finding],
        };
        let text = as_text(&[capability(true)], &Ok(patient), None);
        let expect = "\
this host, as this user
NAME  STATE  WHY      WHAT TO CHANGE
bpf   on     because

the running master
NAME  STATE  WHY      WHAT TO CHANGE
bpf   off    because

steering
NAME  STATE  WHY      WHAT TO CHANGE
bpf   on     because

traffic
NOT IN  WHY  WHAT TO DO
docs:0  OUT  wait
";
        assert_eq!(strip_str(&text).to_string(), expect);
    }
}
