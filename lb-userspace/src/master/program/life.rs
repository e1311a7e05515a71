//! One life of a process, from its release by the exec shim to its last line: waits on the shim's socket and the pidfd.
//!
//! Effectful: reaps. Never `waitpid(-1)`: each process is waited for by its own pidfd, so no other's status is taken.

#![expect(clippy::disallowed_methods, reason = "waits for what a dead process left")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use super::cgroup::Leaf;
use super::fork::Released;
use crate::master::run_dir::RecordedProcess;
use crate::master::watched::watched;
use crate::state::event::Ending;

/// Time from the release of the shim to its exec.
const EXECUTED_WITHIN: Duration = Duration::from_secs(10);
/// Time to wait for processes that a dead one left behind, after they were killed.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(2);
/// Period of looking whether they are gone.
const LEFTOVERS_EVERY: Duration = Duration::from_millis(1);

/// A process of ours that has not been reaped, or was a moment ago.
pub struct Process {
    /// Its number; use it only to show it.
    pub pid: u32,
    pidfd: OwnedFd,
    leaf: Option<Leaf>,
    reaped: AtomicBool,
    recorded: OnceLock<Option<RecordedProcess>>,
}

impl Process {
    /// A process just forked, in this leaf.
    pub fn new(pid: u32, pidfd: OwnedFd, leaf: Option<Leaf>) -> Arc<Self> {
        Arc::new(Self { pid, pidfd, leaf, reaped: AtomicBool::new(false), recorded: OnceLock::new() })
    }

    /// What the run folder's record says of it; `None` where it ended before it was asked for.
    pub fn recorded(&self, name: &str) -> Option<RecordedProcess> {
        self.recorded.get_or_init(|| RecordedProcess::of(name, self.pid)).clone()
    }

    /// Its cgroup.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// An unknown signal, or what the operating system says; a process that has ended is no error.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(number).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("signal {number} is not known"))
        })?;
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Ends it and everything that came of it: its cgroup, or its process group where there is none.
    pub fn kill(&self) {
        let group = self.leaf.as_ref().is_some_and(|leaf| leaf.kill().is_ok());
        if !group && !self.reaped.load(Ordering::SeqCst) {
            // Not reaped, so neither its number nor that of its group can mean others.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
            if let Some(pid) = Pid::from_raw(self.pid as i32) {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
    }

    /// Waits until the process is executed, with a deadline.
    ///
    /// # Errors
    /// Why it is not: in words for operators.
    pub async fn executed(&self, released: Released) -> Result<(), String> {
        match tokio::time::timeout(EXECUTED_WITHIN, released.executed()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("the exec shim was not done after {} s", EXECUTED_WITHIN.as_secs())),
        }
    }

    /// Waits until the process has ended; calls `noticed` then, before anything else.
    ///
    /// # Errors
    /// What epoll says.
    pub async fn ended(&self, noticed: impl FnOnce()) -> io::Result<()> {
        let _ = watched(self.pidfd.try_clone()?)?.readable().await?;
        noticed();
        Ok(())
    }

    /// Ends a process that never became a program, and everything that reminds of it.
    pub fn abandon(self: Arc<Self>) {
        self.kill();
        tokio::spawn(async move {
            if self.ended(|| {}).await.is_ok() {
                self.reap().await;
            }
        });
    }

    /// Ends what the process left behind, reaps it, and tells how it ended. Call it after [`Self::ended`].
    pub async fn reap(&self) -> Ending {
        let oom_kills = self.leaf.as_ref().map_or(0, Leaf::oom_kills);
        // While it is a zombie its process group keeps its number.
        if self.leaf.is_none() {
            self.kill();
        }
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        self.reaped.store(true, Ordering::SeqCst);
        self.end_leftovers().await;
        match status {
            Ok(Some(status)) => ending(status.exit_status(), status.terminating_signal(), oom_kills),
            // Somebody else reaped it; we know that it ended, not how.
            _ => Ending::Code(-1),
        }
    }

    /// A new life must not meet children of the old one on its port.
    async fn end_leftovers(&self) {
        let Some(leaf) = &self.leaf else { return };
        if leaf.is_populated() {
            let _ = leaf.kill();
            let gone = async {
                while leaf.is_populated() {
                    tokio::time::sleep(LEFTOVERS_EVERY).await;
                }
            };
            if tokio::time::timeout(LEFTOVERS_WITHIN, gone).await.is_err() {
                log::warn!("processes left behind after kill cgroup={}", leaf.path().display());
            }
        }
        if let Err(error) = leaf.remove() {
            log::debug!("cgroup not removed yet cgroup={} reason=\"{error}\"", leaf.path().display());
        }
    }
}

fn ending(code: Option<i32>, signal: Option<i32>, oom_kills: u64) -> Ending {
    match (code, signal) {
        (_, Some(_)) if oom_kills > 0 => Ending::OutOfMemory,
        (_, Some(signal)) => Ending::Signal(signal),
        (Some(code), None) => Ending::Code(code),
        (None, None) => Ending::Code(-1),
    }
}

/// `exit code 1`, `signal 9`, `out of memory`.
pub fn describe(ending: Ending) -> String {
    match ending {
        Ending::Code(code) => format!("exit code {code}"),
        Ending::Signal(signal) => format!("signal {signal}"),
        Ending::OutOfMemory => "out of memory".into(),
    }
}
