//! What is, what should be, and what to do about it. Pure: [`step::step`] is the only place that decides.

pub mod event;
pub mod step;

mod apply;
mod backend;
mod budget;
mod change;
mod command;
mod depend;
mod instance;
mod left;
mod life;
mod passive;
mod probe;
mod publish;
mod record;
pub mod report;
mod request;
mod slots;
mod stop;
mod terminate;
mod timers;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use backend::Backend;
use event::{InstanceId, Slot};
use instance::{Instance, Name};
pub use left::identity;
use request::Request;
use slots::Slots;
use terminate::Shutdown;

use crate::config::model::{Address, Model};
use crate::snapshot::Snapshot;
use crate::time::Time;

/// Everything that the master knows and wants.
pub struct State {
    master_pid: u32,
    next_instance: u64,
    rng: fastrand::Rng,
    /// What should be; `None` before the first configuration.
    model: Option<Arc<Model>>,
    /// Instances of programs, those that are leaving included.
    instances: BTreeMap<Name, Instance>,
    /// Which instance a living process belongs to.
    lives: BTreeMap<InstanceId, Name>,
    /// The backends of all upstreams, supervised or not.
    backends: BTreeMap<Slot, Backend>,
    /// The rows of those that we do not supervise.
    static_slots: BTreeMap<(String, Address), Slot>,
    /// The same by what probes and workers name.
    static_lives: BTreeMap<InstanceId, Slot>,
    slots: Slots,
    /// Rows that an earlier master left and nobody has claimed yet.
    left: left::Left,
    requests: Vec<Request>,
    /// The newest picture that was published.
    published: Snapshot,
    /// Every worker serves at least this one.
    acknowledged: u64,
    /// The time that the loop was asked to tick at.
    wake: Option<Time>,
    events_recorded: u64,
    /// Orders what waits for the budget.
    next_order: u64,
    shutdown: Shutdown,
}

impl State {
    /// An empty state. Instance ids are counted up from `first_instance` (wall clock nanoseconds, so that none is ever used
    /// twice); `seed` feeds the jitter of back-off.
    pub fn new(first_instance: u64, seed: u64, master_pid: u32) -> Self {
        Self {
            master_pid,
            next_instance: first_instance.max(1),
            rng: fastrand::Rng::with_seed(seed),
            model: None,
            instances: BTreeMap::new(),
            lives: BTreeMap::new(),
            backends: BTreeMap::new(),
            static_slots: BTreeMap::new(),
            static_lives: BTreeMap::new(),
            slots: Slots::default(),
            left: left::Left::default(),
            requests: Vec::new(),
            published: Snapshot::default(),
            acknowledged: 0,
            wake: None,
            events_recorded: 0,
            next_order: 0,
            shutdown: Shutdown::default(),
        }
    }

    /// Whether a process of ours still runs or is being started.
    pub fn has_processes(&self) -> bool {
        !self.lives.is_empty()
    }

    fn new_instance_id(&mut self) -> InstanceId {
        let id = InstanceId(self.next_instance);
        self.next_instance += 1;
        id
    }
}
