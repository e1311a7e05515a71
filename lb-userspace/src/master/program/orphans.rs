//! Reaps orphans where we are process 1, as in a container: processes that a program left, and that became our children.
//!
//! Effectful: reaps. Children of our own are left to those who wait for them by pidfd, so that nobody's status is taken away.

#![expect(clippy::disallowed_methods, reason = "comes by again for an orphan behind a child of our own")]

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};

/// Time for a child of our own to be reaped by those who wait for it, before we look for orphans behind it again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Children that somebody waits for.
static OURS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn ours() -> MutexGuard<'static, BTreeSet<u32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody waits for this child.
pub fn expect(pid: u32) {
    ours().insert(pid);
}

/// It has been reaped.
pub fn expect_no_more(pid: u32) {
    ours().remove(&pid);
}

/// Reaps orphans for as long as we live, if they come to us.
///
/// # Errors
/// When SIGCHLD cannot be listened to.
pub fn reap_if_first() -> std::io::Result<()> {
    if std::process::id() == 1 {
        let mut child_ended = signal(SignalKind::child())?;
        tokio::spawn(async move {
            while child_ended.recv().await.is_some() {
                while reap() == Next::IsOurs {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        });
    }
    Ok(())
}

/// What the kernel names first among those that have ended.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nobody.
    Nobody,
    /// A child of our own: whoever is behind it is not seen yet.
    IsOurs,
}

/// Reaps orphans until there is none, or a child of our own comes first.
fn reap() -> Next {
    while let Some(pid) = first_ended() {
        if ours().contains(&(pid.as_raw_nonzero().get() as u32)) {
            return Next::IsOurs;
        }
        log::debug!("orphan reaped pid={}", pid.as_raw_nonzero());
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
    Next::Nobody
}

/// A child that has ended and not been reaped; it is not reaped by this.
fn first_ended() -> Option<Pid> {
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `siginfo_t` is plain C data for which all zeroes is a valid value.
    let mut ended = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    // SAFETY: the kernel writes one `siginfo_t` to where the pointer leads, a live local.
    let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut ended, look) };
    if result != 0 {
        return None;
    }
    // SAFETY: after waitid the fields of SIGCHLD are there, or all is zero where nobody has ended.
    Pid::from_raw(unsafe { ended.si_pid() })
}
