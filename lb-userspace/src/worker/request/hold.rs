//! Keeps a request waiting while no backend of its upstream is in rotation.
//!
//! Effectful: waits.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::pick;
use super::record::Record;
use crate::limits::HELD_MAX;
use crate::reason::Reason;
use crate::worker::metrics::UpstreamMetrics;
use crate::worker::place::Place;
use crate::worker::served::LocalUpstream;
use crate::worker::shared::Shared;
use crate::worker::thread::Thread;

/// How often the table is looked at although nobody said that it changed: a lost message must not cost a request.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Held requests of the worker for each of which the period above grows by itself, so that looking stays cheap.
const HELD_PER_LOOK: u32 = 256;
/// Places that every upstream may use, whoever has them; the others are divided among the upstreams.
const HELD_COMMON: usize = HELD_MAX / 2;

/// Returns when somebody may take the request.
///
/// # Errors
/// The reason of the answer when nobody did in time, or nobody may wait.
pub async fn hold(record: &mut Record, since: Instant) -> Result<(), Reason> {
    let thread = record.thread.clone();
    let mut held = None;
    loop {
        let upstream = record.look_again().ok_or(Reason::NoRoute)?;
        let table = &thread.shared.table;
        if pick::anyone_in(table, &upstream) {
            return Ok(());
        }
        if pick::all_given_up(table, &upstream) {
            return Err(Reason::NoBackend);
        }
        let hold_timeout = upstream.shared.hold_timeout;
        if hold_timeout.is_zero() {
            let is_starting = pick::anyone_starting(table, &upstream);
            return Err(if is_starting { Reason::BackendStarting } else { Reason::NoBackend });
        }
        if held.is_none() {
            held = Some(Held::count(&thread, &upstream)?);
        }
        if Instant::now() >= since + hold_timeout {
            return Err(Reason::HeldTooLong);
        }
        if record.client.has_left() {
            return Err(Reason::ClientAborted);
        }
        wait_for_change(&thread, since + hold_timeout).await;
    }
}

/// Waits until the table may have changed, or it is time to look again, or `until`.
pub async fn wait_for_change(thread: &Rc<Thread>, until: Instant) {
    let held = thread.shared.held.load(Ordering::Relaxed) as u32;
    let look = Instant::now() + LOOK_EVERY * (1 + held / HELD_PER_LOOK);
    let _ = timeout_at(look.min(until), thread.changed.notified()).await;
}

/// One of at most [`HELD_MAX`].
struct Held {
    shared: Arc<Shared>,
    metrics: Arc<UpstreamMetrics>,
    _place: Place,
}

impl Held {
    fn count(thread: &Thread, upstream: &LocalUpstream) -> Result<Self, Reason> {
        let (shared, metrics) = (thread.shared.clone(), upstream.metrics.clone());
        metrics.held_total.add(1);
        let places = Places {
            own: &upstream.shared.held,
            own_max: (HELD_MAX - HELD_COMMON) / thread.served().shared.upstreams().count().max(1),
            common: &shared.held_common,
        };
        let place = places.take().ok_or(Reason::HeldTooMany)?;
        metrics.held.add(1);
        shared.held.fetch_add(1, Ordering::Relaxed);
        Ok(Self { shared, metrics, _place: place })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(1, Ordering::Relaxed);
        self.metrics.held.subtract(1);
    }
}

/// Where the requests of one upstream may wait.
struct Places<'a> {
    /// Taken of its own.
    own: &'a Arc<AtomicUsize>,
    /// So many are its own: however many requests wait for others, these stay.
    own_max: usize,
    /// Taken of those that all share.
    common: &'a Arc<AtomicUsize>,
}

impl Places<'_> {
    fn take(&self) -> Option<Place> {
        Place::take(self.own, self.own_max).or_else(|| Place::take(self.common, HELD_COMMON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_without_backends_leaves_the_others_their_places() {
        let (dead, other, common) = (Arc::default(), Arc::default(), Arc::default());
        let own_max = (HELD_MAX - HELD_COMMON) / 2;
        let places = |own| Places { own, own_max, common: &common };
        let of_dead: Vec<Place> = std::iter::from_fn(|| places(&dead).take()).collect();
        assert_eq!(of_dead.len(), own_max + HELD_COMMON);
        let of_other: Vec<Place> = std::iter::from_fn(|| places(&other).take()).collect();
        assert_eq!(of_other.len(), own_max);
        assert_eq!(of_dead.len() + of_other.len(), HELD_MAX);
        drop(of_dead);
        assert!(places(&other).take().is_some());
    }
}
