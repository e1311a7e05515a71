//! `depends_on`: a start waits until what the program depends on is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::event::Effect;
use super::instance::{Goal, Name, Phase, Wait};
use super::step::Turn;
use crate::config::model::{Dependency, DependencyCondition, Program};
use crate::control::protocol::ProcessState;
use crate::limits::DEPENDENCY_EVERY;

impl Turn<'_> {
    /// Starts an instance that has no process, as soon as what it depends on is there.
    pub(super) fn bring_up(&mut self, name: &Name, cause: &str, actor: &str) {
        let now = self.now;
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.goal = Goal::Up;
        let asks = instance.program.depends_on.iter().any(|each| matches!(each, Dependency::Tcp(_)));
        let wait = Wait { outcomes: BTreeMap::new(), ask_at: asks.then_some(now) };
        let program = instance.program.clone();
        match self.unmet(&program, &wait) {
            None => self.spawn(name, cause, actor),
            Some(reason) => {
                self.enter(name, Phase::Waiting(wait), &reason, actor);
                self.ask_dependencies(name);
            }
        }
    }

    /// Starts whoever waited for what is there now.
    pub(super) fn start_waiting(&mut self) {
        let waiting: Vec<Name> = self
            .state
            .instances
            .values()
            .filter(|instance| matches!(instance.phase, Phase::Waiting(_)))
            .map(|instance| instance.name.clone())
            .collect();
        for name in waiting {
            let Some(instance) = self.state.instances.get(&name) else { continue };
            let Phase::Waiting(wait) = &instance.phase else { continue };
            let program = instance.program.clone();
            match self.unmet(&program, wait) {
                None => self.spawn(&name, "dependencies are there", "master"),
                Some(reason) => {
                    if let Some(instance) = self.state.instances.get_mut(&name) {
                        instance.reason = reason;
                    }
                }
            }
        }
    }

    /// What is not there yet, in words: the first of it.
    fn unmet(&self, program: &Program, wait: &Wait) -> Option<String> {
        program.depends_on.iter().find_map(|dependency| match dependency {
            Dependency::Tcp(address) => match wait.outcomes.get(address) {
                Some(Ok(())) => None,
                Some(Err(error)) => Some(format!("waiting for tcp:{address}: {error}")),
                None => Some(format!("waiting for tcp:{address}: not asked yet")),
            },
            Dependency::Program { name, condition } => self
                .unmet_program(name, *condition)
                .map(|state| format!("waiting for {name} to be {}: {state}", condition_word(*condition))),
        })
    }

    fn unmet_program(&self, program: &str, condition: DependencyCondition) -> Option<String> {
        let mut instances = self.state.instances_of(program).peekable();
        let Some(first) = instances.peek() else { return Some("no such program".to_owned()) };
        let first = first.process_state().name().to_owned();
        let is_met = instances.any(|each| match condition {
            DependencyCondition::Started => {
                matches!(each.process_state(), ProcessState::Starting | ProcessState::Running)
            }
            DependencyCondition::Healthy => self.is_ready(&each.name),
            DependencyCondition::Completed => each.phase == Phase::Exited { expected: true },
        });
        (!is_met).then_some(first)
    }

    /// Asks for what is not ours. Instances of one program share the questions and the answers.
    pub(super) fn ask_dependencies(&mut self, name: &Name) {
        let next = self.now + DEPENDENCY_EVERY;
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let Phase::Waiting(wait) = &mut instance.phase else { return };
        if wait.ask_at.is_none() {
            return;
        }
        wait.ask_at = Some(next);
        for dependency in instance.program.depends_on.clone() {
            let Dependency::Tcp(address) = dependency else { continue };
            if self.asked.insert((name.program.clone(), address)) {
                self.effects.push(Effect::CheckDependency { program: name.program.clone(), dependency });
            }
        }
    }

    pub(super) fn on_dependency_checked(
        &mut self,
        program: &str,
        dependency: &Dependency,
        result: &Result<(), String>,
    ) {
        let Dependency::Tcp(address) = dependency else { return };
        for instance in self.state.instances.values_mut().filter(|each| each.name.program == program) {
            note_outcome(&mut instance.phase, *address, result);
        }
    }
}

fn note_outcome(phase: &mut Phase, address: SocketAddr, result: &Result<(), String>) {
    if let Phase::Waiting(wait) = phase {
        wait.outcomes.insert(address, result.clone());
    }
}

fn condition_word(condition: DependencyCondition) -> &'static str {
    match condition {
        DependencyCondition::Started => "started",
        DependencyCondition::Healthy => "healthy",
        DependencyCondition::Completed => "completed",
    }
}
