//! The audit log: a line for every command that acts, with who, what and outcome. Only ever appended to.
//!
//! Effectful: writes a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::control::protocol::{Answer, Command};

/// The open log.
pub struct Audit {
    file: File,
}

/// Who asks, as the kernel says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id.
    pub pid: i32,
    /// The name of its program.
    pub program: String,
}

#[derive(Serialize)]
struct Entry<'a> {
    wall_ms: u64,
    uid: u32,
    pid: i32,
    program: &'a str,
    request: &'a Command,
    outcome: &'a str,
}

impl Audit {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).create(true).mode(0o600).open(path)? })
    }

    /// Writes a line, in one write so that lines stay whole.
    pub fn write(&self, peer: &Peer, command: &Command, outcome: &str) {
        let entry = Entry {
            wall_ms: wall_ms(),
            uid: peer.uid,
            pid: peer.pid,
            program: &peer.program,
            request: command,
            outcome,
        };
        let line = serde_json::to_string(&entry).map(|line| line + "\n").map_err(io::Error::from);
        if let Err(error) = line.and_then(|line| (&self.file).write_all(line.as_bytes())) {
            log::error!("audit log not written reason=\"{error}\"");
        }
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "people compare the audit log with their own clocks")]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Whether a command changes anything.
pub fn acts(command: &Command) -> bool {
    !matches!(
        command,
        Command::Status { .. }
            | Command::Logs { .. }
            | Command::Events { .. }
            | Command::Doctor
            | Command::Vips { .. }
            | Command::FlowLookup { .. }
    )
}

/// A last answer in one line.
pub fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Failed { message, .. } => format!("failed: {message}"),
        _ => "done".into(),
    }
}
