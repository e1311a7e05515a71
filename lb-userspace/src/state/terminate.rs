//! The end of everything: drain all, stop each program after those that depend on it, then finish.

use super::event::Effect;
use super::instance::{Goal, Name, Phase};
use super::request::Want;
use super::step::Turn;
use super::stop::Haste;
use crate::config::model::{Dependency, Model, Program};
use std::sync::Arc;

/// How far the end of everything has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shutdown {
    #[default]
    No,
    Gracefully,
    /// A second signal came: nothing is waited for.
    AtOnce,
    Finished,
}

impl Turn<'_> {
    pub(super) fn is_shutting_down(&self) -> bool {
        self.state.shutdown != Shutdown::No
    }

    pub(super) fn on_terminate(&mut self, actor: &str) {
        match self.state.shutdown {
            Shutdown::No => self.begin_shut_down(actor),
            Shutdown::Gracefully => self.kill_everything(actor),
            Shutdown::AtOnce | Shutdown::Finished => {}
        }
    }

    fn begin_shut_down(&mut self, actor: &str) {
        self.state.shutdown = Shutdown::Gracefully;
        self.record("master", "master stopping", "shutdown", actor);
        self.fail_all_requests();
        self.close_listeners();
        let names: Vec<Name> = self.state.instances.keys().cloned().collect();
        for name in &names {
            self.stop_for_good(name, Haste::Drain, "shutdown", actor);
        }
    }

    /// Nobody shall come to a door behind which everybody leaves.
    fn close_listeners(&mut self) {
        let Some(model) = &self.state.model else { return };
        let closed = Arc::new(Model { listeners: Vec::new(), ..(**model).clone() });
        self.state.model = Some(closed.clone());
        self.effects.push(Effect::Listen(closed));
        self.publish_due = true;
    }

    /// Every request in progress is answered now, but those that wait for the end.
    fn fail_all_requests(&mut self) {
        let open: Vec<u64> = self
            .state
            .requests
            .iter()
            .filter(|request| !matches!(request.want, Want::End))
            .map(|request| request.id)
            .collect();
        for id in open {
            self.fail_request(id, "shutting down");
        }
    }

    fn kill_everything(&mut self, actor: &str) {
        self.state.shutdown = Shutdown::AtOnce;
        self.record("master", "master stopping", "second signal", actor);
        let living: Vec<Name> = self
            .state
            .instances
            .values()
            .filter(|each| each.pid.is_some())
            .map(|each| each.name.clone())
            .collect();
        for name in living {
            self.withdraw(&name, "second signal", actor);
            self.stop_probes(&name);
            self.kill(&name);
        }
    }

    /// Signals who waited for others to end first, and finishes when all have ended.
    pub(super) fn shut_down_further(&mut self) {
        if !matches!(self.state.shutdown, Shutdown::Gracefully | Shutdown::AtOnce) {
            return;
        }
        let ready: Vec<Name> = self
            .state
            .instances
            .values()
            .filter(|each| matches!(each.phase, Phase::Draining { done: true, .. }))
            .map(|each| each.name.clone())
            .filter(|name| !self.must_wait_for_dependents(name))
            .collect();
        for name in ready {
            self.signal(&name, "shutdown", "master");
        }
        if self.state.instances.values().all(|each| each.life.is_none()) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.state.shutdown = Shutdown::Finished;
        self.record("master", "master finished", "everything has ended", "master");
        for request in std::mem::take(&mut self.state.requests) {
            self.done(request.id, request.lines);
        }
        self.effects.push(Effect::Finish);
    }

    /// While everything is shut down, a program is stopped after those that depend on it. A circle of programs is cut where
    /// nobody else could go first.
    pub(super) fn must_wait_for_dependents(&self, name: &Name) -> bool {
        if self.state.shutdown != Shutdown::Gracefully {
            return false;
        }
        self.has_living_dependents(&name.program) && !self.all_wait_for_each_other()
    }

    fn has_living_dependents(&self, program: &str) -> bool {
        self.state.instances.values().any(|each| {
            each.life.is_some() && each.name.program != program && depends_on(&each.program, program)
        })
    }

    /// Whether each living process has had its wait and waits for another one's end.
    fn all_wait_for_each_other(&self) -> bool {
        self.state.instances.values().filter(|each| each.life.is_some()).all(|each| {
            matches!(each.phase, Phase::Draining { done: true, .. })
                && self.has_living_dependents(&each.name.program)
        })
    }

    /// A process that came to be while everything ends at once is killed, too.
    pub(super) fn kill_if_too_late(&mut self, name: &Name) -> bool {
        if self.state.shutdown != Shutdown::AtOnce {
            return false;
        }
        if let Some(instance) = self.state.instances.get_mut(name) {
            instance.goal = Goal::Down;
        }
        self.kill(name);
        true
    }
}

fn depends_on(program: &Program, other: &str) -> bool {
    program.depends_on.iter().any(|each| matches!(each, Dependency::Program { name, .. } if name == other))
}
