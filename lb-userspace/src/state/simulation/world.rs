//! The world that performs effects and makes events of their outcomes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::models::random_model;
use crate::config::model::{Address, Model, Program};
use crate::control::protocol::Command;
use crate::reason::Reason;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::state::event::{Effect, Ending, Event, InstanceId, ProbeRole, Slot};
use crate::state::step::step;
use crate::time::Time;
use lb_common::backend::TrafficState;

pub(super) struct World {
    pub seed: u64,
    pub state: State,
    pub now: Time,
    pub rng: fastrand::Rng,
    queue: BTreeMap<(Time, u64), Happening>,
    happenings: u64,
    wake: Option<Time>,
    pub processes: BTreeMap<InstanceId, Process>,
    pub rows: BTreeMap<Slot, Row>,
    watched: BTreeSet<Slot>,
    probes: BTreeMap<(InstanceId, ProbeRole), Probing>,
    statics: BTreeMap<InstanceId, Address>,
    sick: BTreeSet<Address>,
    pub snapshots: Vec<Snapshot>,
    pub acknowledged: u64,
    pub model: Arc<Model>,
    outside_is_up: bool,
    /// No more accidents.
    healthy: bool,
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
enum Happening {
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
struct Probing {
    generation: u64,
    every_ms: u64,
    gap_ms: u64,
}

impl World {
    pub fn new(seed: u64, tells: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let model = Arc::new(random_model(&mut rng));
        Self {
            seed,
            state: State::new(1_000, seed, 1),
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

    fn terminate(&mut self) {
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

    fn take(&mut self, event: Event) {
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

    fn spawn(
        &mut self,
        id: InstanceId,
        slot: Option<Slot>,
        index: u32,
        program: Arc<Program>,
        kept: Option<Address>,
    ) {
        let accident = if self.healthy { 50 } else { self.rng.u8(..50) };
        let probe = program.upstream.as_ref().and_then(|name| self.model.upstreams.get(name)?.probe.as_ref());
        let process = Process {
            slot,
            alive: accident != 0,
            had_readiness_probe: probe.is_some() && program.address.is_some(),
            frozen: false,
            listening: false,
            sick: accident == 1,
            address: self.address_for(&program, index, kept),
            passed_startup: false,
            passed_readiness: false,
            was_in: false,
            signalled: false,
            program: program.clone(),
        };
        let address = process.address.clone();
        self.processes.insert(id, process);
        if accident == 0 {
            self.soon(Event::SpawnFailed { instance: id, error: "no such file".to_owned() });
            return;
        }
        self.after_ms(1, Happening::Event(Event::Spawned { instance: id, pid: id.0 as u32, address }));
        let start = self.rng.u64(2..700);
        match accident {
            2..5 => self.after_ms(start, Happening::Dies(id, Ending::Code(1))),
            5 => {}
            _ if program.address.is_some() => self.after_ms(start, Happening::Listens(id)),
            6..15 => self.after_ms(start * 10, Happening::Dies(id, Ending::Code(0))),
            _ => {}
        }
    }

    /// Mostly the same port again; sometimes that is taken by somebody else.
    fn address_for(&mut self, program: &Program, index: u32, kept: Option<Address>) -> Option<Address> {
        program.address.as_ref()?;
        let port = 20_000 + (index as u16) * 100 + self.rng.u16(..100) + program.name.len() as u16 * 1_000;
        let fresh = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Some(kept.filter(|_| self.rng.u8(..10) > 0).unwrap_or(fresh))
    }

    fn signal(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.signalled = true;
        if !process.frozen && self.rng.u8(..10) > 0 {
            let after = self.rng.u64(1..300);
            self.after_ms(after, Happening::Dies(id, Ending::Signal(15)));
        }
    }

    /// The kernel marks its row at once; the master hears of it a little later.
    fn die(&mut self, id: InstanceId, ending: Ending) {
        let Some(process) = self.processes.get_mut(&id).filter(|each| each.alive) else { return };
        process.alive = false;
        if let Some(slot) = process.slot
            && let Some(row) = self.rows.get_mut(&slot)
            && row.instance == id
        {
            row.exited = id;
            row.active = 0;
        }
        let after = self.rng.u64(1..4);
        let exited = Event::Exited { instance: id, ending, last_line: None };
        self.after_ms(after.max(2), Happening::Event(exited));
    }

    fn listen(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id).filter(|each| each.alive && !each.listening) else {
            return;
        };
        process.listening = true;
        self.set_closed(id, false);
        self.soon(Event::ListenOpened(id));
    }

    fn set_closed(&mut self, id: InstanceId, closed: bool) {
        let Some(slot) = self.processes[&id].slot else { return };
        if let Some(row) = self.rows.get_mut(&slot).filter(|row| row.instance == id) {
            row.closed = closed;
        }
    }

    fn start_probe(
        &mut self,
        id: InstanceId,
        role: ProbeRole,
        address: Address,
        every_ms: u64,
        first_ms: u64,
    ) {
        if !self.processes.contains_key(&id) {
            self.statics.insert(id, address);
        }
        self.happenings += 1;
        let probing = Probing { generation: self.happenings, every_ms, gap_ms: first_ms };
        self.probes.insert((id, role), probing);
        self.after_ms(1, Happening::Probe(id, role, probing.generation));
    }

    fn run_probe(&mut self, id: InstanceId, role: ProbeRole, generation: u64) {
        let Some(probing) = self.probes.get_mut(&(id, role)).filter(|each| each.generation == generation)
        else {
            return;
        };
        let gap = probing.gap_ms;
        probing.gap_ms = (gap * 2).min(probing.every_ms);
        self.happenings += 1;
        probing.generation = self.happenings;
        let next = Happening::Probe(id, role, probing.generation);
        self.after_ms(gap, next);
        let passes = self.passes(id, role);
        if let Some(process) = self.processes.get_mut(&id).filter(|_| passes) {
            process.passed_startup |= role == ProbeRole::Startup;
            process.passed_readiness |= role == ProbeRole::Readiness;
        }
        let result = if passes { Ok(()) } else { Err("connection refused".to_owned()) };
        self.take(Event::Probed { instance: id, role, result });
    }

    fn passes(&mut self, id: InstanceId, role: ProbeRole) -> bool {
        if let Some(address) = self.statics.get(&id) {
            return !self.sick.contains(address);
        }
        let flaky = !self.healthy && self.rng.u8(..30) == 0;
        let Some(process) = self.processes.get(&id) else { return false };
        let answers = process.alive && process.listening && !process.frozen;
        answers && !flaky && (role != ProbeRole::Readiness || !process.sick)
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

    /// Somebody does something: clients, processes, the operator.
    fn meddle(&mut self) {
        match self.rng.u8(..100) {
            0..35 => self.send_request(),
            35..45 => self.fail_request(),
            45..55 => self.kill_a_process(),
            55..60 => self.freeze_a_process(),
            60..64 => self.close_a_listener(),
            64..68 => self.make_sick(),
            68..71 => self.outside_is_up = !self.outside_is_up,
            71..80 => self.reload(),
            80..99 => self.operate(),
            _ if self.rng.u8(..5) == 0 => self.terminate(),
            _ => {}
        }
    }

    fn some_in(&mut self) -> Option<(Slot, InstanceId)> {
        let served = self.snapshots.first()?;
        let known: BTreeSet<u32> =
            served.upstreams.iter().flat_map(|each| &each.backends).map(|each| each.slot).collect();
        let rows: Vec<(Slot, InstanceId)> = self
            .rows
            .iter()
            .filter(|(slot, row)| row.traffic() == TrafficState::In && known.contains(&slot.0))
            .map(|(&slot, row)| (slot, row.instance))
            .collect();
        if rows.is_empty() { None } else { Some(rows[self.rng.usize(..rows.len())]) }
    }

    fn send_request(&mut self) {
        let Some((slot, id)) = self.some_in() else { return };
        if let Some(row) = self.rows.get_mut(&slot) {
            row.active += 1;
        }
        let takes = if self.rng.u8(..10) == 0 { 8_000 } else { 400 };
        let after = self.rng.u64(1..takes);
        self.after_ms(after, Happening::RequestEnds(slot, id));
        if self.rng.bool() {
            self.take(Event::BackendSucceeded { slot, instance: id });
        }
    }

    fn fail_request(&mut self) {
        let Some((slot, instance)) = self.some_in() else { return };
        let reason = Reason::ALL[self.rng.usize(..Reason::ALL.len())];
        self.take(Event::BackendFailed { slot, instance, reason });
    }

    fn some_process(&mut self) -> Option<InstanceId> {
        let living: Vec<InstanceId> = self
            .processes
            .iter()
            .filter(|(_, each)| each.alive && each.listening)
            .map(|(&id, _)| id)
            .collect();
        if living.is_empty() { None } else { Some(living[self.rng.usize(..living.len())]) }
    }

    fn kill_a_process(&mut self) {
        let endings = [Ending::Signal(9), Ending::OutOfMemory, Ending::Code(1), Ending::Code(0)];
        let ending = endings[self.rng.usize(..4)];
        if let Some(id) = self.some_process() {
            self.die(id, ending);
        }
    }

    fn freeze_a_process(&mut self) {
        if let Some(id) = self.some_process()
            && let Some(process) = self.processes.get_mut(&id)
        {
            process.frozen = true;
        }
    }

    fn close_a_listener(&mut self) {
        let Some(id) = self.some_process() else { return };
        if let Some(process) = self.processes.get_mut(&id) {
            process.listening = false;
        }
        self.set_closed(id, true);
        self.soon(Event::ListenClosed(id));
        if self.rng.bool() {
            let after = self.rng.u64(5..500);
            self.after_ms(after, Happening::Listens(id));
        }
    }

    fn make_sick(&mut self) {
        let sick = self.rng.bool();
        if let Some(address) = self.statics.values().next().cloned() {
            if !self.sick.remove(&address) {
                self.sick.insert(address);
            }
        } else if let Some(id) = self.some_process()
            && let Some(process) = self.processes.get_mut(&id)
        {
            process.sick = sick;
        }
    }

    fn reload(&mut self) {
        if self.ending {
            return;
        }
        let model = Arc::new(random_model(&mut self.rng));
        self.model = model.clone();
        let request = self.new_request();
        self.take(Event::Apply { model, request: Some(request) });
        self.note_probes_removed();
    }

    /// Whose upstream has no probe any more need not pass one, even if a later configuration has one again.
    fn note_probes_removed(&mut self) {
        for process in self.processes.values_mut().filter(|each| each.alive) {
            let backend = process.slot.and_then(|slot| self.state.backends.get(&slot));
            let upstream = backend.and_then(|backend| self.model.upstreams.get(&backend.upstream));
            process.had_readiness_probe &= upstream.is_some_and(|upstream| upstream.probe.is_some());
        }
    }

    fn operate(&mut self) {
        let names = self.random_names();
        let now = self.rng.u8(..10) == 0;
        let command = match self.rng.u8(..10) {
            0..3 => Command::Start { names },
            3..5 => Command::Stop { names, now },
            5..8 => Command::Restart { names, now },
            8 => Command::Drain { names },
            _ => Command::Undrain { names },
        };
        self.hasty |= now;
        self.command(command);
    }

    fn random_names(&mut self) -> Vec<String> {
        let pool = ["web", "db", "job", "green", "web:0", "web:1", "green:0", "a/10.0.0.1:8001", "nobody"];
        match self.rng.u8(..4) {
            0 => Vec::new(),
            _ => vec![pool[self.rng.usize(..pool.len())].to_owned()],
        }
    }

    fn command(&mut self, command: Command) {
        let request = self.new_request();
        self.take(Event::Command { request, command, actor: "uid=0".to_owned() });
    }

    fn new_request(&mut self) -> u64 {
        let request = self.asked.len() as u64 + 1;
        self.asked.insert(request);
        request
    }

    fn soon(&mut self, event: Event) {
        self.after_ms(1, Happening::Event(event));
    }

    fn after_ms(&mut self, ms: u64, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((self.now + Duration::from_millis(ms), self.happenings), happening);
    }
}
