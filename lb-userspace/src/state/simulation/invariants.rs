//! What must be true after every event, and in the end.

use super::world::World;
use crate::limits::FROZEN_DRAIN_MAX;
use crate::state::backend::Backend;
use crate::state::event::{Effect, InstanceId, Slot};
use crate::state::instance::{Goal, Instance, Phase};
use lb_common::backend::TrafficState;

impl World {
    pub(super) fn fail(&self, what: &str) -> ! {
        for line in &self.log {
            eprintln!("{line}");
        }
        panic!("seed {}: {what} (run it again with LBCTL_SEED={})", self.seed, self.seed);
    }

    fn ensure(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(&what());
        }
    }

    /// Checked before the effect is performed.
    pub(super) fn check_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::SetRow { slot, instance, state, .. } => self.check_row_change(*slot, *instance, *state),
            Effect::Spawn { instance, .. } => {
                self.ensure(!self.processes.contains_key(instance), || format!("{instance:?} is used twice"));
            }
            Effect::Signal { instance, .. } => self.check_signal(*instance),
            Effect::Publish(snapshot) => {
                let last = self.snapshots.last().map_or(0, |each| each.number).max(self.acknowledged);
                self.ensure(snapshot.number == last + 1, || "a picture has the wrong number".to_owned());
            }
            Effect::Answer { request, .. } => {
                self.ensure(self.asked.contains(request), || format!("answer to nobody: {request}"));
                let first = self.answered.insert(*request);
                self.ensure(first, || format!("request {request} is answered twice"));
            }
            Effect::Record(record) if record.what == "backend draining" => {
                self.check_minimum(&record.subject, &record.cause);
            }
            Effect::WatchDrain { slot } => {
                let row = self.rows.get(slot).copied().unwrap_or_default();
                self.ensure(row.state == TrafficState::Draining, || format!("{slot:?} watched but {row:?}"));
            }
            _ => {}
        }
    }

    /// Invariant 2, at the moment of the store.
    fn check_row_change(&self, slot: Slot, id: InstanceId, state: TrafficState) {
        let was_in = self.rows.get(&slot).is_some_and(|row| row.instance == id && row.state.takes_new());
        if !state.takes_new() || was_in {
            return;
        }
        let Some(backend) = self.state.backends.get(&slot) else {
            self.fail(&format!("{slot:?} is nobody's and goes IN"));
        };
        self.ensure(backend.instance == id, || format!("{slot:?} goes IN for {id:?}, {backend:?}"));
        self.ensure(!backend.drained, || format!("drained {slot:?} goes IN"));
        let Some(process) = self.processes.get(&id) else {
            self.ensure(backend.supervised.is_none(), || format!("{slot:?} goes IN without a process"));
            return;
        };
        let startup = process.program.startup.is_none() || process.passed_startup;
        self.ensure(startup, || format!("{id:?} goes IN without a startup probe passed"));
        let probed = self.model.upstreams.get(&backend.upstream).is_some_and(|each| each.probe.is_some());
        let ready = !process.had_readiness_probe || !probed || process.passed_readiness;
        self.ensure(ready, || format!("{id:?} goes IN without readiness passed"));
        self.ensure(process.passed_readiness || process.passed_startup, || format!("{id:?} was never asked"));
    }

    /// Invariant 3, and more: nothing active, or the whole time was given.
    fn check_signal(&self, id: InstanceId) {
        let process = &self.processes[&id];
        let Some((slot, row)) = process.slot.and_then(|slot| Some((slot, self.rows.get(&slot)?))) else {
            return;
        };
        self.ensure(row.instance == id, || format!("{slot:?} speaks of another than {id:?}"));
        self.ensure(row.state == TrafficState::Out, || format!("{id:?} is signalled while {row:?}"));
        let is_frozen = self
            .state
            .lives
            .get(&id)
            .and_then(|name| self.state.instances.get(name))
            .is_some_and(|each| each.reason.starts_with("liveness"));
        let whole = process.program.stop.drain_timeout;
        let wait = if is_frozen { whole.min(FROZEN_DRAIN_MAX) } else { whole };
        let waited = row.draining_since.is_some_and(|since| self.now.since(since) >= wait);
        let fine = row.active == 0 || waited || self.hasty || !process.was_in;
        self.ensure(fine, || format!("{id:?} is signalled with {} active", row.active));
    }

    /// Invariant 4: looked at when a backend begins to drain, before which its row was written already.
    fn check_minimum(&self, subject: &str, cause: &str) {
        let voluntary = ["restart by", "configuration changed", "not in the configuration", "liveness"];
        if !voluntary.iter().any(|each| cause.starts_with(each)) || cause.contains("--now") {
            return;
        }
        let Some(backend) = self.state.backends.values().find(|each| each.subject() == subject) else {
            return;
        };
        let Some(upstream) = self.model.upstreams.get(&backend.upstream) else { return };
        if !self.rows.get(&backend.slot).is_some_and(|row| row.left_in) {
            return;
        }
        let others = || {
            self.state
                .backends
                .values()
                .filter(|each| each.upstream == upstream.name && each.slot != backend.slot)
        };
        let is_in = |slot: &Slot| self.rows.get(slot).is_some_and(|row| row.state == TrafficState::In);
        let others_in = others().filter(|each| is_in(&each.slot)).count();
        let at_all = 1 + others().filter(|each| self.counts(each, cause)).count();
        self.ensure(others_in >= upstream.min_in || at_all <= upstream.min_in, || {
            format!(
                "{subject} leaves ({cause}): {others_in} others are IN, {} are needed of {at_all}",
                upstream.min_in
            )
        });
    }

    /// Whether it is one of the backends that the upstream has at all.
    fn counts(&self, backend: &Backend, cause: &str) -> bool {
        let instance = backend.supervised.as_ref().map(|name| &self.state.instances[name]);
        let wanted = instance.is_none_or(|each| each.goal == Goal::Up);
        let hopeless = backend.drained || instance.is_some_and(Instance::is_at_rest);
        wanted && !(cause.starts_with("liveness") && hopeless)
    }

    pub(super) fn check_state(&self) {
        for (&slot, row) in &self.rows {
            if row.traffic().takes_new() {
                self.check_row_in(slot, row.instance);
            }
        }
    }

    /// Invariants 1 and 2: who is IN lives, and no worker can take its row for somebody else's.
    fn check_row_in(&self, slot: Slot, id: InstanceId) {
        let alive = self.processes.get(&id).is_none_or(|process| process.alive);
        self.ensure(alive, || format!("{slot:?} is IN for the dead {id:?}"));
        let address = self.state.backends.get(&slot).and_then(|backend| backend.address.as_ref());
        let served = self.snapshots.iter().flat_map(|each| &each.upstreams).flat_map(|each| &each.backends);
        for backend in served.filter(|each| each.slot == slot.0) {
            self.ensure(Some(&backend.address) == address, || {
                format!("a worker may send to {} for {slot:?} of {address:?}", backend.address)
            });
        }
    }

    /// After a long quiet time everything is as it should be.
    pub(super) fn assert_rest(&self) {
        let wanted: usize = self.model.programs.values().map(|each| each.instances as usize).sum();
        self.ensure(self.state.instances.len() == wanted, || {
            format!("{wanted} instances are wanted, not {:#?}", self.state.instances)
        });
        for instance in self.state.instances.values() {
            self.assert_instance_rests(instance);
        }
        let fixed: Vec<&Backend> =
            self.state.backends.values().filter(|each| each.supervised.is_none()).collect();
        let configured: usize = self.model.upstreams.values().map(|each| each.backends.len()).sum();
        self.ensure(fixed.len() == configured, || format!("{configured} static backends, not {fixed:#?}"));
        for backend in fixed {
            self.ensure(backend.is_in(), || format!("static backend is not IN: {backend:?}"));
        }
        self.ensure(self.state.requests.is_empty(), || format!("unanswered: {:?}", self.state.requests));
        let unanswered: Vec<_> = self.asked.difference(&self.answered).collect();
        self.ensure(unanswered.is_empty(), || format!("never answered: {unanswered:?}"));
        self.ensure(self.state.slots.in_use() == self.state.backends.len(), || {
            format!("rows leak: {:?}", self.state.slots)
        });
        let living = self.processes.values().filter(|each| each.alive).count();
        self.ensure(living == self.state.lives.len(), || "a process is unknown".to_owned());
    }

    fn assert_instance_rests(&self, instance: &Instance) {
        let circle = self.model.programs.get("db").is_some_and(|db| !db.depends_on.is_empty());
        let fine = match &instance.phase {
            Phase::Running => !instance.is_outdated() && self.is_served(instance),
            Phase::Exited { .. } => instance.program.address.is_none(),
            Phase::Waiting(_) => circle || !self.model.programs.contains_key("db"),
            // A job that always ends is always started again.
            Phase::Backoff { .. } | Phase::Starting { .. } => instance.program.address.is_none(),
            _ => false,
        };
        let settled = instance.replacement.is_none() && !instance.leaving;
        self.ensure(fine && settled, || format!("no rest: {instance:#?}"));
    }

    fn is_served(&self, instance: &Instance) -> bool {
        instance
            .slot
            .is_none_or(|slot| self.rows.get(&slot).is_some_and(|row| row.traffic() == TrafficState::In))
    }

    pub(super) fn assert_ended(&self) {
        self.ensure(self.finished, || "the end never came".to_owned());
        let living: Vec<_> = self.processes.iter().filter(|(_, each)| each.alive).map(|(id, _)| id).collect();
        self.ensure(living.is_empty(), || format!("processes are left: {living:?}"));
        let unanswered: Vec<_> = self.asked.difference(&self.answered).collect();
        self.ensure(unanswered.is_empty(), || format!("never answered: {unanswered:?}"));
    }
}
