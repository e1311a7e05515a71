//! Probes: which run in which phase, and what their results do.

use super::event::{Effect, InstanceId, ProbeRole, Slot};
use super::instance::{Cause, Name, Phase, Proof, Replacement};
use super::step::Turn;
use crate::config::model::{Address, Probe, ProbeKind};
use crate::health::counter::{Counter, Flip};
use crate::limits::{STARTUP_EVERY, STARTUP_PROBE_FIRST, STARTUP_PROBE_TIMEOUT};
use std::time::Duration;

impl Turn<'_> {
    /// Asks for the proof that the instance has started, fast at first.
    pub(super) fn probe_start(&mut self, name: &Name, proof: Proof) {
        let Some(instance) = self.state.instances.get(name) else { return };
        if proof == Proof::Readiness {
            self.probe_readiness(name);
            return;
        }
        let (kind, every) = match &instance.program.startup {
            Some(startup) => (startup.kind.clone(), startup.every),
            None => (ProbeKind::Tcp, STARTUP_EVERY),
        };
        let probe = Probe { kind, every, timeout: STARTUP_PROBE_TIMEOUT, down_after: 1, up_after: 1 };
        self.start_probe(name, ProbeRole::Startup, &probe, STARTUP_PROBE_FIRST);
    }

    /// Asks what a RUNNING instance is asked. The readiness probe that proved its start goes on.
    pub(super) fn probe_running(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get(name) else { return };
        if !instance.probing.contains(&ProbeRole::Readiness) {
            self.probe_readiness(name);
        }
        self.probe_liveness(name);
    }

    pub(super) fn probe_readiness(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get(name) else { return };
        if let Some(probe) = self.readiness_probe(&instance.program).cloned() {
            self.start_probe(name, ProbeRole::Readiness, &probe, STARTUP_PROBE_FIRST);
        }
    }

    pub(super) fn probe_liveness(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let Some(probe) = instance.program.liveness.clone() else { return };
        instance.liveness = Some(Counter::up(probe.up_after, probe.down_after));
        self.start_probe(name, ProbeRole::Liveness, &probe, probe.every);
    }

    fn start_probe(&mut self, name: &Name, role: ProbeRole, probe: &Probe, first: Duration) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let (Some(id), Some(address)) = (instance.life, instance.address.clone()) else { return };
        instance.probing.insert(role);
        self.effects.push(start_probe(id, role, probe, address, first));
    }

    pub(super) fn stop_probe(&mut self, name: &Name, role: ProbeRole) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        if instance.probing.remove(&role) {
            self.effects.push(Effect::StopProbe { instance: instance.last_life, role });
        }
    }

    pub(super) fn stop_probes(&mut self, name: &Name) {
        for role in [ProbeRole::Startup, ProbeRole::Readiness, ProbeRole::Liveness] {
            self.stop_probe(name, role);
        }
    }

    /// Asks a backend that we do not supervise.
    pub(super) fn probe_static(&mut self, slot: Slot, probe: &Probe) {
        let Some(backend) = self.state.backends.get(&slot) else { return };
        let Some(address) = backend.address.clone() else { return };
        let effect = start_probe(backend.instance, ProbeRole::Readiness, probe, address, STARTUP_PROBE_FIRST);
        self.effects.push(effect);
    }

    pub(super) fn on_probed(&mut self, id: InstanceId, role: ProbeRole, result: Result<(), String>) {
        if let Some(&slot) = self.state.static_lives.get(&id) {
            self.count_readiness(slot, result);
            return;
        }
        let Some(name) = self.state.lives.get(&id).cloned() else { return };
        let Some(instance) = self.state.instances.get_mut(&name) else { return };
        if !instance.probing.contains(&role) {
            return;
        }
        if let Err(error) = &result {
            instance.last_probe_error = Some(error.clone());
        }
        match role {
            ProbeRole::Startup => self.on_startup_probed(&name, result),
            ProbeRole::Readiness => self.on_readiness_probed(&name, result),
            ProbeRole::Liveness => self.on_liveness_probed(&name, result),
        }
    }

    fn on_startup_probed(&mut self, name: &Name, result: Result<(), String>) {
        match result {
            Ok(()) => self.started(name, "startup probe passed", "probe"),
            Err(error) => self.note_failed_start_probe(name, &error),
        }
    }

    fn note_failed_start_probe(&mut self, name: &Name, error: &str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        if matches!(instance.phase, Phase::Starting { .. }) {
            instance.reason = format!("not started yet: {error}");
        }
    }

    fn on_readiness_probed(&mut self, name: &Name, result: Result<(), String>) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let Some(slot) = instance.slot else { return };
        let starts = matches!(instance.phase, Phase::Starting { proof: Proof::Readiness, .. });
        if let Err(error) = &result {
            self.note_failed_start_probe(name, error);
        }
        let flip = self.count_readiness(slot, result);
        match flip {
            Flip::Up if starts => self.started(name, "readiness probe passed", "probe"),
            Flip::Up => self.note_ready(name, "readiness probe passed", "probe"),
            Flip::Down(_) => self.note_not_ready(name, slot),
            Flip::None => {}
        }
    }

    fn note_not_ready(&mut self, name: &Name, slot: Slot) {
        let Some(reason) = self.state.backends.get(&slot).map(|backend| backend.reason.clone()) else {
            return;
        };
        if let Some(instance) = self.state.instances.get_mut(name).filter(|each| each.is_running()) {
            instance.reason = reason;
        }
    }

    /// Counts a readiness result and lets the row follow.
    fn count_readiness(&mut self, slot: Slot, result: Result<(), String>) -> Flip {
        let passed = result.is_ok();
        let Some(backend) = self.state.backends.get_mut(&slot) else { return Flip::None };
        let Some(verdict) = backend.readiness.as_mut() else { return Flip::None };
        let flip = verdict.count(passed);
        match (&flip, result) {
            (Flip::Down(after), Err(error)) => {
                let cause = format!("readiness probe: {error}; failed {after} times in a row");
                self.write_row(slot, &cause, "probe");
                if let Some(backend) = self.state.backends.get_mut(&slot) {
                    backend.reason = cause;
                }
            }
            (Flip::None, Err(error)) if !verdict.is_up() => {
                backend.reason = format!("readiness probe: {error}");
            }
            (Flip::Up, _) => {
                // Somebody answers there, whatever became of the socket that we saw close.
                backend.listening = true;
                self.write_row(slot, "readiness probe passed", "probe");
            }
            _ => {}
        }
        if passed {
            self.readmit_if_alone(slot);
        }
        flip
    }

    fn on_liveness_probed(&mut self, name: &Name, result: Result<(), String>) {
        let Some(instance) = self.state.instances.get_mut(name).filter(|each| each.is_running()) else {
            return;
        };
        let Some(verdict) = instance.liveness.as_mut() else { return };
        let queued = instance.replacement.as_ref().map(|queued| queued.cause.clone());
        match (verdict.count(result.is_ok()), result) {
            (Flip::Down(after), Err(error)) if !matches!(queued, Some(Cause::Liveness(_))) => {
                let error = format!("{error}; failed {after} times in a row");
                self.queue_replacement(name, Cause::Liveness(error), "probe");
            }
            (Flip::Up, _) if matches!(queued, Some(Cause::Liveness(_))) => {
                instance.replacement = instance.replacement.take().and_then(Replacement::without_cause);
                self.record(
                    &name.to_string(),
                    "replacement cancelled",
                    "liveness probe passed again",
                    "probe",
                );
            }
            _ => {}
        }
    }

    /// The kernel saw it begin to listen: ask at once.
    pub(super) fn on_listen_opened(&mut self, id: InstanceId) {
        let Some(name) = self.state.lives.get(&id).cloned() else { return };
        let Some(instance) = self.state.instances.get(&name) else { return };
        let role = match instance.phase {
            Phase::Starting { proof: Proof::Startup, .. } => Some(ProbeRole::Startup),
            Phase::Starting { proof: Proof::Readiness, .. } | Phase::Running => Some(ProbeRole::Readiness),
            _ => None,
        };
        if let Some(role) = role.filter(|role| instance.probing.contains(role)) {
            self.effects.push(Effect::ProbeNow { instance: id, role });
        }
        let Some(backend) = self.backend_of(&name) else { return };
        if !std::mem::replace(&mut backend.listening, true) {
            let slot = backend.slot;
            self.record(&name.to_string(), "listener opened", "inet_sock_set_state", "kernel");
            self.write_row(slot, "listens again", "kernel");
        }
    }

    /// The kernel saw its last listening socket close, and took its row out. It must pass readiness again.
    pub(super) fn on_listen_closed(&mut self, id: InstanceId) {
        let Some(name) = self.state.lives.get(&id).cloned() else { return };
        let Some(backend) = self.backend_of(&name) else { return };
        if !std::mem::replace(&mut backend.listening, false) {
            return;
        }
        let (slot, upstream) = (backend.slot, backend.upstream.clone());
        if let Some(probe) = self.upstream_probe(&upstream) {
            let verdict = Counter::down(probe.up_after, probe.down_after);
            if let Some(backend) = self.backend_of(&name) {
                backend.readiness = backend.readiness.map(|_| verdict);
            }
        }
        self.record(&name.to_string(), "listener closed", "inet_sock_set_state", "kernel");
        self.write_row(slot, "listener closed", "kernel");
        if let Some(instance) = self.state.instances.get_mut(&name).filter(|each| each.is_running()) {
            "listener closed".clone_into(&mut instance.reason);
        }
    }

    pub(super) fn upstream_probe(&self, upstream: &str) -> Option<Probe> {
        self.state.model.as_ref()?.upstreams.get(upstream)?.probe.clone()
    }
}

fn start_probe(
    instance: InstanceId,
    role: ProbeRole,
    probe: &Probe,
    address: Address,
    first: Duration,
) -> Effect {
    let every_ms = millis(probe.every);
    let first_ms = millis(first).min(every_ms);
    let kind = probe.kind.clone();
    Effect::StartProbe {
        instance,
        role,
        kind,
        address,
        every_ms,
        first_ms,
        timeout_ms: millis(probe.timeout),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
