//! Deadlines: the earliest is asked of the loop, and whatever is due fires at any event.

use super::backend::Backend;
use super::event::{Effect, Slot};
use super::instance::{Instance, Name, Phase};
use super::step::Turn;
use crate::time::Time;
use lb_common::backend::TrafficState;

impl Instance {
    /// When its phase ends by itself.
    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.phase {
            // Before the pid is known there is nobody to time.
            Phase::Starting { until, .. } => self.pid.map(|_| *until),
            Phase::Waiting(wait) => wait.ask_at,
            Phase::Draining { until, .. } => *until,
            Phase::Signalled { kill_at } => Some(*kill_at),
            Phase::Killed { again_at } => Some(*again_at),
            Phase::Backoff { until } => Some(*until),
            Phase::Stopped | Phase::Running | Phase::Exited { .. } | Phase::Fatal => None,
        }
    }
}

impl Turn<'_> {
    /// Fires what is due.
    pub(super) fn fire_timers(&mut self) {
        let now = self.now;
        let is_due = |instance: &&Instance| instance.deadline().is_some_and(|at| at <= now);
        let due: Vec<Name> =
            self.state.instances.values().filter(is_due).map(|each| each.name.clone()).collect();
        for name in due {
            self.fire(&name);
        }
        for slot in self.state.slots.overdue(now) {
            self.give_up_draining(slot);
        }
        let readmit: Vec<Slot> = self
            .state
            .backends
            .values()
            .filter(|backend| backend.watch.until().is_some_and(|at| at <= now))
            .map(|backend| backend.slot)
            .collect();
        for slot in readmit {
            self.readmit(slot, "ejection is over");
        }
        let warmer = |backend: &&Backend| backend.due(self.state.acknowledged, now) != backend.written;
        let is_warming = |backend: &&Backend| backend.written.state == TrafficState::Warming;
        let warmer: Vec<Slot> =
            self.state.backends.values().filter(is_warming).filter(warmer).map(|each| each.slot).collect();
        for slot in warmer {
            self.write_row(slot, "slow start is over", "master");
        }
    }

    fn fire(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get(name) else { return };
        match instance.phase {
            Phase::Starting { proof, .. } => self.on_start_deadline(name, proof),
            Phase::Waiting(_) => self.ask_dependencies(name),
            Phase::Draining { .. } => self.end_draining(name, "drain deadline passed"),
            Phase::Signalled { .. } | Phase::Killed { .. } => self.kill(name),
            Phase::Backoff { .. } => self.start_after_back_off(name),
            Phase::Stopped | Phase::Running | Phase::Exited { .. } | Phase::Fatal => {}
        }
    }

    /// Asks the loop to tick at the earliest deadline, if that is another than it was told.
    pub(super) fn wake(&mut self) {
        let earliest = self.earliest_deadline();
        if self.state.wake == earliest {
            return;
        }
        self.state.wake = earliest;
        if let Some(at) = earliest {
            self.effects.push(Effect::Wake { at });
        }
    }

    fn earliest_deadline(&self) -> Option<Time> {
        let phases = self.state.instances.values().filter_map(Instance::deadline);
        let ejections = self.state.backends.values().filter_map(|backend| backend.watch.until());
        let warming = self.state.backends.values().filter_map(|backend| backend.warming.next(self.now));
        let requests = self.state.requests.iter().filter_map(|request| request.deadline);
        let now = self.unsettled.then_some(self.now);
        phases
            .chain(ejections)
            .chain(warming)
            .chain(requests)
            .chain(self.state.slots.deadline())
            .chain(now)
            .min()
    }
}
