//! What a worker counts. Each thread counts for itself, in memory that only it writes; rendering sums up.
//!
//! Labels are names of the configuration and members of closed lists, so their number is bounded; what the snapshot no
//! longer names is forgotten. The names are explained in `docs/metrics.md`.

mod render;
mod steering;

pub use render::{CONTENT_TYPE, LogsDropped};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::reason::Reason;
use crate::snapshot::Snapshot;

/// Upper bounds of the latency histogram's buckets, in microseconds; above the last is one more.
pub const LATENCY_BUCKETS_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// A number that one thread changes and any may read.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `amount`. Only the thread whose count it is may do so: two at once would lose one.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes `amount` off again. Only the thread whose count it is may do so.
    #[inline]
    pub fn subtract(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(amount), Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All metrics of a worker process.
#[derive(Debug, Default)]
pub struct Metrics {
    threads: Mutex<Vec<Arc<ThreadMetrics>>>,
}

/// What one thread counts.
#[derive(Debug, Default)]
pub struct ThreadMetrics {
    /// Client connections accepted.
    pub connections_accepted: Count,
    /// Client connections closed.
    pub connections_closed: Count,
    /// Client connections for which there was no room.
    pub connections_refused: Count,
    /// Bytes read from clients.
    pub bytes_received: Count,
    /// Bytes written to clients.
    pub bytes_sent: Count,
    /// Answers that we made before an upstream was known.
    reasons: Reasons,
    upstreams: Mutex<BTreeMap<Arc<str>, Arc<UpstreamMetrics>>>,
}

/// What one thread counts for one upstream.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    /// Requests that wait for a backend now.
    pub held: Count,
    /// Requests that ever waited for a backend.
    pub held_total: Count,
    /// Attempts after the first.
    pub retries: Count,
    /// Pooled connections that turned out to be dead when they were used.
    pub stale_connections: Count,
    /// Requests sent on a new connection.
    pub connections_opened: Count,
    /// Requests sent on a pooled connection.
    pub connections_reused: Count,
    /// WebSockets in progress.
    pub tunnels: Count,
    latency: Latency,
    reasons: Reasons,
    backends: Mutex<BTreeMap<Arc<str>, Arc<BackendMetrics>>>,
}

/// What one thread counts for one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// By status class, from 1xx.
    answers: [Count; 5],
}

#[derive(Debug, Default)]
struct Reasons([Count; Reason::ALL.len()]);

#[derive(Debug, Default)]
struct Latency {
    buckets: [Count; LATENCY_BUCKETS_US.len() + 1],
    sum_us: Count,
}

impl Metrics {
    /// Without threads.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters of a new thread.
    pub fn thread(&self) -> Arc<ThreadMetrics> {
        let thread = Arc::new(ThreadMetrics::default());
        locked(&self.threads).push(thread.clone());
        thread
    }

    /// Forgets upstreams and backends that `snapshot` does not name.
    pub fn forget_others(&self, snapshot: &Snapshot) {
        for thread in locked(&self.threads).iter() {
            let mut upstreams = locked(&thread.upstreams);
            upstreams.retain(|name, metrics| {
                let served = snapshot.upstreams.iter().find(|served| *served.name == **name);
                let Some(served) = served else { return false };
                locked(&metrics.backends)
                    .retain(|name, _| served.backends.iter().any(|one| *one.name == **name));
                true
            });
        }
    }
}

impl ThreadMetrics {
    /// The counters of an upstream. To be looked up once per snapshot, not per request.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        entry(&self.upstreams, name)
    }

    /// Counts an answer that we made before an upstream was known.
    pub fn answered_ourselves(&self, reason: Reason) {
        self.reasons.add(reason);
    }
}

impl UpstreamMetrics {
    /// The counters of a backend. To be looked up once per snapshot, not per request.
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        entry(&self.backends, name)
    }

    /// Counts an answer that we made in the backend's stead.
    pub fn answered_ourselves(&self, reason: Reason) {
        self.reasons.add(reason);
    }

    /// Counts a request's time from its head to the end of the answer, waiting and retries included.
    pub fn took(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS_US.partition_point(|&bound| bound < us);
        self.latency.buckets[bucket].add(1);
        self.latency.sum_us.add(us);
    }
}

impl BackendMetrics {
    /// Counts an answer of the backend.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.answers[class].add(1);
    }
}

impl Reasons {
    fn add(&self, reason: Reason) {
        let index = Reason::ALL.iter().position(|known| *known == reason).expect("ALL has all");
        self.0[index].add(1);
    }
}

fn entry<T: Default>(map: &Mutex<BTreeMap<Arc<str>, Arc<T>>>, name: &str) -> Arc<T> {
    let mut map = locked(map);
    if let Some(found) = map.get(name) {
        return found.clone();
    }
    let made = Arc::new(T::default());
    map.insert(name.into(), made.clone());
    made
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
