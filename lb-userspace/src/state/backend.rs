//! A backend as the table shows it, and the one function that writes its row.

use std::time::Duration;

use super::event::{InstanceId, Slot};
use super::instance::Name;
use super::step::Turn;
use crate::config::model::Address;
use crate::health::counter::Counter;
use crate::health::passive::Watch;
use crate::health::warming::Warming;
use crate::time::Time;
use lb_common::backend::TrafficState;

/// A backend of an upstream, supervised or not.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub upstream: String,
    /// `program:index`, or the address.
    pub name: String,
    /// `None` until the first life of a supervised one has it.
    pub address: Option<Address>,
    pub supervised: Option<Name>,
    pub slot: Slot,
    pub instance: InstanceId,
    /// See `BackendRow::identity`.
    pub identity: u64,
    pub weight: u32,
    /// How it gets its share when it comes back.
    pub warming: Warming,
    pub backup: bool,
    pub presence: Presence,
    /// The verdict of the readiness probe; `None` where there is none.
    pub readiness: Option<Counter>,
    /// The kernel saw its listening socket, or did not see it close.
    pub listening: bool,
    pub watch: Watch,
    /// An operator has taken it out of rotation.
    pub drained: bool,
    /// Somebody is there or will be without an operator's doing: not STOPPED, EXITED or FATAL.
    pub expected: bool,
    /// The first picture that has its address; before every worker serves that one it is OUT.
    pub visible_from: u64,
    pub written: Written,
    pub reason: String,
}

/// Whether there is somebody behind the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nobody, or not started.
    Absent,
    Started,
    /// About to be stopped.
    Leaving,
}

/// What the row says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub instance: InstanceId,
    pub state: TrafficState,
    pub weight: u32,
    pub identity: u64,
}

impl Backend {
    pub fn new(upstream: &str, name: String, slot: Slot) -> Self {
        Self {
            upstream: upstream.to_owned(),
            name,
            address: None,
            supervised: None,
            slot,
            instance: InstanceId::default(),
            identity: 0,
            weight: 1,
            warming: Warming::default(),
            backup: false,
            presence: Presence::Absent,
            readiness: None,
            listening: true,
            watch: Watch::default(),
            drained: false,
            expected: true,
            visible_from: 0,
            written: Written::default(),
            reason: "not started".to_owned(),
        }
    }

    /// Started, and its readiness probe (if there is one) passes.
    pub fn is_ready(&self) -> bool {
        self.presence == Presence::Started && self.readiness.is_none_or(|verdict| verdict.is_up())
    }

    /// Whether its row lets new requests come.
    pub fn is_in(&self) -> bool {
        self.written.state.takes_new()
    }

    /// As shown to operators: `docs:0`, `docs/10.0.0.7:80`.
    pub fn subject(&self) -> String {
        if self.supervised.is_some() { self.name.clone() } else { format!("{}/{}", self.upstream, self.name) }
    }

    /// What its row should say, given the picture that every worker serves.
    pub fn due(&self, acknowledged: u64, now: Time) -> Written {
        let state = match self.state_due(acknowledged) {
            TrafficState::In if self.warming.is_going_on(now) => TrafficState::Warming,
            state => state,
        };
        let weight = if self.expected { self.weight * self.warming.share(now) } else { 0 };
        Written { instance: self.instance, state, weight, identity: self.identity }
    }

    /// Where it stands apart from warming.
    fn state_due(&self, acknowledged: u64) -> TrafficState {
        match self.presence {
            Presence::Absent => TrafficState::Out,
            Presence::Leaving => TrafficState::Draining,
            Presence::Started if self.drained => TrafficState::Draining,
            Presence::Started => {
                let takes_requests = self.is_ready()
                    && self.listening
                    && !self.watch.is_ejected()
                    && self.visible_from <= acknowledged;
                if takes_requests { TrafficState::In } else { TrafficState::Out }
            }
        }
    }
}

impl Turn<'_> {
    /// Makes the row say what it should; a change of traffic is recorded with its cause.
    pub(super) fn write_row(&mut self, slot: Slot, cause: &str, actor: &str) {
        let (acknowledged, now) = (self.state.acknowledged, self.now);
        let Some(backend) = self.state.backends.get_mut(&slot) else { return };
        let upstream = self.state.model.as_ref().and_then(|model| model.upstreams.get(&backend.upstream));
        backend.warming.set(upstream.map_or(Duration::ZERO, |upstream| upstream.slow_start));
        let was = backend.written;
        let comes_back = was.state == TrafficState::Out || was.instance != backend.instance;
        match backend.state_due(acknowledged) {
            TrafficState::In if comes_back => backend.warming.begin(now),
            TrafficState::In => {}
            _ => backend.warming.end(),
        }
        let due = backend.due(acknowledged, now);
        if due == was || due.instance == InstanceId::default() {
            return;
        }
        backend.written = due;
        let changed = due.state != was.state;
        if changed {
            cause.clone_into(&mut backend.reason);
        }
        let subject = backend.subject();
        self.push_row(slot, due);
        if changed {
            self.record(&subject, &format!("backend {}", due.state.name().to_lowercase()), cause, actor);
        }
    }

    /// The row of an instance, if it is a backend.
    pub(super) fn backend_of(&mut self, name: &Name) -> Option<&mut Backend> {
        let slot = self.state.instances.get(name)?.slot?;
        self.state.backends.get_mut(&slot)
    }

    /// Every row whose due state follows from something else than its own event: a newer picture is served everywhere.
    pub(super) fn write_rows(&mut self, cause: &str, actor: &str) {
        let (acknowledged, now) = (self.state.acknowledged, self.now);
        let behind: Vec<Slot> = self
            .state
            .backends
            .values()
            .filter(|backend| backend.due(acknowledged, now).state != backend.written.state)
            .map(|backend| backend.slot)
            .collect();
        for slot in behind {
            self.write_row(slot, cause, actor);
        }
    }
}
