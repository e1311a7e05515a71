//! A desk to try `step` on: a world in which everything goes well unless a test says otherwise.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::config::model::{Address, Model};
use crate::control::protocol::{Answer, Command, InstanceStatus, ProcessState};
use crate::state::State;
use crate::state::event::{Effect, Ending, Event, InstanceId, ProbeRole, Slot};
use crate::state::step::step;
use crate::time::Time;
use lb_common::backend::TrafficState;

pub struct Desk {
    pub state: State,
    pub now: Time,
    /// What was to be done since the last look.
    pub effects: Vec<Effect>,
    rows: BTreeMap<Slot, (InstanceId, TrafficState, u32)>,
    wake: Option<Time>,
    requests: u64,
    pub answers: BTreeMap<u64, Answer>,
    /// Processes come to be when they are spawned.
    pub spawns: bool,
    /// Startup and readiness probes pass.
    pub probes_pass: bool,
    /// Workers acknowledge.
    pub acknowledges: bool,
    /// Processes end when they are told to.
    pub obeys: bool,
    /// Nothing is ever active.
    pub idle: bool,
}

impl Desk {
    /// Where nothing was configured yet.
    pub fn new() -> Self {
        Self {
            state: State::new(100, 7, 1),
            now: Time(1_000_000_000),
            effects: Vec::new(),
            rows: BTreeMap::new(),
            wake: None,
            requests: 0,
            answers: BTreeMap::new(),
            spawns: true,
            probes_pass: true,
            acknowledges: true,
            obeys: true,
            idle: true,
        }
    }

    /// Where a configuration has been reached.
    pub fn with(model: Model) -> Self {
        let mut desk = Self::new();
        desk.apply(model);
        desk.wait(Duration::from_secs(2));
        desk.effects.clear();
        desk
    }

    /// Returns the request that waits for it.
    pub fn apply(&mut self, model: Model) -> u64 {
        self.requests += 1;
        self.send(Event::Apply { model: Arc::new(model), request: Some(self.requests) });
        self.requests
    }

    pub fn command(&mut self, command: Command) -> u64 {
        self.requests += 1;
        self.send(Event::Command { request: self.requests, command, actor: "uid=0".to_owned() });
        self.requests
    }

    /// One event and what follows from it in this world, at once.
    pub fn send(&mut self, event: Event) {
        let mut events = vec![event];
        while !events.is_empty() {
            let effects = step(&mut self.state, events.remove(0), self.now);
            for effect in effects {
                events.extend(self.perform(&effect));
                self.effects.push(effect);
            }
        }
    }

    fn perform(&mut self, effect: &Effect) -> Option<Event> {
        match effect {
            Effect::SetRow { slot, instance, state, weight, .. } => {
                self.rows.insert(*slot, (*instance, *state, *weight));
            }
            Effect::Wake { at } => self.wake = Some(*at),
            Effect::Answer { request, answer } => {
                let before = self.answers.insert(*request, answer.clone());
                assert!(before.is_none(), "request {request} is answered twice");
            }
            Effect::Publish(snapshot) if self.acknowledges => {
                return Some(Event::Acknowledged { number: snapshot.number });
            }
            Effect::Spawn { instance, index, address, program, .. } if self.spawns => {
                let port = 20_000 + *index as u16;
                let chosen = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                let address = program.address.is_some().then(|| address.clone().unwrap_or(chosen));
                return Some(Event::Spawned { instance: *instance, pid: instance.0 as u32, address });
            }
            Effect::StartProbe { instance, role, .. } if self.probes_pass && *role != ProbeRole::Liveness => {
                return Some(Event::Probed { instance: *instance, role: *role, result: Ok(()) });
            }
            Effect::Signal { instance, signal } if self.obeys => return Some(exited(*instance, *signal)),
            Effect::Kill { instance } => return Some(exited(*instance, 9)),
            Effect::WatchDrain { slot } if self.idle => return Some(Event::Drained { slot: *slot }),
            _ => {}
        }
        None
    }

    /// Lets time pass; the loop ticks when it was asked to.
    pub fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.wake.take_if(|at| *at <= until) {
            self.now = self.now.max(at);
            self.send(Event::Tick);
        }
        self.now = until;
    }

    pub fn life(&self, name: &str) -> InstanceId {
        InstanceId(self.status(name).instance)
    }

    pub fn status(&self, name: &str) -> InstanceStatus {
        let report = self.state.report(self.now, &|_| (0, 0, 0), &|slot| self.row(slot).1);
        let found = report.instances.into_iter().find(|each| each.name == name);
        found.unwrap_or_else(|| panic!("no instance {name}"))
    }

    pub fn process(&self, name: &str) -> ProcessState {
        self.status(name).process_state
    }

    pub fn reason(&self, name: &str) -> String {
        self.status(name).reason
    }

    pub fn slot(&self, backend: &str) -> Slot {
        let found = self.state.backends.values().find(|each| each.subject() == backend);
        found.unwrap_or_else(|| panic!("no backend {backend}")).slot
    }

    pub fn row(&self, slot: Slot) -> (InstanceId, TrafficState, u32) {
        self.rows.get(&slot).copied().unwrap_or_default()
    }

    pub fn traffic(&self, backend: &str) -> TrafficState {
        self.row(self.slot(backend)).1
    }

    pub fn exit(&mut self, name: &str, ending: Ending) {
        let instance = self.life(name);
        self.send(Event::Exited { instance, ending, last_line: Some("panic: oh".to_owned()) });
    }

    pub fn probe(&mut self, name: &str, role: ProbeRole, passes: bool) {
        let result = if passes { Ok(()) } else { Err("no answer".to_owned()) };
        self.send(Event::Probed { instance: self.life(name), role, result });
    }

    pub fn probe_static(&mut self, backend: &str, passes: bool) {
        let instance = self.row(self.slot(backend)).0;
        let result = if passes { Ok(()) } else { Err("no answer".to_owned()) };
        self.send(Event::Probed { instance, role: ProbeRole::Readiness, result });
    }

    /// The effects since the last look that matter to the order of things, in short.
    pub fn took(&mut self) -> Vec<String> {
        let effects = std::mem::take(&mut self.effects);
        effects.iter().filter_map(|effect| self.in_short(effect)).collect()
    }

    fn in_short(&self, effect: &Effect) -> Option<String> {
        let name = |id: &InstanceId| {
            let found = self.state.instances.values().find(|each| each.last_life == *id);
            found.map_or_else(|| "old".to_owned(), |each| each.name.to_string())
        };
        Some(match effect {
            Effect::SetRow { slot, state, weight, .. } => {
                let backend = self.state.backends.get(slot).map(|each| each.subject());
                let given_up = *weight == 0 && *state == TrafficState::Out;
                let state = if given_up { "given up" } else { state.name() };
                format!("{} {state}", backend.unwrap_or_else(|| "free".to_owned()))
            }
            Effect::Publish(_) => "publish".to_owned(),
            Effect::Listen(_) => "listen".to_owned(),
            Effect::Spawn { index, program, .. } => format!("spawn {}:{index}", program.name),
            Effect::Signal { signal, instance } => format!("signal {signal} {}", name(instance)),
            Effect::Kill { instance } => format!("kill {}", name(instance)),
            Effect::WatchDrain { .. } => "watch".to_owned(),
            Effect::CheckDependency { program, .. } => format!("check for {program}"),
            Effect::ProbeNow { role, instance } => format!("ask {role:?} {}", name(instance)),
            Effect::Answer { answer: Answer::Done { .. }, request } => format!("done {request}"),
            Effect::Answer { request, .. } => format!("failed {request}"),
            Effect::Forget { .. } => "forget".to_owned(),
            Effect::Finish => "finish".to_owned(),
            Effect::UnwatchDrain { .. }
            | Effect::Wake { .. }
            | Effect::Record(_)
            | Effect::StartProbe { .. }
            | Effect::StopProbe { .. } => return None,
        })
    }
}

fn exited(instance: InstanceId, signal: i32) -> Event {
    Event::Exited { instance, ending: Ending::Signal(signal), last_line: None }
}

pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
