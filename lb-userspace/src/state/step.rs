//! One event in, effects out: the only place that decides.

use std::collections::BTreeSet;

use super::State;
use super::event::{Effect, Event};
use super::instance::Name;
use crate::time::Time;

/// Takes one event into account and returns what to do, in the order in which to do it.
pub fn step(state: &mut State, event: Event, now: Time) -> Vec<Effect> {
    let mut turn = Turn::new(state, now);
    turn.take(event);
    turn.settle();
    turn.publish();
    turn.wake();
    turn.effects
}

/// One step in progress: the state, and what is to be done so far.
pub(super) struct Turn<'a> {
    pub state: &'a mut State,
    pub now: Time,
    pub effects: Vec<Effect>,
    /// Publish a picture even if it has the same content: somebody waits for its acknowledgement.
    pub publish_due: bool,
    /// Instances whose phase changed: whoever waits for them sees progress.
    pub moved: BTreeSet<Name>,
    /// What was asked of dependencies in this step, so that it is asked once.
    pub asked: BTreeSet<(String, std::net::SocketAddr)>,
    /// Something may still move: the next step shall come at once.
    pub unsettled: bool,
}

/// Rounds after which a step ends even if something still moves; the next step, at once, goes on. Chains are short: a stop frees
/// the budget, which stops the next one.
const ROUNDS_MAX: usize = 16;

impl<'a> Turn<'a> {
    fn new(state: &'a mut State, now: Time) -> Self {
        Self {
            state,
            now,
            effects: Vec::new(),
            publish_due: false,
            moved: BTreeSet::new(),
            asked: BTreeSet::new(),
            unsettled: false,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Apply { model, request } => self.on_apply(&model, request),
            Event::Spawned { instance, pid, address } => self.on_spawned(instance, pid, address),
            Event::SpawnFailed { instance, error } => self.on_spawn_failed(instance, &error),
            Event::Exited { instance, ending, last_line } => self.on_exited(instance, ending, last_line),
            Event::ListenOpened(instance) => self.on_listen_opened(instance),
            Event::ListenClosed(instance) => self.on_listen_closed(instance),
            Event::Probed { instance, role, result } => self.on_probed(instance, role, result),
            Event::BackendFailed { slot, instance, reason } => self.on_backend_failed(slot, instance, reason),
            Event::BackendSucceeded { slot, instance } => self.on_backend_succeeded(slot, instance),
            Event::Drained { slot } => self.on_drained(slot),
            Event::DependencyChecked { program, dependency, result } => {
                self.on_dependency_checked(&program, &dependency, &result);
            }
            Event::Acknowledged { number } => self.on_acknowledged(number),
            Event::Command { request, command, actor } => self.on_command(request, command, &actor),
            Event::Terminate => self.on_terminate("signal"),
            // Whatever the loop's timer was set to, it has fired: ask again for what is still to come.
            Event::Tick => self.state.wake = None,
        }
    }

    /// Lets everything happen that has become possible, until nothing moves.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let before = self.effects.len();
            self.fire_timers();
            self.start_waiting();
            self.spend_budget();
            self.free_rows();
            self.shut_down_further();
            self.answer_requests();
            if self.effects.len() == before {
                return;
            }
        }
        self.unsettled = true;
    }
}
