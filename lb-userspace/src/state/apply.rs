//! A configuration is applied: what is there is compared with what should be, and brought there in steps that are safe each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::{Backend, Presence};
use super::change;
use super::event::{Effect, ProbeRole, Slot};
use super::instance::{Cause, Goal, Instance, Name, Phase, Proof, Replacement};
use super::request::Want;
use super::step::Turn;
use crate::config::model::{Address, Backend as Configured, Model, Probe, Program, Upstream};
use crate::control::protocol::FailureKind;
use crate::health::counter::Counter;
use crate::limits::STARTUP_WITHIN;
use lb_common::backend::TrafficState;

impl Turn<'_> {
    pub(super) fn on_apply(&mut self, model: &Arc<Model>, request: Option<u64>) {
        if self.is_shutting_down() {
            if let Some(request) = request {
                self.fail(request, FailureKind::Failed, "shutting down");
            }
            return;
        }
        let before = self.state.model.replace(model.clone());
        let mut lines = change::lines(before.as_deref(), model);
        self.record("master", "configuration applied", &change::count(&lines), "configuration");
        self.effects.push(Effect::Listen(model.clone()));
        self.apply_static_backends(before.as_deref(), model, &mut lines);
        self.give_up_left(model);
        self.apply_programs(before.as_deref(), model);
        self.publish_due = true;
        if let Some(request) = request {
            self.wait_for(request, Want::Acknowledged(self.state.published.number + 1), lines);
        }
    }

    fn apply_static_backends(&mut self, before: Option<&Model>, model: &Model, lines: &mut Vec<String>) {
        let wanted: BTreeMap<(String, Address), (&Upstream, &Configured)> = model
            .upstreams
            .values()
            .flat_map(|upstream| upstream.backends.iter().map(move |each| (upstream, each)))
            .map(|(upstream, each)| ((upstream.name.clone(), each.address.clone()), (upstream, each)))
            .collect();
        for (key, (upstream, configured)) in &wanted {
            if let Some(&slot) = self.state.static_slots.get(key) {
                let was = before.and_then(|model| model.upstreams.get(&key.0)?.probe.as_ref());
                self.update_static(slot, upstream, configured, was);
            } else if !self.add_static(upstream, configured) {
                lines.push(format!("upstream {}: backend {} not added: backend table is full", key.0, key.1));
            }
        }
        let gone: Vec<(String, Address)> =
            self.state.static_slots.keys().filter(|key| !wanted.contains_key(key)).cloned().collect();
        for key in gone {
            let wait =
                before.and_then(|model| model.upstreams.get(&key.0)).map(|upstream| upstream.drain_timeout);
            self.remove_static(&key, wait.unwrap_or_default());
        }
    }

    /// Backends that found the table full, now that there is room.
    pub(super) fn add_missing_static(&mut self) {
        let Some(model) = self.state.model.clone() else { return };
        for upstream in model.upstreams.values() {
            for configured in &upstream.backends {
                let key = (upstream.name.clone(), configured.address.clone());
                if !self.state.static_slots.contains_key(&key) {
                    self.publish_due |= self.add_static(upstream, configured);
                }
            }
        }
    }

    /// False when the table has no row for it.
    fn add_static(&mut self, upstream: &Upstream, configured: &Configured) -> bool {
        let subject = format!("{}/{}", upstream.name, configured.address);
        let identity = super::identity(&upstream.name, &configured.address);
        let left = self.state.left.rows.remove(&identity);
        let Some(slot) = left.map(|row| row.slot).or_else(|| self.state.slots.allocate()) else {
            self.record(&subject, "backend refused", "backend table is full", "configuration");
            return false;
        };
        let written = left.map(|row| row.written).unwrap_or_default();
        let id = if left.is_some() { written.instance } else { self.state.new_instance_id() };
        let verdict = if written.state == TrafficState::Out { Counter::down } else { Counter::up };
        let backend = Backend {
            address: Some(configured.address.clone()),
            instance: id,
            identity,
            weight: configured.weight,
            backup: configured.backup,
            presence: Presence::Started,
            readiness: upstream.probe.as_ref().map(|probe| verdict(probe.up_after, probe.down_after)),
            // One that was being given up weighs nothing.
            drained: written.state == TrafficState::Draining && written.weight != 0,
            written,
            reason: if left.is_some() { "as the master before left it" } else { "not probed yet" }.to_owned(),
            ..Backend::new(&upstream.name, configured.address.to_string(), slot)
        };
        self.state.backends.insert(slot, backend);
        self.state.static_slots.insert((upstream.name.clone(), configured.address.clone()), slot);
        self.state.static_lives.insert(id, slot);
        self.write_row(slot, "configured", "configuration");
        if let Some(probe) = &upstream.probe {
            self.probe_static(slot, probe);
        }
        true
    }

    fn update_static(&mut self, slot: Slot, upstream: &Upstream, to: &Configured, was: Option<&Probe>) {
        let Some(backend) = self.state.backends.get_mut(&slot) else { return };
        backend.weight = to.weight;
        backend.backup = to.backup;
        let now = upstream.probe.as_ref();
        if was != now {
            backend.readiness = verdict_under(backend.readiness, now, Counter::up);
            let instance = backend.instance;
            match now {
                Some(probe) => self.probe_static(slot, probe),
                None => self.effects.push(Effect::StopProbe { instance, role: ProbeRole::Readiness }),
            }
        }
        self.write_row(slot, "configuration changed", "configuration");
    }

    /// Nothing new comes at once; its row is free when no worker knows it and nothing is active on it.
    fn remove_static(&mut self, key: &(String, Address), wait: std::time::Duration) {
        let Some(slot) = self.state.static_slots.remove(key) else { return };
        let Some(backend) = self.state.backends.remove(&slot) else { return };
        self.state.static_lives.remove(&backend.instance);
        if backend.readiness.is_some() {
            let instance = backend.instance;
            self.effects.push(Effect::StopProbe { instance, role: ProbeRole::Readiness });
        }
        self.push_leaving_row(slot, backend.instance, backend.identity);
        self.state.slots.release(slot, Some(self.now + wait));
        self.effects.push(Effect::WatchDrain { slot });
        self.record(&backend.subject(), "backend removed", "not in the configuration", "configuration");
    }

    fn apply_programs(&mut self, before: Option<&Model>, model: &Model) {
        for program in model.programs.values() {
            let program = Arc::new(program.clone());
            for index in 0..program.instances {
                let name = Name { program: program.name.clone(), index };
                if self.state.instances.contains_key(&name) {
                    self.update_instance(&name, &program, before);
                } else {
                    self.add_instance(name, &program);
                }
            }
        }
        let is_wanted = |name: &Name| {
            model.programs.get(&name.program).is_some_and(|program| name.index < program.instances)
        };
        // The highest index goes first.
        let gone: Vec<Name> =
            self.state.instances.keys().filter(|name| !is_wanted(name)).rev().cloned().collect();
        for name in gone {
            self.retire(&name);
        }
    }

    fn add_instance(&mut self, name: Name, program: &Arc<Program>) {
        let siblings =
            self.state.instances_of(&program.name).filter(|each| !each.leaving).map(|each| each.goal);
        // More of a program that an operator started or stopped are as those that are there.
        let by_file = if program.autostart { Goal::Up } else { Goal::Down };
        let goal = siblings.into_iter().next().unwrap_or(by_file);
        let instance = Instance::new(name.clone(), program.clone(), goal, self.now);
        self.state.instances.insert(name.clone(), instance);
        self.has_row_if_needed(&name);
        if goal == Goal::Up {
            self.bring_up(&name, "configured", "configuration");
        }
    }

    fn update_instance(&mut self, name: &Name, program: &Arc<Program>, before: Option<&Model>) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let was = std::mem::replace(&mut instance.program, program.clone());
        let returns = std::mem::take(&mut instance.leaving);
        if matches!(&instance.replacement, Some(queued) if queued.cause == Cause::Retire) {
            instance.replacement = None;
        }
        if returns && instance.goal == Goal::Down && program.autostart {
            instance.goal = Goal::Up;
            self.cancel_drain(name, "configured again", "configuration");
        }
        self.update_backend(name, program);
        self.update_probes(name, &was, before);
        self.update_life(name, &was);
    }

    fn update_backend(&mut self, name: &Name, program: &Program) {
        let Some(backend) = self.backend_of(name) else { return };
        if let Some(upstream) = &program.upstream {
            backend.upstream.clone_from(upstream);
        }
        backend.weight = program.weight;
        let slot = backend.slot;
        self.write_row(slot, "configuration changed", "configuration");
    }

    /// Probes follow the configuration at once; the verdict stays until they say otherwise.
    fn update_probes(&mut self, name: &Name, was: &Program, before: Option<&Model>) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let program = instance.program.clone();
        let phase = instance.phase.clone();
        if !matches!(phase, Phase::Starting { .. } | Phase::Running | Phase::Draining { .. }) {
            return;
        }
        let probe_before = was.upstream.as_ref().and_then(|name| before?.upstreams.get(name)?.probe.as_ref());
        let probe_now = self.readiness_probe(&program).cloned();
        if probe_before != probe_now.as_ref() {
            self.change_readiness(name, &phase, probe_now.as_ref());
        }
        if was.liveness != program.liveness && phase == Phase::Running {
            self.stop_probe(name, ProbeRole::Liveness);
            if let Some(instance) = self.state.instances.get_mut(name) {
                instance.liveness = None;
            }
            self.probe_liveness(name);
        }
    }

    fn change_readiness(&mut self, name: &Name, phase: &Phase, probe: Option<&Probe>) {
        let begin: fn(u32, u32) -> Counter =
            if matches!(phase, Phase::Starting { .. }) { Counter::down } else { Counter::up };
        self.stop_probe(name, ProbeRole::Readiness);
        if let Some(backend) = self.backend_of(name) {
            backend.readiness = verdict_under(backend.readiness, probe, begin);
        }
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        match (phase, probe) {
            // What was to prove its start is not asked any more: a connection does.
            (Phase::Starting { proof: Proof::Readiness, until }, None) => {
                instance.phase = Phase::Starting { proof: Proof::Startup, until: *until };
                self.probe_start(name, Proof::Startup);
            }
            (Phase::Starting { proof: Proof::Readiness, .. } | Phase::Running, Some(_)) => {
                self.probe_readiness(name);
            }
            // It counted as started only because its time was up: a connection must prove it now.
            (Phase::Running, None) if instance.ready_since.is_none() => self.prove_start_again(name),
            (Phase::Running, None) => self.note_ready(name, "no longer probed", "configuration"),
            _ => {}
        }
    }

    fn prove_start_again(&mut self, name: &Name) {
        if let Some(backend) = self.backend_of(name) {
            backend.presence = Presence::Absent;
        }
        let until = self.now + STARTUP_WITHIN;
        let starting = Phase::Starting { proof: Proof::Startup, until };
        self.enter(name, starting, "readiness is no longer probed", "configuration");
        self.probe_start(name, Proof::Startup);
    }

    /// Replaces the process where the change touches it.
    fn update_life(&mut self, name: &Name, was: &Program) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let waits = matches!(instance.phase, Phase::Waiting(_));
        let is_configuration =
            matches!(&instance.replacement, Some(queued) if queued.cause == Cause::Configuration);
        if waits && was.depends_on != instance.program.depends_on {
            self.bring_up(name, "dependencies changed", "configuration");
        } else if instance.life.is_some() && !instance.is_outdated() {
            if is_configuration {
                instance.replacement = instance.replacement.take().and_then(Replacement::without_cause);
            }
        } else if instance.is_outdated()
            && instance.goal == Goal::Up
            && instance.replacement.is_none()
            && !waits
        {
            self.queue_replacement(name, Cause::Configuration, "configuration");
        } else if instance.goal == Goal::Up && instance.phase == Phase::Stopped {
            self.bring_up(name, "configured again", "configuration");
        }
    }

    fn retire(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        if std::mem::replace(&mut instance.leaving, true) {
            return;
        }
        if instance.life.is_some() {
            self.queue_replacement(name, Cause::Retire, "configuration");
        } else {
            self.forget(name);
        }
    }

    /// Gives an instance a row if it is a backend, and takes it where it no longer is. False when the table is full.
    pub(super) fn has_row_if_needed(&mut self, name: &Name) -> bool {
        let Some(instance) = self.state.instances.get(name) else { return false };
        let program = instance.program.clone();
        match (&program.upstream, instance.slot) {
            (Some(upstream), None) => self.give_row(name, upstream, program.weight),
            (None, Some(slot)) => {
                self.state.backends.remove(&slot);
                self.state.slots.release(slot, None);
                if let Some(instance) = self.state.instances.get_mut(name) {
                    instance.slot = None;
                }
                true
            }
            _ => true,
        }
    }

    fn give_row(&mut self, name: &Name, upstream: &str, weight: u32) -> bool {
        let Some(slot) = self.state.slots.allocate() else { return false };
        let is_wanted = self.state.instances.get(name).is_some_and(|instance| instance.goal == Goal::Up);
        let backend = Backend {
            supervised: Some(name.clone()),
            weight,
            expected: is_wanted,
            ..Backend::new(upstream, name.to_string(), slot)
        };
        self.state.backends.insert(slot, backend);
        if let Some(instance) = self.state.instances.get_mut(name) {
            instance.slot = Some(slot);
        }
        true
    }
}

impl super::State {
    /// In order of index.
    pub(super) fn instances_of(&self, program: &str) -> impl Iterator<Item = &Instance> {
        let first = Name { program: program.to_owned(), index: 0 };
        let last = Name { program: program.to_owned(), index: u32::MAX };
        self.instances.range(first..=last).map(|(_, instance)| instance)
    }
}

/// The verdict as it is, under a probe that has changed; `begin` where there was no probe before.
fn verdict_under(
    verdict: Option<Counter>,
    probe: Option<&Probe>,
    begin: fn(u32, u32) -> Counter,
) -> Option<Counter> {
    let probe = probe?;
    Some(match verdict {
        Some(verdict) => verdict.with_thresholds(probe.up_after, probe.down_after),
        None => begin(probe.up_after, probe.down_after),
    })
}
