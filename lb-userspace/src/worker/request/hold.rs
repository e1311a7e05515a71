//! Keeps a request waiting while no backend of its upstream is in rotation.
//!
//! Effectful: waits.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::pick;
use crate::limits::HELD_MAX;
use crate::reason::Reason;
use crate::worker::metrics::UpstreamMetrics;
use crate::worker::served::LocalUpstream;
use crate::worker::thread::Thread;

/// How often the table is looked at although nobody said that it changed: a lost message must not cost a request.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Held requests of the worker for each of which the period above grows by itself, so that looking stays cheap.
const HELD_PER_LOOK: u32 = 256;

/// Returns when somebody may take the request.
///
/// # Errors
/// The reason of the answer when nobody did in time, or nobody may wait.
pub async fn hold(thread: &Rc<Thread>, upstream: &LocalUpstream, since: Instant) -> Result<(), Reason> {
    let hold_timeout = upstream.shared.hold_timeout;
    if hold_timeout.is_zero() {
        return Err(Reason::NoBackend);
    }
    let _held = Held::count(thread, &upstream.metrics)?;
    let until = since + hold_timeout;
    let anyone_in = || pick::anyone_in(&thread.shared.table, upstream);
    while !anyone_in() {
        if pick::all_given_up(&thread.shared.table, upstream) {
            return Err(Reason::NoBackend);
        }
        if Instant::now() >= until {
            return Err(Reason::HeldTooLong);
        }
        wait_for_change(thread, until).await;
    }
    Ok(())
}

/// Waits until the table may have changed, or it is time to look again, or `until`.
pub async fn wait_for_change(thread: &Rc<Thread>, until: Instant) {
    let held = thread.shared.held.load(Ordering::Relaxed) as u32;
    let look = Instant::now() + LOOK_EVERY * (1 + held / HELD_PER_LOOK);
    let _ = timeout_at(look.min(until), thread.changed.notified()).await;
}

/// One of at most [`HELD_MAX`].
struct Held<'a>(&'a Thread, &'a UpstreamMetrics);

impl<'a> Held<'a> {
    fn count(thread: &'a Thread, metrics: &'a UpstreamMetrics) -> Result<Self, Reason> {
        metrics.held.add(1);
        metrics.held_total.add(1);
        let held = Self(thread, metrics);
        if thread.shared.held.fetch_add(1, Ordering::Relaxed) >= HELD_MAX {
            return Err(Reason::HeldTooMany);
        }
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.shared.held.fetch_sub(1, Ordering::Relaxed);
        self.1.held.subtract(1);
    }
}
