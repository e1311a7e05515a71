//! Control requests in progress: each is answered once, when what it asked for is so or cannot become so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::{Effect, InstanceId};
use super::instance::{Instance, Name, Phase};
use super::step::Turn;
use crate::config::model::Program;
use crate::control::protocol::{Answer, FailureKind};
use crate::limits::{ACKNOWLEDGE_TIMEOUT, COMMAND_PATIENCE, COMMANDS_MAX};
use crate::time::Time;

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub id: u64,
    pub want: Want,
    /// What to say when it is done.
    pub lines: Vec<String>,
    /// How long nothing may move before it is given up.
    pub patience: Duration,
    /// When that is; `None`: it is never given up.
    pub deadline: Option<Time>,
}

/// What a request waits for.
#[derive(Clone, Debug)]
pub(super) enum Want {
    /// Every worker serves this picture.
    Acknowledged(u64),
    /// Each is RUNNING and ready, in a life after the one named.
    Up(BTreeMap<Name, InstanceId>),
    /// Each has ended.
    Down(BTreeSet<Name>),
    /// Everything has ended.
    End,
}

/// What has become of a request.
enum Progress {
    Done,
    Waiting,
    Failed(String),
}

impl Turn<'_> {
    /// Takes a request on, to be answered later.
    pub(super) fn wait_for(&mut self, id: u64, want: Want, lines: Vec<String>) {
        if self.state.requests.len() >= COMMANDS_MAX {
            self.fail(id, FailureKind::Failed, "too many commands in progress");
            return;
        }
        let patience = match &want {
            Want::Acknowledged(_) => ACKNOWLEDGE_TIMEOUT * 2,
            Want::Up(names) => self.patience(names.keys()),
            Want::Down(names) => self.patience(names.iter()),
            Want::End => Duration::MAX,
        };
        let deadline = (patience != Duration::MAX).then(|| self.now + patience);
        self.state.requests.push(Request { id, want, lines, patience, deadline });
    }

    /// How long one of the instances may go without visible progress.
    fn patience<'n>(&self, names: impl Iterator<Item = &'n Name>) -> Duration {
        let longest = |instance: &Instance| {
            let program = &instance.program;
            let start = program.startup.as_ref().map_or(COMMAND_PATIENCE, |startup| startup.within);
            start + self.slow_start(program) + program.stop.drain_timeout + program.stop.kill_after
        };
        let of_programs = names.filter_map(|name| self.state.instances.get(name)).map(longest).max();
        COMMAND_PATIENCE + of_programs.unwrap_or_default()
    }

    /// How long an instance takes to be IN when it is ready.
    fn slow_start(&self, program: &Program) -> Duration {
        let upstream =
            self.state.model.as_ref().and_then(|model| model.upstreams.get(program.upstream.as_ref()?));
        upstream.map_or(Duration::ZERO, |upstream| upstream.slow_start)
    }

    /// Answers what can be answered.
    pub(super) fn answer_requests(&mut self) {
        let now = self.now;
        let mut waiting = std::mem::take(&mut self.state.requests);
        let mut open = Vec::new();
        for mut request in waiting.drain(..) {
            if request.names().any(|name| self.moved.contains(name)) {
                request.deadline = Some(now + request.patience);
            }
            match self.progress(&request) {
                Progress::Done => self.done(request.id, request.lines),
                Progress::Failed(why) => self.give_up(request.id, &why),
                Progress::Waiting if request.deadline.is_some_and(|at| at <= now) => {
                    let why = self.stuck(&request);
                    self.give_up(request.id, &why);
                }
                Progress::Waiting => open.push(request),
            }
        }
        open.append(&mut self.state.requests);
        self.state.requests = open;
    }

    fn progress(&self, request: &Request) -> Progress {
        match &request.want {
            Want::Acknowledged(number) if *number <= self.state.acknowledged => Progress::Done,
            Want::Acknowledged(_) | Want::End => Progress::Waiting,
            Want::Down(names) => {
                let all = names.iter().all(|name| {
                    self.state.instances.get(name).is_none_or(|each| each.phase == Phase::Stopped)
                });
                if all { Progress::Done } else { Progress::Waiting }
            }
            Want::Up(names) => self.progress_up(names),
        }
    }

    fn progress_up(&self, names: &BTreeMap<Name, InstanceId>) -> Progress {
        let mut waiting = false;
        for (name, before) in names {
            let Some(instance) = self.state.instances.get(name) else {
                return Progress::Failed(format!("{name}: no longer in the configuration"));
            };
            let is_new = instance.last_life > *before;
            let is_up = self.is_ready(name) || instance.phase == Phase::Exited { expected: true };
            if is_new && is_up {
                continue;
            }
            if has_failed(instance, is_new) {
                let state = instance.process_state().name();
                return Progress::Failed(format!("{name}: {state}: {}", instance.reason));
            }
            waiting = true;
        }
        if waiting { Progress::Waiting } else { Progress::Done }
    }

    /// Why it has not come further.
    fn stuck(&self, request: &Request) -> String {
        if let Want::Acknowledged(number) = &request.want {
            return format!("workers have not acknowledged picture {number} in time");
        }
        let is_open = |name: &&Name| match &request.want {
            Want::Up(_) => !self.is_ready(name),
            _ => self.state.instances.get(name).is_some_and(|each| !each.is_at_rest()),
        };
        let Some(name) = request.names().find(is_open).or_else(|| request.names().next()) else {
            return "no progress".to_owned();
        };
        let reason = match self.state.instances.get(name) {
            Some(instance) if instance.replacement.is_some() => "waits until its upstream can spare it",
            Some(instance) => &instance.reason,
            None => "gone",
        };
        format!("{name}: no progress: {reason}")
    }

    /// A request that failed: what it had queued and not begun is not done either.
    fn give_up(&mut self, id: u64, why: &str) {
        self.cancel_replacements(id);
        self.fail(id, FailureKind::Failed, why);
    }

    /// Fails a request in progress.
    pub(super) fn fail_request(&mut self, id: u64, why: &str) {
        let before = self.state.requests.len();
        self.state.requests.retain(|request| request.id != id);
        if self.state.requests.len() < before {
            self.give_up(id, why);
        }
    }

    /// The one answer of a request that is done.
    pub(super) fn done(&mut self, request: u64, lines: Vec<String>) {
        self.effects.push(Effect::Answer { request, answer: Answer::Done { lines } });
    }

    /// The one answer of a request that failed.
    pub(super) fn fail(&mut self, request: u64, kind: FailureKind, message: &str) {
        let answer = Answer::Failed { kind, message: message.to_owned() };
        self.effects.push(Effect::Answer { request, answer });
    }
}

impl Request {
    fn names(&self) -> Box<dyn Iterator<Item = &Name> + '_> {
        match &self.want {
            Want::Up(names) => Box::new(names.keys()),
            Want::Down(names) => Box::new(names.iter()),
            Want::Acknowledged(_) | Want::End => Box::new(std::iter::empty()),
        }
    }
}

/// Whether the start that was asked for has failed: a later one may come, but the operator is told now.
fn has_failed(instance: &Instance, is_new: bool) -> bool {
    match instance.phase {
        Phase::Stopped | Phase::Fatal => true,
        Phase::Backoff { .. } | Phase::Exited { .. } => is_new,
        Phase::Draining { .. } | Phase::Signalled { .. } | Phase::Killed { .. } => {
            instance.goal == super::instance::Goal::Down
        }
        Phase::Waiting(_) | Phase::Starting { .. } | Phase::Running => false,
    }
}
