//! Asking the master over its control socket, as `lbctl` does.

use std::path::Path;

use anyhow::bail;
use lb_userspace::control::client::Client;
use lb_userspace::control::protocol::{Answer, Command, EventRecord, InstanceStatus, StatusReport};

/// All answers to one command, the last included.
///
/// # Errors
/// When the master cannot be asked or does not answer.
pub fn ask(run_dir: &Path, command: Command) -> anyhow::Result<Vec<Answer>> {
    let mut client = Client::ask(run_dir, command)?;
    let mut answers = Vec::new();
    while let Some(answer) = client.next_answer()? {
        answers.push(answer);
    }
    Ok(answers)
}

/// The status of everything.
///
/// # Errors
/// As [`ask`], or when the master answers something else.
pub fn status(run_dir: &Path) -> anyhow::Result<StatusReport> {
    match ask(run_dir, Command::Status { names: vec![] })?.pop() {
        Some(Answer::Status(report)) => Ok(report),
        other => bail!("asked for the status, got {other:?}"),
    }
}

/// The last events kept by the master, oldest first.
///
/// # Errors
/// As [`ask`].
pub fn events(run_dir: &Path, last: usize) -> anyhow::Result<Vec<EventRecord>> {
    let answers = ask(run_dir, Command::Events { last, follow: false })?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| if let Answer::Event(event) = answer { Some(event) } else { None })
        .collect())
}

/// What tests ask of a status.
pub trait StatusExt {
    /// The instance of this name (`demo:0`).
    ///
    /// # Panics
    /// When there is none.
    fn instance(&self, name: &str) -> &InstanceStatus;
    /// Names of instances whose traffic state is IN.
    fn in_rotation(&self) -> Vec<&str>;
}

impl StatusExt for StatusReport {
    fn instance(&self, name: &str) -> &InstanceStatus {
        let found = self.instances.iter().find(|instance| instance.name == name);
        found.unwrap_or_else(|| panic!("no instance {name} in {self:#?}"))
    }

    fn in_rotation(&self) -> Vec<&str> {
        let is_in = |instance: &&InstanceStatus| instance.traffic_state.as_deref() == Some("IN");
        self.instances.iter().filter(is_in).map(|instance| instance.name.as_str()).collect()
    }
}
