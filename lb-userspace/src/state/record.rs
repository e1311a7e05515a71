//! The event log: every transition is recorded with its time, cause and actor (invariant 9).

use super::event::Effect;
use super::instance::{Name, Phase};
use super::step::Turn;
use crate::control::protocol::EventRecord;

impl Turn<'_> {
    /// Appends to the event log. The wall clock and measured times are the loop's to fill in.
    pub(super) fn record(&mut self, subject: &str, what: &str, cause: &str, actor: &str) {
        self.state.events_recorded += 1;
        self.effects.push(Effect::Record(EventRecord {
            number: self.state.events_recorded,
            at_ns: self.now.0,
            wall_ms: 0,
            subject: subject.to_owned(),
            what: what.to_owned(),
            cause: cause.to_owned(),
            actor: actor.to_owned(),
            took_ns: None,
        }));
    }

    /// Moves an instance to another phase; a change of the process state is recorded.
    pub(super) fn enter(&mut self, name: &Name, phase: Phase, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let before = instance.process_state();
        let waited = matches!(instance.phase, Phase::Waiting(_));
        instance.phase = phase;
        cause.clone_into(&mut instance.reason);
        self.moved.insert(name.clone());
        let after = instance.process_state();
        if after != before {
            self.record(&name.to_string(), &format!("process {}", after.name().to_lowercase()), cause, actor);
        } else if !waited && matches!(instance.phase, Phase::Waiting(_)) {
            self.record(&name.to_string(), "process waiting", cause, actor);
        }
        self.expect_or_not(name, cause, actor);
    }

    /// Requests wait for a backend that will come back; for one that rests there is nothing to wait for.
    fn expect_or_not(&mut self, name: &Name, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let (rests, slot) = (instance.is_at_rest(), instance.slot);
        let Some(backend) = self.backend_of(name) else { return };
        if backend.expected == rests {
            backend.expected = !rests;
            // Workers do not look at its row before it has an address.
            let unplaced = backend.address.is_none();
            self.publish_due |= unplaced;
            if let Some(slot) = slot {
                self.write_row(slot, cause, actor);
            }
        }
    }
}
