//! The commands about steering: `lbctl vip`, `lbctl flow`, `lbctl capture`. Ask the master; `capture` writes a file.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use super::args::{FlowCommand, VipCommand, Vips};
use super::commands::{print, terminal_width};
use super::exit::{CommandError, Exit};
use crate::control::client::Client;
use crate::control::protocol::steering::{FlowReport, VipReport};
use crate::control::protocol::{Answer, Command, FailureKind};

pub mod endpoint;

pub(super) mod backend_setup;
pub(super) mod capture;
mod flow_text;
mod pcapng;
mod quantity;
mod vip_table;

/// Rates of one table are measured over so long.
const MEASURED_OVER: Duration = Duration::from_millis(500);
/// Time between two tables of `--watch`.
const WATCHED_EVERY: Duration = Duration::from_secs(1);
/// Clears a terminal: cursor home, erase to the end (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[J";

/// `lbctl vip`.
///
/// # Errors
/// When the master cannot be asked or refuses.
pub fn vip(run_dir: &Path, vips: &Vips) -> Result<Exit, CommandError> {
    match &vips.command {
        Some(VipCommand::BackendSetup { name }) => setup(run_dir, name),
        None => show(run_dir, vips),
    }
}

fn show(run_dir: &Path, vips: &Vips) -> Result<Exit, CommandError> {
    let Some(mut before) = report(run_dir, &vips.names)? else { return Ok(Exit::Unreachable) };
    if vips.json && !vips.watch {
        return json(&before);
    }
    let mut wait = MEASURED_OVER;
    loop {
        std::thread::sleep(wait);
        let Some(now) = report(run_dir, &vips.names)? else { return Ok(Exit::Unreachable) };
        match vips.json {
            true => print(&format!("{}\n", serde_json::to_string(&now).map_err(anyhow::Error::from)?))?,
            false => {
                let clear = if vips.watch && std::io::stdout().is_terminal() { CLEAR } else { "" };
                print(&format!("{clear}{}", vip_table::vips(&before, &now, terminal_width())))?
            }
        };
        if !vips.watch {
            return Ok(verdict(&now));
        }
        (before, wait) = (now, WATCHED_EVERY);
    }
}

fn json(report: &VipReport) -> Result<Exit, CommandError> {
    print(&format!("{}\n", serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?))?;
    Ok(verdict(report))
}

/// Whether each VIP has somebody to send new flows to. Who has those of a local one is not the kernel program's to know.
fn verdict(report: &VipReport) -> Exit {
    let serves = report.vips.iter().all(|vip| {
        let takes_new = |state: &str| matches!(state, "IN" | "WARMING");
        vip.forward == "local" || vip.backends.iter().any(|backend| takes_new(&backend.traffic_state))
    });
    if serves { Exit::Fine } else { Exit::NotRunning }
}

/// The master's report; `None` after telling that there is no such VIP.
fn report(run_dir: &Path, names: &[String]) -> Result<Option<VipReport>, CommandError> {
    match Client::ask(run_dir, Command::Vips { names: names.to_vec() })?.next_answer()? {
        Some(Answer::Vips(report)) => Ok(Some(report)),
        Some(Answer::Failed { kind: FailureKind::NoSuchName, message }) => {
            anstream::eprintln!("lbctl: {message}");
            Ok(None)
        }
        other => Err(unexpected("vip", other)),
    }
}

fn setup(run_dir: &Path, name: &str) -> Result<Exit, CommandError> {
    let Some(report) = report(run_dir, &[name.to_owned()])? else { return Ok(Exit::Unreachable) };
    report
        .vips
        .iter()
        .try_for_each(|vip| print(&backend_setup::commands(vip, &report.interfaces)).map(drop))?;
    Ok(Exit::Fine)
}

/// `lbctl flow`.
///
/// # Errors
/// When the master cannot be asked or refuses.
pub fn flow(run_dir: &Path, command: &FlowCommand) -> Result<Exit, CommandError> {
    let FlowCommand::Lookup { client, vip, json } = command;
    let question = Command::FlowLookup { client: *client, vip: vip.address, transport: vip.transport };
    let report: Box<FlowReport> = match Client::ask(run_dir, question)?.next_answer()? {
        Some(Answer::Flow(report)) => report,
        other => return Err(unexpected("flow lookup", other)),
    };
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?))?,
        false => print(&flow_text::flow(&report))?,
    };
    Ok(if report.backend.is_some() { Exit::Fine } else { Exit::NotRunning })
}

/// What stands for an answer that says no, or something else than was asked.
pub(super) fn unexpected(asked: &str, answer: Option<Answer>) -> CommandError {
    match answer {
        Some(Answer::Failed { kind, message }) => CommandError::Refused { kind, message },
        other => anyhow::anyhow!("the master answered {asked} with {other:?}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::steering::{VipBackend, VipStatus};

    fn check(states: &[&str], expect: Exit) {
        let backend = |state: &&str| VipBackend { traffic_state: (*state).into(), ..VipBackend::default() };
        let vip = VipStatus { backends: states.iter().map(backend).collect(), ..VipStatus::default() };
        assert_eq!(verdict(&VipReport { vips: vec![vip], ..VipReport::default() }), expect, "{states:?}");
    }

    #[test]
    fn a_vip_that_nobody_serves_has_an_exit_code_of_its_own() {
        check(&["OUT", "IN"], Exit::Fine);
        check(&["WARMING"], Exit::Fine);
        check(&["OUT", "DRAINING"], Exit::NotRunning);
        check(&[], Exit::NotRunning);
        let local = VipStatus { forward: "local".into(), ..VipStatus::default() };
        assert_eq!(verdict(&VipReport { vips: vec![local], ..VipReport::default() }), Exit::Fine);
    }
}
