//! What is, what should be, and what to do about it. Pure: [`step::step`] is the only place that decides.

pub mod event;
pub mod report;
pub mod step;

use event::Slot;
use lb_common::backend::TrafficState;

use crate::control::protocol::StatusReport;
use crate::time::Time;

/// Everything that the master knows and wants.
pub struct State {
    master_pid: u32,
    next_instance: u64,
    started_at: Option<Time>,
}

impl State {
    /// An empty state. Instance ids are counted up from `first_instance` (wall clock nanoseconds, so that none is ever used
    /// twice); `seed` feeds the jitter of back-off.
    pub fn new(first_instance: u64, seed: u64, master_pid: u32) -> Self {
        let _ = seed;
        Self { master_pid, next_instance: first_instance.max(1), started_at: None }
    }

    /// What is, for `status`, `/metrics` and `/readyz`. `activity` gives a row's active requests, open connections and
    /// requests ever sent, summed over workers; `traffic` the joined verdict of master and kernel. The loop fills in `workers` and
    /// `uptime_ms`.
    pub fn report(
        &self,
        now: Time,
        activity: &dyn Fn(Slot) -> (u32, u32, u64),
        traffic: &dyn Fn(Slot) -> TrafficState,
    ) -> StatusReport {
        let _ = (now, activity, traffic, self.next_instance, self.started_at);
        StatusReport { master_pid: self.master_pid, ..Default::default() }
    }
}
