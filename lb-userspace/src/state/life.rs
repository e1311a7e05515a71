//! A life of an instance: spawned, started, ready, ended, and started again.

use super::backend::Presence;
use super::event::{Effect, Ending, InstanceId, ProbeRole};
use super::instance::{AfterExit, Cause, Goal, Instance, Name, Phase, Proof, ending_words};
use super::step::Turn;
use crate::config::model::{Address, AutoRestart, Probe, Program};
use crate::health::counter::Counter;
use crate::health::passive::Watch;
use crate::limits::{STARTED_AFTER, STARTUP_WITHIN};

impl Turn<'_> {
    /// Starts a life, now. Its row speaks of the new instance before the process exists, and is OUT.
    pub(super) fn spawn(&mut self, name: &Name, cause: &str, actor: &str) {
        if !self.has_row_if_needed(name) {
            self.enter(name, Phase::Fatal, "backend table is full", "master");
            return;
        }
        let id = self.state.new_instance_id();
        let now = self.now;
        let Some(instance) = self.state.instances.get(name) else { return };
        let program = instance.program.clone();
        let probe = self.readiness_probe(&program).cloned();
        let (proof, within) = proof_of_start(&program, probe.is_some());
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let address = instance.begin_life(id, now);
        let (slot, index) = (instance.slot, name.index);
        self.state.lives.insert(id, name.clone());
        self.enter(name, Phase::Starting { proof, until: now + within }, cause, actor);
        if let Some(backend) = self.backend_of(name) {
            backend.instance = id;
            backend.presence = Presence::Absent;
            backend.listening = true;
            backend.readiness = probe.map(|probe| Counter::down(probe.up_after, probe.down_after));
            backend.watch = Watch::default();
        }
        if let Some(slot) = slot {
            self.write_row(slot, cause, actor);
        }
        self.effects.push(Effect::Spawn { instance: id, slot, index, program, address });
    }

    pub(super) fn on_spawned(&mut self, id: InstanceId, pid: u32, address: Option<Address>) {
        let Some(name) = self.state.lives.get(&id).cloned() else { return };
        let now = self.now;
        let Some(instance) = self.state.instances.get_mut(&name) else { return };
        instance.pid = Some(pid);
        instance.address.clone_from(&address);
        self.record(&name.to_string(), "process spawned", &format!("pid={pid} instance={}", id.0), "master");
        self.place(&name, address);
        if self.kill_if_too_late(&name) {
            return;
        }
        match self.state.instances.get(&name).map(|instance| instance.phase.clone()) {
            Some(Phase::Starting { proof: Proof::Alive, .. }) => {
                if let Some(instance) = self.state.instances.get_mut(&name) {
                    instance.phase = Phase::Starting { proof: Proof::Alive, until: now + STARTED_AFTER };
                }
            }
            Some(Phase::Starting { proof, .. }) => self.probe_start(&name, proof),
            // It was to be stopped before it was there.
            Some(Phase::Draining { .. }) => self.end_draining(&name, "stopped while it was spawned"),
            _ => {}
        }
    }

    /// Tells where the backend is. A worker that knows its row at another address must learn the new one first.
    fn place(&mut self, name: &Name, address: Option<Address>) {
        let next = self.state.published.number + 1;
        let Some(backend) = self.backend_of(name) else { return };
        if backend.address != address {
            if backend.address.is_some() {
                backend.visible_from = next;
            }
            backend.address = address;
            self.publish_due = true;
        }
    }

    pub(super) fn on_spawn_failed(&mut self, id: InstanceId, error: &str) {
        let Some(name) = self.state.lives.remove(&id) else { return };
        let Some(instance) = self.state.instances.get_mut(&name) else { return };
        instance.life = None;
        instance.failed_start = true;
        let was_stopping = instance.is_stopping();
        self.record(&name.to_string(), "process not spawned", error, "master");
        if was_stopping {
            self.after_stop(&name, error);
        } else {
            self.fail_start(&name, error);
        }
    }

    pub(super) fn on_exited(&mut self, id: InstanceId, ending: Ending, last_line: Option<String>) {
        let Some(name) = self.state.lives.remove(&id) else { return };
        let words = ending_words(ending);
        self.withdraw(&name, &words, "kernel");
        self.stop_probes(&name);
        let now = self.now;
        let Some(instance) = self.state.instances.get_mut(&name) else { return };
        instance.life = None;
        instance.pid = None;
        instance.ending = Some(ending);
        instance.last_line = last_line;
        let was_stopping = instance.is_stopping();
        let ready_long_enough = instance.was_ready_long_enough(now);
        let after = instance.policy_after(ending);
        self.record(&name.to_string(), "process exited", &words, "kernel");
        if was_stopping {
            self.after_stop(&name, &words);
            return;
        }
        match after {
            AfterExit::Rest { expected } => self.enter(&name, Phase::Exited { expected }, &words, "kernel"),
            AfterExit::Restart if ready_long_enough => self.start_again(&name, &words),
            AfterExit::Restart => self.fail_start(&name, &words),
        }
    }

    /// Its row takes nothing and nobody waits for it to drain any more.
    pub(super) fn withdraw(&mut self, name: &Name, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let watched = matches!(instance.phase, Phase::Draining { until: Some(_), .. });
        let Some(slot) = instance.slot else { return };
        if let Some(backend) = self.state.backends.get_mut(&slot) {
            backend.presence = Presence::Absent;
        }
        self.write_row(slot, cause, actor);
        if watched {
            self.effects.push(Effect::UnwatchDrain { slot });
        }
    }

    /// What follows an end that we asked for.
    fn after_stop(&mut self, name: &Name, words: &str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        if instance.goal == Goal::Down {
            self.rest(name, &format!("stopped: {words}"), "master");
        } else if instance.failed_start {
            let reason = std::mem::take(&mut instance.reason);
            self.fail_start(name, &reason);
        } else {
            if instance.counts_as_restart {
                instance.restarts += 1;
            }
            let reason = std::mem::take(&mut instance.reason);
            self.spawn(name, &reason, "master");
        }
    }

    /// Nothing is to be there: STOPPED, or forgotten where it was leaving.
    pub(super) fn rest(&mut self, name: &Name, cause: &str, actor: &str) {
        self.enter(name, Phase::Stopped, cause, actor);
        if self.state.instances.get(name).is_some_and(|instance| instance.leaving) {
            self.forget(name);
        }
    }

    /// It had served well, so it is started again without waiting.
    fn start_again(&mut self, name: &Name, words: &str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.back_off.reset();
        instance.restarts += 1;
        self.spawn(name, &format!("started again after {words}"), "master");
    }

    /// A start that failed: BACKOFF, or FATAL when it has failed too often.
    fn fail_start(&mut self, name: &Name, why: &str) {
        let chance = self.state.rng.f64();
        let now = self.now;
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.failed_start = false;
        let wait = instance.back_off.fail(chance);
        let failures = instance.back_off.failures();
        let retries = instance.program.start_retries;
        if instance.goal == Goal::Down {
            self.rest(name, why, "master");
        } else if instance.program.autorestart == AutoRestart::Never {
            self.enter(name, Phase::Fatal, why, "master");
        } else if retries > 0 && failures > retries {
            let reason = format!("{why}; {failures} starts failed");
            self.enter(name, Phase::Fatal, &reason, "master");
        } else {
            let reason = format!("{why}; next start in {:.1} s after {failures} failed", wait.as_secs_f64());
            self.enter(name, Phase::Backoff { until: now + wait }, &reason, "master");
        }
    }

    pub(super) fn start_after_back_off(&mut self, name: &Name) {
        if let Some(instance) = self.state.instances.get_mut(name) {
            instance.restarts += 1;
        }
        self.bring_up(name, "back-off is over", "master");
    }

    /// The proof of its start was given.
    pub(super) fn started(&mut self, name: &Name, cause: &str, actor: &str) {
        self.stop_probe(name, ProbeRole::Startup);
        let starts = |each: &Instance| matches!(each.phase, Phase::Starting { .. });
        if !self.state.instances.get(name).is_some_and(starts) {
            return;
        }
        self.enter(name, Phase::Running, cause, actor);
        if let Some(backend) = self.backend_of(name) {
            backend.presence = Presence::Started;
        }
        self.probe_running(name);
        self.note_ready(name, cause, actor);
    }

    /// Takes it into rotation if it has started and is ready.
    pub(super) fn note_ready(&mut self, name: &Name, cause: &str, actor: &str) {
        if !self.is_ready(name) {
            return;
        }
        let now = self.now;
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.ready_since.get_or_insert(now);
        instance.in_replacement = false;
        cause.clone_into(&mut instance.reason);
        if let Some(slot) = instance.slot {
            self.write_row(slot, cause, actor);
        }
    }

    /// RUNNING, and ready where it is a backend.
    pub(super) fn is_ready(&self, name: &Name) -> bool {
        let Some(instance) = self.state.instances.get(name) else { return false };
        let backend = instance.slot.and_then(|slot| self.state.backends.get(&slot));
        instance.is_running() && backend.is_none_or(super::backend::Backend::is_ready)
    }

    /// The time to start is over.
    pub(super) fn on_start_deadline(&mut self, name: &Name, proof: Proof) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let error = instance.last_probe_error.clone().unwrap_or_else(|| "no answer".to_owned());
        match proof {
            Proof::Alive => self.started(name, "lives", "master"),
            Proof::Readiness => {
                self.started(
                    name,
                    &format!("not ready within {} s: {error}", STARTUP_WITHIN.as_secs()),
                    "master",
                );
            }
            Proof::Startup => {
                instance.failed_start = true;
                self.signal(name, &format!("startup probe: {error}"), "probe");
            }
        }
    }

    pub(super) fn readiness_probe(&self, program: &Program) -> Option<&Probe> {
        program.address.as_ref()?;
        self.state.model.as_ref()?.upstreams.get(program.upstream.as_ref()?)?.probe.as_ref()
    }
}

impl Instance {
    /// Forgets the life before. Returns where that one listened, if the new one is to listen there too.
    fn begin_life(&mut self, id: InstanceId, now: crate::time::Time) -> Option<Address> {
        let kept = self.spawned_as.as_ref().is_some_and(|was| was.address == self.program.address);
        self.spawned_as = Some(self.program.clone());
        self.life = Some(id);
        self.last_life = id;
        self.pid = None;
        self.spawned_at = now;
        self.ready_since = None;
        self.failed_start = false;
        self.counts_as_restart = false;
        // A new life is what was queued for, unless this one is to be its last.
        self.replacement.take_if(|queued| queued.cause != Cause::Retire);
        self.liveness = None;
        self.last_probe_error = None;
        self.address.clone().filter(|_| kept)
    }

    /// What it will be when it has stopped.
    pub(super) fn note_replacement(&mut self, cause: &Cause) {
        self.in_replacement = true;
        self.counts_as_restart = matches!(cause, Cause::Liveness(_));
    }
}

/// How to know that the program has started, and how long that may take.
fn proof_of_start(program: &Program, has_readiness_probe: bool) -> (Proof, std::time::Duration) {
    match (&program.startup, &program.address) {
        (_, None) => (Proof::Alive, STARTED_AFTER),
        (Some(startup), Some(_)) => (Proof::Startup, startup.within),
        (None, Some(_)) if has_readiness_probe => (Proof::Readiness, STARTUP_WITHIN),
        (None, Some(_)) => (Proof::Startup, STARTUP_WITHIN),
    }
}
