//! One budget for all voluntary ends of a life (invariant 4): restart, liveness, reload, scale-down. What is IN and would take its
//! upstream below the minimum waits; one instance after the other is replaced, and an old one never leaves because a new one
//! failed (invariant 6).

use std::collections::BTreeSet;

use super::backend::Backend;
use super::event::Effect;
use super::instance::{Cause, Goal, Instance, Name, Phase, Replacement};
use super::step::Turn;
use super::stop::Haste;
use crate::limits::FROZEN_DRAIN_MAX;
use lb_common::backend::TrafficState;

/// May an instance be taken down now?
enum Verdict {
    Go,
    /// Others are on their way; when they are IN, it may.
    Wait,
    /// Nothing that is on its way would allow it. Carries the reason.
    Blocked(String),
}

impl Turn<'_> {
    /// Queues the voluntary end of this life. What was queued before keeps its place and its operators; retiring stays, and a cause
    /// of its own is not lost to an operator's wish.
    pub(super) fn queue_replacement(&mut self, name: &Name, cause: Cause, actor: &str) {
        let order = self.state.next_order;
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let what = cause.words(actor);
        let new = Replacement { cause, requests: BTreeSet::new(), actor: actor.to_owned(), order };
        instance.replacement = Some(match instance.replacement.take() {
            None => new,
            Some(queued) if queued.cause == Cause::Retire => {
                instance.replacement = Some(queued);
                return;
            }
            Some(queued) if new.cause == Cause::Operator => queued,
            Some(queued) => Replacement { requests: queued.requests, order: queued.order, ..new },
        });
        self.state.next_order += 1;
        self.record(&name.to_string(), "replacement queued", &what, actor);
    }

    /// Queues it for an operator, who is told what becomes of it.
    pub(super) fn queue_restart(&mut self, name: &Name, request: u64, actor: &str) {
        self.queue_replacement(name, Cause::Operator, actor);
        if let Some(queued) = self.state.instances.get_mut(name).and_then(|each| each.replacement.as_mut()) {
            queued.requests.insert(request);
        }
    }

    /// Lets those go whom the budget allows, in order; first those that need only be started (the others may wait for them), then
    /// the frozen.
    pub(super) fn spend_budget(&mut self) {
        self.queue_outdated();
        let mut queue: Vec<(bool, bool, u64, Name)> = self
            .state
            .instances
            .values()
            .filter_map(|instance| {
                let queued = instance.replacement.as_ref()?;
                let is_liveness = matches!(queued.cause, Cause::Liveness(_));
                Some((instance.life.is_some(), !is_liveness, queued.order, instance.name.clone()))
            })
            .collect();
        queue.sort();
        for (_, _, _, name) in queue {
            self.replace_if_allowed(&name);
        }
    }

    /// Whatever became of an earlier queueing: a process that is not what the configuration asks for is to be replaced.
    fn queue_outdated(&mut self) {
        let outdated: Vec<Name> = self
            .state
            .instances
            .values()
            .filter(|each| matches!(each.phase, Phase::Starting { .. } | Phase::Running))
            .filter(|each| each.goal == Goal::Up && each.replacement.is_none() && each.is_outdated())
            .map(|each| each.name.clone())
            .collect();
        for name in outdated {
            self.queue_replacement(&name, Cause::Configuration, "configuration");
        }
    }

    fn replace_if_allowed(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.get(name) else { return };
        let Some(queued) = instance.replacement.clone() else { return };
        match &instance.phase {
            Phase::Starting { .. } | Phase::Running => match self.verdict(instance, &queued.cause) {
                Verdict::Go => self.replace(name, &queued),
                Verdict::Wait => {}
                Verdict::Blocked(reason) => self.refuse(name, &queued, &reason),
            },
            Phase::Draining { .. } | Phase::Signalled { .. } | Phase::Killed { .. } => {
                self.replace_when_stopped(name, &queued);
            }
            _ if queued.cause == Cause::Retire => self.replace(name, &queued),
            _ => self.start_instead(name, &queued),
        }
    }

    /// Ends the life; the next one follows unless it is retired.
    fn replace(&mut self, name: &Name, queued: &Replacement) {
        self.take_from_queue(name, &queued.cause);
        let haste = match queued.cause {
            Cause::Liveness(_) => Haste::DrainAtMost(FROZEN_DRAIN_MAX),
            Cause::Operator | Cause::Configuration | Cause::Retire => Haste::Drain,
        };
        self.stop(name, haste, &queued.cause.words(&queued.actor), &queued.actor);
    }

    fn take_from_queue(&mut self, name: &Name, cause: &Cause) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.replacement = None;
        if *cause == Cause::Retire {
            instance.goal = Goal::Down;
            instance.in_replacement = false;
        } else {
            instance.note_replacement(cause);
        }
    }

    /// It is on its way down already: what was asked for happens when it has stopped.
    fn replace_when_stopped(&mut self, name: &Name, queued: &Replacement) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        if instance.goal == Goal::Down && queued.cause != Cause::Retire {
            instance.replacement = None;
            return;
        }
        self.take_from_queue(name, &queued.cause);
    }

    /// There is no process: it is simply started.
    fn start_instead(&mut self, name: &Name, queued: &Replacement) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        instance.replacement = None;
        instance.back_off.reset();
        if instance.goal == Goal::Up {
            self.bring_up(name, &queued.cause.words(&queued.actor), &queued.actor);
        }
    }

    /// Operators are told; the others wait for better times.
    fn refuse(&mut self, name: &Name, queued: &Replacement, reason: &str) {
        if queued.requests.is_empty() {
            return;
        }
        self.record(&name.to_string(), "replacement refused", reason, "master");
        for request in &queued.requests {
            self.cancel_replacement(name, *request);
            self.fail_request(*request, &format!("{name}: {reason}"));
        }
    }

    fn verdict(&self, instance: &Instance, cause: &Cause) -> Verdict {
        let Some(backend) = instance.slot.and_then(|slot| self.state.backends.get(&slot)) else {
            return self.verdict_without_upstream(instance, cause);
        };
        let Some(upstream) =
            self.state.model.as_ref().and_then(|model| model.upstreams.get(&backend.upstream))
        else {
            return Verdict::Go;
        };
        // An old version that crashed and starts again may be IN sooner than the new one: it is not given up yet.
        let may_be_needed = *cause == Cause::Retire && matches!(instance.phase, Phase::Starting { .. });
        if !backend.is_in() && !may_be_needed {
            return Verdict::Go;
        }
        if *cause != Cause::Retire && self.is_busy(&backend.upstream, &instance.name, cause) {
            return Verdict::Wait;
        }
        let others_in = self.backends_of(&backend.upstream).filter(|each| each.slot != backend.slot);
        let others_in = others_in.filter(|each| each.written.state == TrafficState::In).count();
        if others_in >= upstream.min_in || self.backends_at_all(&backend.upstream, cause) <= upstream.min_in {
            return Verdict::Go;
        }
        if self.somebody_comes(&backend.upstream, &instance.name) {
            return Verdict::Wait;
        }
        Verdict::Blocked(format!(
            "upstream {} would have {others_in} backends IN, fewer than its min_in of {}",
            backend.upstream, upstream.min_in
        ))
    }

    /// Programs that get no traffic are replaced one instance after the other.
    fn verdict_without_upstream(&self, instance: &Instance, cause: &Cause) -> Verdict {
        let others =
            || self.state.instances_of(&instance.name.program).filter(|each| each.name != instance.name);
        let busy = others().any(|each| each.in_replacement && !each.is_given_up(cause));
        if instance.is_running() && *cause != Cause::Retire && busy { Verdict::Wait } else { Verdict::Go }
    }

    /// Whether another instance of the upstream is being replaced.
    fn is_busy(&self, upstream: &str, name: &Name, cause: &Cause) -> bool {
        self.instances_behind(upstream)
            .any(|each| each.name != *name && each.in_replacement && !each.is_given_up(cause))
    }

    /// How many backends the upstream has, for whether its minimum can be kept at all. Those that an operator has stopped do not count;
    /// those that have failed for good do, so that old ones stay when new ones fail. Only for a frozen one neither these nor drained
    /// ones count: nothing would ever be better by waiting for them.
    fn backends_at_all(&self, upstream: &str, cause: &Cause) -> usize {
        self.backends_of(upstream)
            .filter(|backend| {
                let instance = backend.supervised.as_ref().and_then(|name| self.state.instances.get(name));
                let wanted = instance.is_none_or(|each| each.goal == Goal::Up);
                let given_up = backend.drained || instance.is_some_and(Instance::is_at_rest);
                wanted && !(given_up && matches!(cause, Cause::Liveness(_)))
            })
            .count()
    }

    /// Whether a backend that is not IN is about to be.
    fn somebody_comes(&self, upstream: &str, name: &Name) -> bool {
        let starts = self.instances_behind(upstream).any(|each| {
            let waits_for_readiness = each.in_replacement && each.is_running();
            let has_more_to_do = !each.is_at_rest() && !each.is_running();
            each.name != *name && each.goal == Goal::Up && (has_more_to_do || waits_for_readiness)
        });
        let comes = |each: &Backend| each.watch.is_ejected() || each.written.state == TrafficState::Warming;
        starts || self.backends_of(upstream).any(comes)
    }

    pub(super) fn backends_of(&self, upstream: &str) -> impl Iterator<Item = &Backend> {
        self.state.backends.values().filter(move |each| each.upstream == upstream)
    }

    fn instances_behind(&self, upstream: &str) -> impl Iterator<Item = &Instance> {
        self.backends_of(upstream).filter_map(|each| self.state.instances.get(each.supervised.as_ref()?))
    }

    /// Takes what a request has queued and what has not begun out of the queue.
    pub(super) fn cancel_replacements(&mut self, request: u64) {
        let names: Vec<Name> = self.state.instances.keys().cloned().collect();
        names.iter().for_each(|name| self.cancel_replacement(name, request));
    }

    /// Nothing is left of a replacement that only this request wanted.
    fn cancel_replacement(&mut self, name: &Name, request: u64) {
        let Some(instance) = self.state.instances.get_mut(name) else { return };
        let Some(queued) = &mut instance.replacement else { return };
        queued.requests.remove(&request);
        if queued.cause == Cause::Operator && queued.requests.is_empty() {
            instance.replacement = None;
        }
    }

    /// Forgets an instance that is gone for good. Its row is free when no worker knows it any more.
    pub(super) fn forget(&mut self, name: &Name) {
        let Some(instance) = self.state.instances.remove(name) else { return };
        if let Some(slot) = instance.slot {
            self.state.backends.remove(&slot);
            self.state.slots.release(slot, None);
            self.publish_due = true;
        }
        let keep = self.state.instances.keys().map(ToString::to_string).collect();
        self.record(&name.to_string(), "instance forgotten", "not in the configuration", "configuration");
        self.effects.push(Effect::Forget { keep });
    }
}

impl Instance {
    /// Whether waiting for its replacement is of no use to somebody with this cause: it has failed for good, and who wants to restart
    /// another one (operator, liveness) need not care. A reload does: its change has failed here.
    fn is_given_up(&self, cause: &Cause) -> bool {
        self.is_at_rest() && matches!(cause, Cause::Liveness(_) | Cause::Operator)
    }
}

impl Cause {
    /// For reasons and the event log.
    pub(super) fn words(&self, actor: &str) -> String {
        match self {
            Self::Liveness(error) => format!("liveness probe: {error}"),
            Self::Operator => format!("restart by {actor}"),
            Self::Configuration => "configuration changed".to_owned(),
            Self::Retire => "not in the configuration".to_owned(),
        }
    }
}
