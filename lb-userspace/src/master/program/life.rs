//! One life of a process, from its release by the exec shim to its last line: waits on the shim's socket and the pidfd.
//!
//! Effectful: reaps. Never `waitpid(-1)`: each process is waited for by its own pidfd, so no other's status is taken.

#![expect(clippy::disallowed_methods, reason = "waits for what a dead process left")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::unix::AsyncFd;

use super::cgroup::Leaf;
use super::fork::Released;
use super::orphans;
use crate::master::run_dir::RecordedProcess;
use crate::master::watched::watched;
use crate::state::event::Ending;

/// Time for an ended process to give its status; one that is traced does so only when its tracer lets it.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// First period of looking for it; doubled each time.
const STATUS_EVERY_MIN: Duration = Duration::from_millis(1);
/// Longest period.
const STATUS_EVERY_MAX: Duration = Duration::from_secs(1);
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
    /// Registered when the process is made: to hear of its end must not depend on what else is open then.
    pidfd: AsyncFd<OwnedFd>,
    leaf: Option<Leaf>,
    reaped: AtomicBool,
    recorded: OnceLock<Option<RecordedProcess>>,
}

impl Process {
    /// A process just forked, in this leaf.
    ///
    /// # Errors
    /// What epoll says. The process is ended then.
    pub fn new(pid: u32, pidfd: OwnedFd, leaf: Option<Leaf>) -> io::Result<Arc<Self>> {
        orphans::expect(pid);
        let pidfd = watched(pidfd).inspect_err(|_| end_unwatched(pid))?;
        Ok(Arc::new(Self { pid, pidfd, leaf, reaped: AtomicBool::new(false), recorded: OnceLock::new() }))
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
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Ends it and everything that came of it: its cgroup, its process group and itself, since it may have left the former two.
    pub fn kill(&self) {
        // Where there is no `cgroup.kill` the group has to do.
        let _ = self.leaf.as_ref().map(Leaf::kill);
        if !self.reaped.load(Ordering::SeqCst) {
            // Not reaped, so neither its number nor that of its group can mean others.
            let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
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
        // Never cleared: it stays ended.
        let _ = self.pidfd.readable().await?;
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
    pub async fn reap(self: &Arc<Self>) -> Ending {
        let oom_kills = self.leaf.as_ref().map_or(0, Leaf::oom_kills);
        // While it is a zombie its process group keeps its number.
        if self.leaf.is_none() {
            self.kill();
        }
        let status = tokio::time::timeout(STATUS_WITHIN, self.status()).await;
        if status.is_err() {
            log::warn!("ended process not reaped yet, is it traced? pid={}", self.pid);
            let process = self.clone();
            tokio::spawn(async move { process.status().await });
        }
        self.end_leftovers().await;
        match status {
            Ok(Some(status)) => ending(status.exit_status(), status.terminating_signal(), oom_kills),
            // Somebody else reaped it, or keeps us from it; we know that it ended, not how.
            Ok(None) | Err(_) => Ending::Code(-1),
        }
    }

    /// Its status, as soon as it gives it; `None` where somebody else took it.
    async fn status(&self) -> Option<WaitIdStatus> {
        let status = status(|| WaitId::PidFd(self.pidfd.get_ref().as_fd())).await;
        self.reaped.store(true, Ordering::SeqCst);
        orphans::expect_no_more(self.pid);
        status
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

/// Asks until there is an answer, and never waits for it in the kernel: the loop would wait with us.
async fn status<'fd>(who: impl Fn() -> WaitId<'fd>) -> Option<WaitIdStatus> {
    let mut every = STATUS_EVERY_MIN;
    loop {
        match rustix::process::waitid(who(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) => tokio::time::sleep(every).await,
            other => return other.ok().flatten(),
        }
        every = (every * 2).min(STATUS_EVERY_MAX);
    }
}

/// Ends a child that has no pidfd that could be waited for. It has not been reaped, so its number is its own.
pub fn end_unwatched(pid: u32) {
    let Some(child) = Pid::from_raw(pid as i32) else { return };
    let _ = rustix::process::kill_process(child, Signal::KILL);
    orphans::expect(pid);
    tokio::spawn(async move {
        status(|| WaitId::Pid(child)).await;
        orphans::expect_no_more(pid);
    });
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
