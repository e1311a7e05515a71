//! What operators ask for.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{InstanceId, Slot};
use super::instance::{Goal, Instance, Name, Phase};
use super::request::Want;
use super::step::Turn;
use super::stop::Haste;
use crate::control::protocol::{Command, FailureKind};

impl Turn<'_> {
    pub(super) fn on_command(&mut self, request: u64, command: Command, actor: &str) {
        if self.is_shutting_down() {
            self.fail(request, FailureKind::Failed, "shutting down");
            return;
        }
        match command {
            Command::Start { names } => self.on_start(request, &names, actor),
            Command::Stop { names, now } => self.on_stop(request, &names, haste(now), actor),
            Command::Restart { names, now: false } => self.on_rolling_restart(request, &names, actor),
            Command::Restart { names, now: true } => self.on_restart_now(request, &names, actor),
            Command::Drain { names } => self.on_drain(request, &names, Rotation::Out, actor),
            Command::Undrain { names } => self.on_drain(request, &names, Rotation::In, actor),
            Command::Shutdown => {
                self.wait_for(request, Want::End, vec!["everything has ended".to_owned()]);
                self.on_terminate(actor);
            }
            Command::Status { .. }
            | Command::Reload
            | Command::Logs { .. }
            | Command::Events { .. }
            | Command::Doctor
            | Command::Vips { .. }
            | Command::FlowLookup { .. }
            | Command::Capture { .. } => {
                self.fail(request, FailureKind::Failed, "only the master's loop can answer this");
            }
        }
    }

    fn on_start(&mut self, request: u64, names: &[String], actor: &str) {
        let Some(names) = self.select_or_fail(request, names) else { return };
        let mut want = BTreeMap::new();
        let mut lines = Vec::new();
        for name in names {
            let (after, line) = self.start(&name, actor);
            lines.push(format!("{name}: {line}"));
            want.insert(name, after);
        }
        self.wait_for(request, Want::Up(want), lines);
    }

    /// Brings one up. Returns the life after which it is up, and what is done.
    fn start(&mut self, name: &Name, actor: &str) -> (InstanceId, &'static str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return Default::default() };
        let was_down = std::mem::replace(&mut instance.goal, Goal::Up) == Goal::Down;
        let last = instance.last_life;
        match instance.phase {
            Phase::Starting { .. } | Phase::Running => (InstanceId::default(), "already running"),
            Phase::Draining { until: Some(_), .. } if was_down => {
                self.cancel_drain(name, &format!("started by {actor}"), actor);
                (InstanceId::default(), "not stopped after all")
            }
            Phase::Draining { .. } | Phase::Signalled { .. } | Phase::Killed { .. } | Phase::Waiting(_) => {
                (last, "started")
            }
            Phase::Stopped | Phase::Backoff { .. } | Phase::Exited { .. } | Phase::Fatal => {
                instance.back_off.reset();
                self.bring_up(name, &format!("started by {actor}"), actor);
                (last, "started")
            }
        }
    }

    fn on_stop(&mut self, request: u64, names: &[String], haste: Haste, actor: &str) {
        let Some(names) = self.select_or_fail(request, names) else { return };
        for name in &names {
            self.stop_for_good(name, haste, &format!("stopped by {actor}"), actor);
        }
        let lines = names.iter().map(|name| format!("{name}: stopped")).collect();
        self.wait_for(request, Want::Down(names), lines);
    }

    /// Ends the process and leaves it so.
    pub(super) fn stop_for_good(&mut self, name: &Name, haste: Haste, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.goal = Goal::Down;
        instance.in_replacement = false;
        instance.replacement = None;
        instance.back_off.reset();
        self.stop(name, haste, cause, actor);
    }

    fn on_rolling_restart(&mut self, request: u64, names: &[String], actor: &str) {
        let Some(names) = self.select_or_fail(request, names) else { return };
        let want = self.want_newer(&names);
        let lines = names.iter().map(|name| format!("{name}: restarted")).collect();
        self.wait_for(request, Want::Up(want), lines);
        for name in &names {
            self.set_goal_up(name);
            self.queue_restart(name, request, actor);
        }
    }

    fn on_restart_now(&mut self, request: u64, names: &[String], actor: &str) {
        let Some(names) = self.select_or_fail(request, names) else { return };
        let want = self.want_newer(&names);
        let lines = names.iter().map(|name| format!("{name}: restarted")).collect();
        let cause = format!("restart --now by {actor}");
        for name in &names {
            self.set_goal_up(name);
            self.restart_now(name, &cause, actor);
        }
        self.wait_for(request, Want::Up(want), lines);
    }

    fn restart_now(&mut self, name: &Name, cause: &str, actor: &str) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.replacement = None;
        if instance.life.is_some() {
            self.stop(name, Haste::Now, cause, actor);
        } else {
            instance.back_off.reset();
            self.bring_up(name, cause, actor);
        }
    }

    fn set_goal_up(&mut self, name: &Name) {
        if let Some(instance) = self.state.instances.get_mut(name) {
            instance.goal = Goal::Up;
        }
    }

    fn want_newer(&self, names: &BTreeSet<Name>) -> BTreeMap<Name, InstanceId> {
        let last =
            |name: &Name| self.state.instances.get(name).map(|each| each.last_life).unwrap_or_default();
        names.iter().map(|name| (name.clone(), last(name))).collect()
    }

    /// Takes backends out of rotation, or back in; answered when every worker has seen the table as it is now.
    fn on_drain(&mut self, request: u64, names: &[String], rotation: Rotation, actor: &str) {
        let slots = match self.select_backends(names) {
            Ok(slots) => slots,
            Err((kind, message)) => {
                self.fail(request, kind, &message);
                return;
            }
        };
        let mut lines = Vec::new();
        for slot in slots {
            let Some(backend) = self.state.backends.get_mut(&slot) else { continue };
            backend.drained = rotation == Rotation::Out;
            lines.push(format!("{}: {}", backend.subject(), rotation.words()));
            self.write_row(slot, &format!("{} by {actor}", rotation.words()), actor);
        }
        self.publish_due = true;
        self.wait_for(request, Want::Acknowledged(self.state.published.number + 1), lines);
    }

    /// The instances that `names` select, or an answer to the request.
    fn select_or_fail(&mut self, request: u64, names: &[String]) -> Option<BTreeSet<Name>> {
        match self.select_instances(names) {
            Ok(selected) => Some(selected),
            Err(message) => {
                self.fail(request, FailureKind::NoSuchName, &message);
                None
            }
        }
    }

    fn select_instances(&self, names: &[String]) -> Result<BTreeSet<Name>, String> {
        let staying = || self.state.instances.values().filter(|instance| !instance.leaving);
        if names.is_empty() {
            return Ok(staying().map(|instance| instance.name.clone()).collect());
        }
        let mut selected = BTreeSet::new();
        for name in names {
            let before = selected.len();
            let known: Vec<_> = staying().filter(|instance| instance.is_named(name)).collect();
            selected.extend(known.iter().map(|instance| instance.name.clone()));
            if selected.len() == before && known.is_empty() {
                return Err(self.unknown(name));
            }
        }
        Ok(selected)
    }

    fn unknown(&self, name: &str) -> String {
        if self.state.backends.values().any(|backend| backend.subject() == *name) {
            format!("{name}: not supervised; only drain and undrain apply to it")
        } else {
            format!("{name}: no such program or instance")
        }
    }

    /// The rows that `names` select: static backends, programs, instances.
    fn select_backends(&self, names: &[String]) -> Result<BTreeSet<Slot>, (FailureKind, String)> {
        if names.is_empty() {
            return Ok(self.state.backends.keys().copied().collect());
        }
        let mut selected = BTreeSet::new();
        for name in names {
            let fixed =
                self.state.backends.values().filter(|each| each.subject() == *name).map(|each| each.slot);
            let instances: Vec<_> =
                self.state.instances.values().filter(|each| each.is_named(name)).collect();
            let slots: Vec<Slot> = fixed.chain(instances.iter().filter_map(|each| each.slot)).collect();
            if slots.is_empty() && instances.is_empty() {
                return Err((
                    FailureKind::NoSuchName,
                    format!("{name}: no such program, instance or backend"),
                ));
            }
            if slots.is_empty() {
                return Err((FailureKind::Failed, format!("{name}: gets no traffic, it has no upstream")));
            }
            selected.extend(slots);
        }
        Ok(selected)
    }
}

impl Instance {
    /// Whether an operator means it by this name: that of its program, or its own.
    fn is_named(&self, name: &str) -> bool {
        self.name.program == name || self.name.to_string() == name
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotation {
    Out,
    In,
}

impl Rotation {
    fn words(self) -> &'static str {
        match self {
            Self::Out => "drained",
            Self::In => "undrained",
        }
    }
}

fn haste(now: bool) -> Haste {
    if now { Haste::Now } else { Haste::Drain }
}
