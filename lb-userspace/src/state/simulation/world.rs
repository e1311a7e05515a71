//! The world that performs effects and makes events of their outcomes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::models::random_model;
use crate::config::model::{Address, Model, Program};
use crate::control::protocol::Command;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::state::event::{Effect, Ending, Event, InstanceId, ProbeRole, Slot};
use crate::state::slots::Slots;
use crate::state::step::step;
use crate::time::Time;
use lb_common::backend::TrafficState;

/// Little more than the largest configuration needs.
const TABLE_ROWS: u32 = 16;

pub(super) struct World {
    pub seed: u64,
    pub state: State,
    pub now: Time,
    pub rng: fastrand::Rng,
    queue: BTreeMap<(Time, u64), Happening>,
    pub happenings: u64,
    wake: Option<Time>,
    pub processes: BTreeMap<InstanceId, Process>,
    pub rows: BTreeMap<Slot, Row>,
    pub watched: BTreeSet<Slot>,
    pub probes: BTreeMap<(InstanceId, ProbeRole), Probing>,
    pub statics: BTreeMap<InstanceId, Address>,
    pub sick: BTreeSet<Address>,
    pub snapshots: Vec<Snapshot>,
    pub acknowledged: u64,
    pub model: Arc<Model>,
    pub outside_is_up: bool,
    /// No more accidents.
    pub healthy: bool,
    pub asked: BTreeSet<u64>,
    pub answered: BTreeSet<u64>,
    pub ending: bool,
    pub finished: bool,
    /// Programs whose processes an operator has told to end at once.
    pub hasty: bool,
    /// Keep what happened, to show it when something fails.
    pub tells: bool,
    pub log: VecDeque<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    Event(Event),
    Probe(InstanceId, ProbeRole, u64),
    Dies(InstanceId, Ending),
    Listens(InstanceId),
    RequestEnds(Slot, InstanceId),
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub program: Arc<Program>,
    pub slot: Option<Slot>,
    pub alive: bool,
    pub had_readiness_probe: bool,
    pub frozen: bool,
    pub listening: bool,
    pub sick: bool,
    pub address: Option<Address>,
    pub passed_startup: bool,
    pub passed_readiness: bool,
    pub was_in: bool,
    pub signalled: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    pub instance: InstanceId,
    pub state: TrafficState,
    pub exited: InstanceId,
    pub closed: bool,
    pub active: u32,
    pub draining_since: Option<Time>,
    /// It was IN before it began to drain.
    pub left_in: bool,
}

impl Row {
    /// As workers see it.
    pub fn traffic(&self) -> TrafficState {
        if self.instance.0 == 0 || self.exited == self.instance || self.closed {
            TrafficState::Out
        } else {
            self.state
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    pub generation: u64,
    pub every_ms: u64,
    pub gap_ms: u64,
}

impl World {
    pub fn new(seed: u64, tells: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let model = Arc::new(random_model(&mut rng));
        let mut state = State::new(1_000, seed, 1);
        // A small table: rows are used again soon, and now and then there is none.
        state.slots = Slots::of(TABLE_ROWS);
        Self {
            seed,
            state,
            now: Time(1_000_000_000),
            rng,
            queue: BTreeMap::new(),
            happenings: 0,
            wake: None,
            processes: BTreeMap::new(),
            rows: BTreeMap::new(),
            watched: BTreeSet::new(),
            probes: BTreeMap::new(),
            statics: BTreeMap::new(),
            sick: BTreeSet::new(),
            snapshots: Vec::new(),
            acknowledged: 0,
            model,
            outside_is_up: true,
            healthy: false,
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            ending: false,
            finished: false,
            hasty: false,
            tells,
            log: VecDeque::new(),
        }
    }

    pub fn start(&mut self) {
        let model = self.model.clone();
        self.take(Event::Apply { model, request: None });
    }

    pub fn has_finished(&self) -> bool {
        self.finished
    }

    pub fn is_ending(&self) -> bool {
        self.ending
    }

    /// One more thing happens: by somebody's hand, or by the passing of time.
    pub fn live(&mut self) {
        if self.rng.u8(..100) < 15 { self.meddle() } else { self.advance() }
    }

    /// The accidents end, an operator starts everything; it may take its time.
    pub fn heal(&mut self) {
        self.healthy = true;
        self.outside_is_up = true;
        self.sick.clear();
        let ids: Vec<InstanceId> = self.processes.keys().copied().collect();
        for id in ids {
            self.heal_process(id);
        }
        self.command(Command::Undrain { names: Vec::new() });
        for seconds in [100, 200] {
            self.command(Command::Start { names: Vec::new() });
            self.pass(Duration::from_secs(seconds));
        }
    }

    fn heal_process(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id).filter(|each| each.alive) else { return };
        process.frozen = false;
        process.sick = false;
        if !process.listening && process.program.address.is_some() {
            self.after_ms(1, Happening::Listens(id));
        }
    }

    /// SIGTERM, and nothing must be left.
    pub fn end(&mut self) {
        if !self.ending {
            self.terminate();
        }
        let limit = self.now + Duration::from_secs(120);
        while !self.finished && self.now < limit {
            self.advance();
        }
        self.assert_ended();
    }

    pub(super) fn terminate(&mut self) {
        self.ending = true;
        self.take(Event::Terminate);
    }

    /// Everything that comes to pass within a time.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_time().is_some_and(|at| at <= until) {
            self.advance();
        }
        self.now = until;
    }

    fn next_time(&self) -> Option<Time> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        queued.into_iter().chain(self.wake).min()
    }

    fn advance(&mut self) {
        let Some(at) = self.next_time() else {
            self.now = self.now + Duration::from_secs(1);
            return;
        };
        self.now = self.now.max(at);
        if self.wake == Some(at) {
            self.wake = None;
            self.take(Event::Tick);
            return;
        }
        let Some((_, happening)) = self.queue.pop_first() else { return };
        self.happen(happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event(event) => self.deliver(event),
            Happening::Probe(id, role, generation) => self.run_probe(id, role, generation),
            Happening::Dies(id, ending) => self.die(id, ending),
            Happening::Listens(id) => self.listen(id),
            Happening::RequestEnds(slot, id) => self.end_request(slot, id),
        }
    }

    fn deliver(&mut self, event: Event) {
        match &event {
            Event::Drained { slot } => {
                let idle = self.rows.get(slot).is_none_or(|row| row.active == 0);
                if !self.watched.contains(slot) || !idle {
                    return;
                }
            }
            Event::Spawned { instance, .. } if !self.processes[instance].alive => return,
            Event::Acknowledged { number } => {
                self.acknowledged = self.acknowledged.max(*number);
                let served = self.acknowledged;
                self.snapshots.retain(|each| each.number >= served);
            }
            _ => {}
        }
        self.take(event);
    }

    pub(super) fn take(&mut self, event: Event) {
        self.note(&event);
        let effects = step(&mut self.state, event, self.now);
        for effect in effects {
            self.note(&("    ", &effect));
            self.check_effect(&effect);
            self.perform(effect);
        }
        self.check_state();
    }

    /// Only where one seed is looked at: writing it all down takes most of the time.
    fn note(&mut self, what: &impl std::fmt::Debug) {
        if !self.tells {
            return;
        }
        if self.log.len() >= 4_000 {
            self.log.pop_front();
        }
        let text: String = format!("{what:?}").chars().take(260).collect();
        self.log.push_back(format!("{:>10.3} {text}", self.now.0 as f64 / 1e9));
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::SetRow { slot, instance, state, .. } => self.set_row(slot, instance, state),
            Effect::Publish(snapshot) => self.publish(snapshot),
            Effect::Spawn { instance, slot, index, program, address } => {
                self.spawn(instance, slot, index, program, address);
            }
            Effect::Signal { instance, .. } => self.signal(instance),
            Effect::Kill { instance } => self.after_ms(1, Happening::Dies(instance, Ending::Signal(9))),
            Effect::StartProbe { instance, role, address, every_ms, first_ms, .. } => {
                self.start_probe(instance, role, address, every_ms, first_ms);
            }
            Effect::StopProbe { instance, role } => drop(self.probes.remove(&(instance, role))),
            Effect::ProbeNow { instance, role } => {
                if let Some(probing) = self.probes.get(&(instance, role)) {
                    self.after_ms(0, Happening::Probe(instance, role, probing.generation));
                }
            }
            Effect::WatchDrain { slot } => {
                self.watched.insert(slot);
                self.after_ms(0, Happening::Event(Event::Drained { slot }));
            }
            Effect::UnwatchDrain { slot } => drop(self.watched.remove(&slot)),
            Effect::CheckDependency { program, dependency } => {
                let result = if self.outside_is_up { Ok(()) } else { Err("refused".to_owned()) };
                self.soon(Event::DependencyChecked { program, dependency, result });
            }
            Effect::Wake { at } => self.wake = Some(at),
            Effect::Finish => self.finished = true,
            Effect::Listen(_) | Effect::Answer { .. } | Effect::Record(_) | Effect::Forget { .. } => {}
        }
    }

    fn set_row(&mut self, slot: Slot, instance: InstanceId, state: TrafficState) {
        let now = self.now;
        let row = self.rows.entry(slot).or_default();
        if row.instance != instance {
            let active = row.active;
            *row = Row { instance, active, ..Row::default() };
        }
        if state == TrafficState::Draining && row.draining_since.is_none() {
            row.draining_since = Some(now);
        } else if state == TrafficState::In {
            row.draining_since = None;
        }
        row.left_in = row.state == TrafficState::In && state == TrafficState::Draining;
        row.state = state;
        if state == TrafficState::In
            && let Some(process) = self.processes.get_mut(&instance)
        {
            process.was_in = true;
        }
    }

    fn publish(&mut self, snapshot: Snapshot) {
        let number = snapshot.number;
        self.snapshots.push(snapshot);
        let late = if self.rng.u8(..10) == 0 { 1_500 } else { 60 };
        let after = self.rng.u64(1..late);
        self.after_ms(after, Happening::Event(Event::Acknowledged { number }));
    }

    fn end_request(&mut self, slot: Slot, id: InstanceId) {
        let Some(row) = self.rows.get_mut(&slot).filter(|row| row.instance == id && row.active > 0) else {
            return;
        };
        row.active -= 1;
        if row.active == 0 && self.watched.contains(&slot) {
            self.soon(Event::Drained { slot });
        }
    }

    pub(super) fn soon(&mut self, event: Event) {
        self.after_ms(1, Happening::Event(event));
    }

    pub(super) fn after_ms(&mut self, ms: u64, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((self.now + Duration::from_millis(ms), self.happenings), happening);
    }
}
