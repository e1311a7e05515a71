//! The `lbctl` program: chooses which of its roles this process plays. The roles themselves are in the library.

use std::ffi::OsStr;
use std::process::ExitCode;

use lb_userspace::{cli, demo, master};

fn main() -> ExitCode {
    // The exec shim comes first: it changes what belongs to the whole process, and nothing may be in its way.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("__exec") => exec(),
        Some("demo-backend") => demo::backend::main(),
        _ => cli::main(),
    }
}

/// Becomes the program of an instance; returns only when that failed (127 as shells say it: not started).
fn exec() -> ExitCode {
    match master::program::exec_shim::exec_shim() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("lbctl: {error:#}");
            ExitCode::from(127)
        }
    }
}
