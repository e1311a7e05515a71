//! `lbctl`'s commands: they ask the master, and show what it says. Only `up` becomes the master itself.

pub mod args;
pub mod exit;
pub mod logging;
pub mod run_dir;

mod banner;
mod check;
mod columns;
mod commands;
mod diagnosis;
mod doctor;
mod ethtool;
mod event_lines;
mod host;
mod host_reading;
mod output_lines;
pub(crate) mod spans;
mod status_table;
mod steering;
mod steering_host;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::printable::printable_lines;
use exit::{CommandError, Exit};

/// The whole life of an `lbctl` command.
pub fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    match arguments.command {
        args::Command::Up => logging::start_queued(),
        _ => logging::start(),
    }
    let outcome = commands::run(&arguments);
    log::logger().flush();
    let exit = outcome.unwrap_or_else(|error| {
        report(&error);
        error.exit()
    });
    ExitCode::from(exit as u8)
}

/// Tells the operator, unless nobody reads any more. A report of several lines stands alone, so that its carets stay in place.
fn report(error: &CommandError) {
    let style = anstyle::AnsiColor::Red.on_default().bold();
    let message = match error {
        // As the master says it; our own may be in colours.
        CommandError::Refused { message, .. } => printable_lines(message),
        error => error.to_string(),
    };
    match error.exit() {
        Exit::Fine => {}
        _ if message.trim_end().contains('\n') => anstream::eprintln!("{}", message.trim_end()),
        _ => anstream::eprintln!("{style}lbctl:{style:#} {message}"),
    }
}
