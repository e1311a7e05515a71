//! Effects done: each is one call into the part of the master that does such things.
//!
//! Effectful throughout, and decides nothing.

use std::sync::Arc;
use std::time::Duration;

use lb_common::exit::Watched;

use super::node::{Attached, Master, Phase};
use super::probe::{self, Plan};
use super::program::spawn::{Running, Start};
use crate::config::model::{Address, Dependency, Model, ProbeKind};
use crate::control::protocol::{Answer, EventRecord};
use crate::link::Attachment;
use crate::master::inbox::Input;
use crate::snapshot::Snapshot;
use crate::state::event::{Effect, Event, InstanceId, Slot};
use crate::time::Time;

/// Time for one try of a dependency.
const DEPENDENCY_TIMEOUT: Duration = Duration::from_secs(2);

impl Master<'_> {
    /// Does one effect. What comes of it at once goes to the front of the events.
    pub fn perform(&mut self, effect: Effect) {
        self.dirty.status = true;
        match effect {
            Effect::SetRow { slot, instance, state, weight, identity } => {
                self.kernel.table().identify(slot, identity);
                self.kernel.table().write(slot, instance, state, weight, Time::now().0);
                self.steer.row_written(slot, instance);
                self.dirty.table = true;
            }
            Effect::Publish(snapshot) => self.publish(snapshot),
            Effect::Listen(model) => self.listen(&model),
            Effect::Spawn { instance, slot, index, program, address } => {
                let start = Start { instance, slot, index, program: &program, address: address.as_ref() };
                self.spawn(&start);
            }
            Effect::Signal { instance, signal } => self.signal(instance, signal),
            Effect::Kill { instance } => {
                if let Some(running) = self.programs.get(instance) {
                    running.process.kill();
                }
            }
            Effect::StartProbe { instance, role, kind, address, every_ms, first_ms, timeout_ms } => {
                let plan = Plan {
                    kind,
                    address,
                    every: Duration::from_millis(every_ms),
                    first: Duration::from_millis(first_ms),
                    timeout: Duration::from_millis(timeout_ms),
                };
                self.probes.start(instance, role, plan);
            }
            Effect::StopProbe { instance, role } => self.probes.stop(instance, role),
            Effect::ProbeNow { instance, role } => self.probes.now(instance, role),
            Effect::WatchDrain { slot } => {
                self.draining.insert(slot);
            }
            Effect::UnwatchDrain { slot } => {
                self.draining.remove(&slot);
            }
            Effect::CheckDependency { program, dependency } => self.check_dependency(program, dependency),
            Effect::Wake { at } => self.wake = Some(at),
            Effect::Answer { request, answer } => self.answer(request, answer),
            Effect::Record(record) => self.record_measured(record),
            Effect::Forget { keep } => {
                self.programs.keep(&keep);
                self.exited_at.retain(|name, _| keep.contains(name));
                let kernel = &self.kernel;
                self.enrolled.retain(|name, port| {
                    keep.contains(name) || {
                        kernel.withdraw_port(*port);
                        false
                    }
                });
            }
            Effect::Finish => self.phase = Phase::Over,
        }
    }

    fn publish(&mut self, mut snapshot: Snapshot) {
        self.steer.published(&snapshot, self.kernel.table());
        snapshot.listeners = self.listeners.served();
        if let Err(error) = self.workers.publish(&snapshot) {
            log::error!("snapshot not published snapshot={} reason=\"{error:#}\"", snapshot.number);
        }
    }

    /// The sockets were opened when the configuration was accepted; the workers get those that they do not have.
    fn listen(&mut self, model: &Arc<Model>) {
        self.model = model.clone();
        if let Err(error) = self.steer.configure(model, &self.kernel) {
            log::error!("vips are not answered reason=\"{error:#}\"");
        }
        self.listeners.settle(model);
        let before = self.attached;
        for open in self.listeners.all().filter(|open| open.id > before.listener) {
            for (thread, socket) in open.sockets.iter().enumerate() {
                self.workers.attach(&Attachment::Listener { id: open.id, thread }, socket);
            }
        }
        if let Some((address, socket)) = self.listeners.metrics()
            && before.metrics != Some(*address)
        {
            self.workers.attach(&Attachment::Metrics, socket);
        }
        self.attached = self.sockets_now();
    }

    fn sockets_now(&self) -> Attached {
        Attached {
            listener: self.listeners.all().map(|open| open.id).max().unwrap_or(0).max(self.attached.listener),
            metrics: self.listeners.metrics().map(|(address, _)| *address),
        }
    }

    /// Starts a worker with all that it needs, unless there is one. Tries again later where that fails.
    pub fn start_worker(&mut self) {
        if self.phase != Phase::Running || !self.workers.is_empty() {
            return;
        }
        let mut attachments = self.log_files.attachments();
        match self.kernel.table_for_worker() {
            Ok(table) => attachments.push((Attachment::Table, Arc::new(table))),
            Err(error) => log::error!("backend table not shared reason=\"{error}\""),
        }
        if let Some((_, socket)) = self.listeners.metrics() {
            attachments.push((Attachment::Metrics, socket.clone()));
        }
        for open in self.listeners.all() {
            let sockets = open.sockets.iter().enumerate();
            attachments.extend(
                sockets
                    .map(|(thread, socket)| (Attachment::Listener { id: open.id, thread }, socket.clone())),
            );
        }
        self.attached = self.sockets_now();
        match self.workers.start(self.cgroups, attachments, Time::now()) {
            Ok(pid) => {
                self.note("worker", "worker started", &format!("pid={pid}"), "master");
                self.dirty.processes = true;
                self.dirty.status = true;
            }
            Err(error) => {
                log::error!("worker not started reason=\"{error:#}\"");
                self.start_worker_after(Duration::from_secs(1));
            }
        }
    }

    /// Starts who keeps output pipes when we are gone. Without one all goes on, but for that.
    pub fn start_keeper(&mut self) {
        if let Err(error) = self.keeper.start(self.cgroups, &mut self.programs.outputs) {
            log::error!("keeper of output not started reason=\"{error:#}\"");
        }
        self.dirty.processes = true;
    }

    /// It has ended: a program that writes would block if we were killed now.
    pub fn start_keeper_again(&mut self, how: &str) {
        if self.phase == Phase::Running {
            log::warn!("keeper of output ended reason=\"{how}\"");
            self.start_keeper();
        }
    }

    fn spawn(&mut self, start: &Start<'_>) {
        let table = (!self.kernel.exit_watch_is_on()).then(|| self.kernel.table().clone());
        let kernel = &self.kernel;
        let watch = |running: &Running| watch(kernel, start.instance, running);
        match self.programs.start(self.cgroups, start, table, watch) {
            Ok(()) => {
                self.dirty.processes = true;
                self.spawned(start.instance);
            }
            Err(error) => self.pending.push_back(Event::SpawnFailed { instance: start.instance, error }),
        }
    }

    fn spawned(&mut self, instance: InstanceId) {
        let Some(running) = self.programs.get(instance) else { return };
        let name = running.name.clone();
        if let Some(Address::Tcp(address)) = &running.address
            && running.slot.is_some()
        {
            let before = self.enrolled.insert(name.clone(), address.port());
            if let Some(before) = before.filter(|before| *before != address.port()) {
                self.kernel.withdraw_port(before);
            }
            self.kernel.enrol_port(address.port());
        }
        if let Some(exited_at) = self.exited_at.remove(&name) {
            self.spawned_after.insert(name, Time::now().since(exited_at));
        }
    }

    fn signal(&mut self, instance: InstanceId, signal: i32) {
        let Some(running) = self.programs.get(instance) else { return };
        if let Err(error) = running.process.signal(signal) {
            log::warn!("signal not sent instance={} signal={signal} reason=\"{error}\"", running.name);
        }
    }

    fn check_dependency(&self, program: String, dependency: Dependency) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let result = match &dependency {
                Dependency::Tcp(address) => {
                    probe::once(&ProbeKind::Tcp, &Address::Tcp(*address), DEPENDENCY_TIMEOUT).await
                }
                Dependency::Program { name, .. } => Err(format!("{name} is one of our own programs")),
            };
            let _ = inbox.send(Input::Event(Event::DependencyChecked { program, dependency, result })).await;
        });
    }

    /// Answers a control request. A client that takes nothing any more loses its answers.
    pub fn answer(&mut self, request: u64, answer: Answer) {
        let last = answer.is_last();
        for answers in self.requests.get(&request).into_iter().flatten() {
            if answers.try_send(answer.clone()).is_err() {
                log::debug!("answer not taken request={request}");
            }
        }
        if last {
            self.requests.remove(&request);
        }
    }

    /// Fills in what was measured: when an instance left the table, and how long after its end the next one was spawned.
    fn record_measured(&mut self, mut record: EventRecord) {
        match record.what.as_str() {
            "process exited" => {
                if let Some(exited_at) = self.exited_at.get(&record.subject) {
                    record.took_ns = Some(Time(record.at_ns).since(*exited_at).as_nanos() as u64);
                    record.at_ns = exited_at.0;
                }
            }
            "process spawned" => {
                let after = self.spawned_after.remove(&record.subject);
                record.took_ns = after.map(|after| after.as_nanos() as u64);
            }
            _ => {}
        }
        record.wall_ms = super::control::wall_ms();
        self.events.push(record);
    }

    /// Records something that the loop itself did.
    pub fn note(&mut self, subject: &str, what: &str, cause: &str, actor: &str) {
        self.record_measured(EventRecord {
            at_ns: Time::now().0,
            subject: subject.to_owned(),
            what: what.to_owned(),
            cause: cause.to_owned(),
            actor: actor.to_owned(),
            ..EventRecord::default()
        });
    }

    /// Rows on which nothing is active any more. Of flows that the kernel steers nobody knows the end: those have their time.
    pub fn drained(&mut self) -> Vec<Slot> {
        let is_over = |slot: &&Slot| self.workers.activity(**slot).0 == 0 && !self.steer.leads_to(**slot);
        let (drained, still) = self.draining.iter().partition(is_over);
        self.draining = still;
        let drained: std::collections::BTreeSet<Slot> = drained;
        drained.into_iter().collect()
    }
}

/// The kernel half looks from here on; the process does nothing before this returns.
fn watch(kernel: &super::kernel::KernelHalf, instance: InstanceId, running: &Running) {
    let Some(slot) = running.slot else { return };
    let port = match &running.address {
        Some(Address::Tcp(address)) => address.port().into(),
        _ => 0,
    };
    let cgroup = running.process.leaf().map(super::program::cgroup::Leaf::id);
    let watched = Watched { instance: instance.0, slot: slot.0, port };
    if let Err(error) = kernel.watch(running.process.pid, cgroup, watched) {
        log::warn!("kernel does not watch instance={} reason=\"{error:#}\"", running.name);
    }
}
