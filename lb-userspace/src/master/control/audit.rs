//! The audit log: for every command that acts, a line when it is asked for and one with its outcome; who is refused, and signals.
//!
//! Effectful: writes a file. Only ever appended to; at [`AUDIT_BYTES_MAX`] it begins anew, and what was there is kept once.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::append::{self, Place};
use crate::control::protocol::{Answer, Command};
use crate::limits::AUDIT_BYTES_MAX;

/// The audit log.
pub struct Audit {
    open: Mutex<Open>,
    next: AtomicU64,
}

/// A log that is open for appending.
pub struct Open {
    path: PathBuf,
    file: File,
    bytes: u64,
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

/// What both lines of one command have in common.
#[derive(Clone, Debug, Serialize)]
pub struct Act {
    id: u64,
    uid: u32,
    pid: i32,
    program: String,
    request: Command,
}

#[derive(Serialize)]
struct Line<'a, T> {
    wall_ms: u64,
    #[serde(flatten)]
    what: &'a T,
    outcome: &'a str,
}

#[derive(Serialize)]
struct Signal<'a> {
    id: u64,
    signal: &'a str,
}

impl Audit {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { open: Mutex::new(Open::at(path)?), next: AtomicU64::new(1) })
    }

    /// The log at another path, to be handed to [`Self::go_on_in`]; `None` where it is there already.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn elsewhere(&self, path: &Path) -> io::Result<Option<Open>> {
        if self.lock().path == path { Ok(None) } else { Open::at(path).map(Some) }
    }

    /// What comes is written there.
    pub fn go_on_in(&self, open: Open) {
        *self.lock() = open;
    }

    /// Opens it again under its name: it was moved away.
    ///
    /// # Errors
    /// What the operating system says, with the path. It goes on where it was then.
    pub fn reopen(&self) -> io::Result<()> {
        let path = self.lock().path.clone();
        self.go_on_in(Open::at(&path)?);
        Ok(())
    }

    /// A command that acts was asked for.
    pub fn received(&self, peer: &Peer, command: &Command) -> Act {
        let act = self.act(peer, command);
        self.write(&act, "received");
        act
    }

    /// What has become of it.
    pub fn ended(&self, act: &Act, outcome: &str) {
        self.write(act, outcome);
    }

    /// Who may not ask has asked.
    pub fn denied(&self, peer: &Peer, command: &Command) {
        self.write(&self.act(peer, command), "denied");
    }

    /// A signal came; the kernel does not say from whom.
    pub fn signalled(&self, signal: &str) {
        self.write(&Signal { id: self.number(), signal }, "received");
    }

    fn act(&self, peer: &Peer, command: &Command) -> Act {
        let program = peer.program.clone();
        Act { id: self.number(), uid: peer.uid, pid: peer.pid, program, request: command.clone() }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn write(&self, what: &impl Serialize, outcome: &str) {
        let line = serde_json::to_string(&Line { wall_ms: wall_ms(), what, outcome });
        let line = line.map(|line| line + "\n").map_err(io::Error::from);
        if let Err(error) = line.and_then(|line| self.lock().append(&line)) {
            log::error!("audit log not written reason=\"{error}\"");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Whoever panicked left whole lines behind.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let opened = append::open_private(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("audit log {}: {error}", path.display()));
        let (bytes, file) = opened.map_err(named)?;
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// In one write, so that lines stay whole.
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.bytes + line.len() as u64 > AUDIT_BYTES_MAX {
            self.begin_anew();
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Where that is not possible it goes on: a log that is too long is better than none.
    fn begin_anew(&mut self) {
        let rotated = Place::of(&self.path).and_then(|place| place.rotate(1));
        match rotated.and_then(|()| Self::at(&self.path)) {
            Ok(new) => *self = new,
            Err(error) => {
                log::error!("audit log not rotated reason=\"{error}\"");
                // To be tried again after as much.
                self.bytes = 0;
            }
        }
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "people compare the audit log with their own clocks")]
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A last answer in one line.
pub fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Failed { message, .. } => format!("failed: {message}"),
        _ => "done".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_begins_anew_when_it_is_full_and_what_was_there_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::fs::write(folder.path().join("audit.log.1"), "older").unwrap();
        let file = File::create(&path).unwrap();
        file.set_len(AUDIT_BYTES_MAX - 1).unwrap();
        let audit = Audit::open(&path).unwrap();
        audit.signalled("SIGHUP");
        let text = std::fs::read_to_string(&path).unwrap();
        let line = r#""signal":"SIGHUP","outcome":"received""#;
        assert!(text.lines().count() == 1 && text.contains(line), "{text}");
        assert_eq!(folder.path().join("audit.log.1").metadata().unwrap().len(), AUDIT_BYTES_MAX - 1);
    }

    #[test]
    fn moved_log_is_written_under_its_name_after_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::open(&path).unwrap();
        let peer = Peer { uid: 7, pid: 8, program: "curl".into() };
        audit.denied(&peer, &Command::Shutdown);
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        audit.reopen().unwrap();
        let act = audit.received(&peer, &Command::Reload);
        audit.ended(&act, "done");
        let text = std::fs::read_to_string(&path).unwrap();
        let who = r#""id":2,"uid":7,"pid":8,"program":"curl","request":{"command":"reload"},"outcome":"#;
        let outcomes = text.lines().map(|line| line.split_once(who).unwrap().1).collect::<Vec<_>>();
        assert_eq!(outcomes, [r#""received"}"#, r#""done"}"#]);
        let before = std::fs::read_to_string(folder.path().join("moved")).unwrap();
        assert!(before.contains(r#""command":"shutdown"},"outcome":"denied""#), "{before}");
    }
}
