//! Runs one command: asks the master and prints its answers. Writes to standard output and reads the environment.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::args::{Arguments, Command, Selection};
use super::banner::Reach;
use super::exit::{CommandError, Exit};
use super::{check, doctor, event_lines, output_lines, run_dir, status_table, steering, up};
use crate::control::client::Client;
use crate::control::protocol::{Answer, Command as Question, FailureKind, ProcessState, StatusReport};
use crate::printable::printable;

/// Does what the command line asks for.
///
/// # Errors
/// When it could not be done, with the exit code that says why.
pub fn run(arguments: &Arguments) -> Result<Exit, CommandError> {
    let run_dir = chosen_run_dir(arguments);
    match &arguments.command {
        Command::Up => {
            let reach = Reach { options: &reach_options(arguments), width: terminal_width() };
            up::up(arguments.global.config.as_deref(), run_dir, &reach)
        }
        Command::Doctor { json } => doctor::doctor(&run_dir, *json, terminal_width()),
        Command::Status { names, json: true } => status_json(&run_dir, &names.names),
        Command::Status { names, json: false } => status(&run_dir, &names.names),
        Command::Stop { names, now } => ask(&run_dir, Question::Stop { names: selected(names), now: *now }),
        Command::Start { names } => ask(&run_dir, Question::Start { names: selected(names) }),
        Command::Restart { names, now } => {
            ask(&run_dir, Question::Restart { names: selected(names), now: *now })
        }
        Command::Drain { names } => ask(&run_dir, Question::Drain { names: selected(names) }),
        Command::Undrain { names } => ask(&run_dir, Question::Undrain { names: selected(names) }),
        Command::Reload => ask(&run_dir, Question::Reload),
        Command::Logs { names, tail } => {
            let (names, lines, follow) = (names.names.clone(), tail.lines, tail.follow);
            ask(&run_dir, Question::Logs { names, lines, follow })
        }
        Command::Events { tail } => ask(&run_dir, Question::Events { last: tail.lines, follow: tail.follow }),
        Command::Vip(vips) => steering::vip(&run_dir, vips),
        Command::Flow { command } => steering::flow(&run_dir, command),
        Command::Capture(capture) => steering::capture::capture(&run_dir, capture),
        Command::Completions { shell } => completions(*shell),
        Command::Version => print(&format!("lbctl {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Check { json } => check::check(arguments.global.config.as_deref(), *json, terminal_width()),
        Command::Schema => print(&crate::config::schema()),
    }
}

/// The run folder for these arguments.
fn chosen_run_dir(arguments: &Arguments) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
    run_dir::run_dir(arguments.global.run_dir.as_deref(), uid, runtime_dir.as_deref())
}

/// What must follow `lbctl` so that it reaches a master started with these arguments.
fn reach_options(arguments: &Arguments) -> String {
    let quoted = |path: &PathBuf| shell_words::quote(&path.to_string_lossy()).into_owned();
    let from_environment = std::env::var_os("LBCTL_RUN_DIR").is_some();
    let asked = arguments.global.run_dir.as_ref().filter(|_| !from_environment);
    asked.map(|path| format!(" --run-dir {}", quoted(path))).unwrap_or_default()
}

/// The names for the master, for which none means all. `all` is Supervisor's word for `--all`.
fn selected(selection: &Selection) -> Vec<String> {
    if selection.names == ["all"] { Vec::new() } else { selection.names.clone() }
}

/// Asks, prints what comes until the last answer.
fn ask(run_dir: &Path, question: Question) -> Result<Exit, CommandError> {
    let mut client = Client::ask(run_dir, question)?;
    while let Some(answer) = client.next_answer()? {
        show(answer)?;
    }
    Ok(Exit::Fine)
}

/// Prints one answer.
fn show(answer: Answer) -> Result<Exit, CommandError> {
    match answer {
        Answer::Done { lines } => {
            lines.iter().try_fold(Exit::Fine, |_, line| print(&format!("{}\n", printable(line))))
        }
        Answer::Failed { kind, message } => Err(CommandError::Refused { kind, message }),
        Answer::Line { instance, stream, text } => {
            print(&format!("{}\n", output_lines::output(&instance, &stream, &text)))
        }
        Answer::Event(record) => print(&format!("{}\n", event_lines::event(&record))),
        Answer::Status(_)
        | Answer::Doctor(_)
        | Answer::Vips(_)
        | Answer::Flow(_)
        | Answer::Frame(_)
        | Answer::More => Ok(Exit::Fine),
    }
}

/// `lbctl status` as tables.
fn status(run_dir: &Path, names: &[String]) -> Result<Exit, CommandError> {
    let Some(report) = status_report(run_dir, names)? else { return Ok(Exit::Unreachable) };
    print(&status_table::status(&report, terminal_width()))?;
    Ok(verdict(&report))
}

/// `lbctl status --json`.
fn status_json(run_dir: &Path, names: &[String]) -> Result<Exit, CommandError> {
    let Some(report) = status_report(run_dir, names)? else { return Ok(Exit::Unreachable) };
    let text = serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?;
    print(&format!("{text}\n"))?;
    Ok(verdict(&report))
}

/// The master's report; `None` after telling that there is no such name.
fn status_report(run_dir: &Path, names: &[String]) -> Result<Option<StatusReport>, CommandError> {
    let mut client = Client::ask(run_dir, Question::Status { names: names.to_vec() })?;
    match client.next_answer()? {
        Some(Answer::Status(report)) => Ok(Some(report)),
        Some(Answer::Failed { kind: FailureKind::NoSuchName, message }) => {
            anstream::eprintln!("lbctl: {}", printable(&message));
            Ok(None)
        }
        Some(Answer::Failed { kind, message }) => Err(CommandError::Refused { kind, message }),
        other => Err(anyhow::anyhow!("the master answered status with {other:?}").into()),
    }
}

/// The exit code that a status stands for.
fn verdict(report: &StatusReport) -> Exit {
    let running = |state| state == ProcessState::Running;
    let all = report.instances.iter().all(|instance| running(instance.process_state));
    if all { Exit::Fine } else { Exit::NotRunning }
}

/// The completion script of a shell.
fn completions(shell: clap_complete::Shell) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lbctl", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Fine)
}

/// Writes `text`, without its colours where standard output is not a terminal.
pub(super) fn print(text: &str) -> Result<Exit, CommandError> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(Exit::Fine)
}

/// Columns of the terminal; `None` where standard output is not one.
pub(super) fn terminal_width() -> Option<u16> {
    rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col).filter(|width| *width > 0)
}
