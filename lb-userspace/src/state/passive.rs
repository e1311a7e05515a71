//! What workers report of backends: ejection, its bounds, and the way back.

use super::event::{Effect, InstanceId, ProbeRole, Slot};
use super::step::Turn;
use crate::config::model::Passive;
use crate::health::passive::{counts, ejected_max};
use crate::reason::Reason;

impl Turn<'_> {
    pub(super) fn on_backend_failed(&mut self, slot: Slot, id: InstanceId, reason: Reason) {
        let Some(backend) = self.state.backends.get(&slot) else { return };
        let Some(passive) = self.passive_of(&backend.upstream) else { return };
        if backend.instance != id || !backend.is_in() || !counts(reason) {
            return;
        }
        let now = self.now;
        let Some(backend) = self.state.backends.get_mut(&slot) else { return };
        if let Some(after) = backend.watch.fail(now, &passive)
            && self.may_eject(slot, &passive)
        {
            self.eject(slot, &passive, &format!("reason={} after={after}", reason.name()));
        }
    }

    pub(super) fn on_backend_succeeded(&mut self, slot: Slot, id: InstanceId) {
        if let Some(backend) = self.state.backends.get_mut(&slot).filter(|backend| backend.instance == id) {
            backend.watch.succeed();
        }
    }

    fn passive_of(&self, upstream: &str) -> Option<Passive> {
        Some(self.state.model.as_ref()?.upstreams.get(upstream)?.passive.clone())
    }

    /// Never the last one that is IN, and no more than the share.
    fn may_eject(&self, slot: Slot, passive: &Passive) -> bool {
        let Some(backend) = self.state.backends.get(&slot) else { return false };
        let mut all = 0;
        let mut ejected = 0;
        let mut others_in = 0;
        for each in self.backends_of(&backend.upstream) {
            all += 1;
            ejected += usize::from(each.watch.is_ejected());
            others_in += usize::from(each.slot != slot && each.is_in());
        }
        others_in > 0 && ejected < ejected_max(all, passive.max_ejected)
    }

    /// Takes it out. A supervised one is asked at once whether it lives, so that a frozen one is replaced soon.
    fn eject(&mut self, slot: Slot, passive: &Passive, cause: &str) {
        let now = self.now;
        let Some(backend) = self.state.backends.get_mut(&slot) else { return };
        backend.watch.eject(now, passive.eject_for);
        let instance = backend.instance;
        let supervised = backend.supervised.clone();
        let subject = backend.subject();
        self.record(&subject, "backend ejected", cause, "worker");
        self.write_row(slot, &format!("ejected: {cause}"), "worker");
        let lives_are_probed = supervised
            .and_then(|name| self.state.instances.get(&name))
            .is_some_and(|each| each.probing.contains(&ProbeRole::Liveness));
        if lives_are_probed {
            self.effects.push(Effect::ProbeNow { instance, role: ProbeRole::Liveness });
        }
    }

    /// Brings an ejected backend back, on trial.
    pub(super) fn readmit(&mut self, slot: Slot, cause: &str) {
        let Some(backend) = self.state.backends.get_mut(&slot) else { return };
        backend.watch.readmit();
        let subject = backend.subject();
        self.record(&subject, "backend readmitted", cause, "master");
        self.write_row(slot, cause, "master");
    }

    /// Its readiness probe passed. That ends an ejection early only when nobody else of its upstream is IN: somebody who answers
    /// probes is then better than nobody.
    pub(super) fn readmit_if_alone(&mut self, slot: Slot) {
        let Some(backend) = self.state.backends.get(&slot).filter(|backend| backend.watch.is_ejected())
        else {
            return;
        };
        if !self.backends_of(&backend.upstream).any(|each| each.is_in()) {
            self.readmit(slot, "probe passed and nobody else is in");
        }
    }
}
