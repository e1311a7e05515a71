//! Drain, then signal, then kill (invariant 3): a process is told to stop only when its row takes nothing new, and nothing is active
//! on it or its drain deadline has passed.

use std::time::Duration;

use super::backend::Presence;
use super::event::{Effect, Slot};
use super::instance::{Name, Phase};
use super::step::Turn;
use crate::limits::KILL_AGAIN_EVERY;

/// How long active requests are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// The program's `drain_timeout`.
    Drain,
    /// That, but no longer than this.
    DrainAtMost(Duration),
    /// Not at all.
    Now,
}

impl Turn<'_> {
    /// Begins to end the process of an instance, if it has one. What comes after is for `goal` to say.
    pub(super) fn stop(&mut self, name: &Name, haste: Haste, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get(name) else { return };
        match instance.phase {
            Phase::Stopped
            | Phase::Waiting(_)
            | Phase::Backoff { .. }
            | Phase::Exited { .. }
            | Phase::Fatal => self.rest(name, cause, actor),
            Phase::Starting { .. } | Phase::Running if instance.pid.is_none() => {
                self.withdraw(name, cause, actor);
                self.enter(name, Phase::Draining { until: None, done: false }, cause, actor);
            }
            // Nothing was ever sent to it in this life.
            Phase::Starting { .. } => self.end(name, cause, actor),
            Phase::Running if haste == Haste::Now || instance.slot.is_none() => self.end(name, cause, actor),
            Phase::Running => self.drain_then_end(name, haste, cause, actor),
            Phase::Draining { .. } if haste == Haste::Now && instance.pid.is_some() => {
                self.end(name, cause, actor);
            }
            Phase::Draining { .. } | Phase::Signalled { .. } | Phase::Killed { .. } => {}
        }
    }

    fn drain_then_end(&mut self, name: &Name, haste: Haste, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let Some(slot) = instance.slot else { return };
        let longest = instance.program.stop.drain_timeout;
        let wait = match haste {
            Haste::Drain | Haste::Now => longest,
            Haste::DrainAtMost(limit) => longest.min(limit),
        };
        if let Some(backend) = self.state.backends.get_mut(&slot) {
            backend.presence = Presence::Leaving;
        }
        self.write_row(slot, cause, actor);
        let until = Some(self.now + wait);
        self.enter(name, Phase::Draining { until, done: false }, cause, actor);
        self.effects.push(Effect::WatchDrain { slot });
    }

    /// Brings an instance that drains back into rotation: it is not to be stopped after all.
    pub(super) fn cancel_drain(&mut self, name: &Name, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let (Phase::Draining { until: Some(_), .. }, Some(slot)) = (&instance.phase, instance.slot) else {
            return;
        };
        self.effects.push(Effect::UnwatchDrain { slot });
        if let Some(backend) = self.state.backends.get_mut(&slot) {
            backend.presence = Presence::Started;
        }
        self.enter(name, Phase::Running, cause, actor);
        self.write_row(slot, cause, actor);
        // A configuration that came meanwhile may have changed what is asked.
        self.probe_running(name);
    }

    /// Nothing is active on the row any more.
    pub(super) fn on_drained(&mut self, slot: Slot) {
        if self.state.slots.is_draining(slot) {
            self.state.slots.drained(slot);
            return;
        }
        let Some(name) = self.state.backends.get(&slot).and_then(|backend| backend.supervised.clone()) else {
            return;
        };
        let watched = self
            .state
            .instances
            .get(&name)
            .is_some_and(|each| matches!(each.phase, Phase::Draining { until: Some(_), done: false }));
        if watched {
            self.end_draining(&name, "drained");
        }
    }

    /// The wait for active requests is over.
    pub(super) fn end_draining(&mut self, name: &Name, how: &str) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let cause = instance.reason.clone();
        self.record(&name.to_string(), "drain ended", how, "master");
        self.end(name, &cause, "master");
    }

    /// Tells the process to stop, or to wait for those that depend on it where everything is shut down.
    pub(super) fn end(&mut self, name: &Name, cause: &str, actor: &str) {
        if !self.must_wait_for_dependents(name) {
            self.signal(name, cause, actor);
            return;
        }
        self.withdraw(name, cause, actor);
        self.enter(name, Phase::Draining { until: None, done: true }, cause, actor);
    }

    /// Sends the stop signal. Its row is OUT before.
    pub(super) fn signal(&mut self, name: &Name, cause: &str, actor: &str) {
        self.withdraw(name, cause, actor);
        self.stop_probes(name);
        let now = self.now;
        let Some(instance) = self.state.instances.get(name) else { return };
        let Some(id) = instance.life else { return };
        let stop = instance.program.stop.clone();
        self.effects.push(Effect::Signal { instance: id, signal: stop.signal });
        let kill_at = now + stop.kill_after;
        self.enter(name, Phase::Signalled { kill_at }, cause, actor);
    }

    /// Ends its whole cgroup; again and again until it is gone.
    pub(super) fn kill(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let Some(id) = instance.life else { return };
        self.effects.push(Effect::Kill { instance: id });
        let again_at = self.now + KILL_AGAIN_EVERY;
        if matches!(instance.phase, Phase::Killed { .. }) {
            // No progress: whoever waits for it is told so in time.
            instance.phase = Phase::Killed { again_at };
            return;
        }
        let cause = instance.reason.clone();
        self.record(&name.to_string(), "process killed", &cause, "master");
        self.enter(name, Phase::Killed { again_at }, &cause, "master");
    }
}
