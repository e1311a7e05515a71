//! The `lbctl` program: chooses which of its roles this process plays. The roles themselves are in the library.

use std::ffi::OsStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use lb_userspace::{cli, demo, master, worker};

fn main() -> ExitCode {
    // The exec shim comes first: it changes what belongs to the whole process, and nothing may be in its way.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("__exec") => exec(),
        Some("__worker") => work(),
        Some("__output") => keep_output(),
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

/// Serves on the link that the master left open.
fn work() -> ExitCode {
    cli::logging::start_queued();
    let outcome = match link().and_then(worker::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("worker: {error:#}");
            ExitCode::FAILURE
        }
    };
    log::logger().flush();
    outcome
}

/// Holds output pipes that come over the link that the master left open.
fn keep_output() -> ExitCode {
    let kept = link().and_then(|link| Ok(master::program::output::keeper::keep(&link)?));
    match kept {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbctl: keeper of output: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Our end of the link to the master.
fn link() -> anyhow::Result<OwnedFd> {
    const LINK: RawFd = 3;
    let open = std::fs::read_link(format!("/proc/self/fd/{LINK}"));
    let is_socket = open.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
    ensure!(is_socket, "descriptor {LINK} is not a link to a master: only `lbctl up` starts this");
    // SAFETY: the descriptor is open, and nothing in this process has taken it: this is the first thing that it does.
    let link = unsafe { OwnedFd::from_raw_fd(LINK) };
    rustix::io::fcntl_setfd(&link, rustix::io::FdFlags::CLOEXEC).context("mark the link close-on-exec")?;
    Ok(link)
}
