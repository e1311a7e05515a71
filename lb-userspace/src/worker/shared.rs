//! What all threads of a worker share: the tables, the bounds that count over threads, and the way back to the master.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use lb_common::limits::BACKENDS_MAX;
use tokio::sync::mpsc;

use crate::limits::CONNECTIONS_MAX;
use crate::link::FromWorker;
use crate::reason::Reason;
use crate::state::event::{InstanceId, Slot};
use crate::table::{ActivityTable, BackendTable};

/// Reports that may wait for the link; beyond it they are dropped, because the master counts failures, not each request.
pub const REPORTS_QUEUED_MAX: usize = 1024;

/// What all threads of a worker share.
pub struct Shared {
    /// The master's and the kernel's verdicts.
    pub table: BackendTable,
    /// Our load on each backend.
    pub activity: ActivityTable,
    /// Open client connections.
    pub connections: AtomicUsize,
    /// How many there may be.
    pub connections_max: AtomicUsize,
    /// Those that only linger.
    pub lingering: Arc<AtomicUsize>,
    /// Connections beyond the bound that are being told so.
    pub refused: Arc<AtomicUsize>,
    /// Requests waiting for a backend.
    pub held: AtomicUsize,
    /// Those among them that have one of the places that all upstreams share.
    pub held_common: Arc<AtomicUsize>,
    /// Per slot the instance whose failure was reported last.
    failed: Box<[AtomicU64]>,
    reports: mpsc::Sender<FromWorker>,
}

impl Shared {
    /// Joins what the master attached.
    pub fn new(table: BackendTable, activity: ActivityTable, reports: mpsc::Sender<FromWorker>) -> Self {
        let failed = (0..BACKENDS_MAX).map(|_| AtomicU64::new(0)).collect();
        let (connections, lingering, refused, held, held_common) = Default::default();
        let connections_max = AtomicUsize::new(CONNECTIONS_MAX);
        Self {
            table,
            activity,
            connections,
            connections_max,
            lingering,
            refused,
            held,
            held_common,
            failed,
            reports,
        }
    }

    /// Tells the master that a request failed on this instance in a way that counts against it.
    pub fn report_failure(&self, slot: Slot, instance: InstanceId, reason: Reason) {
        if let Some(failed) = self.failed.get(slot.0 as usize) {
            failed.store(instance.0, Ordering::Relaxed);
        }
        let report = FromWorker::Failure { slot: slot.0, instance: instance.0, reason };
        if self.reports.try_send(report).is_err() {
            log::debug!("report dropped slot={} reason={}", slot.0, reason.name());
        }
    }

    /// Tells the master that a request succeeded, if a failure of this instance was reported before.
    pub fn report_success(&self, slot: Slot, instance: InstanceId) {
        let Some(failed) = self.failed.get(slot.0 as usize) else { return };
        if failed.load(Ordering::Relaxed) == instance.0 && failed.swap(0, Ordering::Relaxed) == instance.0 {
            let _ = self.reports.try_send(FromWorker::Success { slot: slot.0, instance: instance.0 });
        }
    }
}
