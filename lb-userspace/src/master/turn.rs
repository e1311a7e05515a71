//! The loop's turns: an input becomes events, events become effects, and the batch ends with what workers are told.
//!
//! Effectful: reads the clock, starts tasks.

#![expect(clippy::disallowed_methods, reason = "a failed worker is started again after a while")]

use std::time::Duration;

use lb_common::exit::{Notice, NoticeKind};

use super::inbox::Input;
use super::node::{Dirty, Master, Phase};
use super::program::spawn::Running;
use super::run_dir::Record;
use crate::control::protocol::{Answer, FailureKind};
use crate::limits::KILLED_WITHIN;
use crate::link::FromWorker;
use crate::state::event::{Event, InstanceId};
use crate::state::step::step;
use crate::time::Time;

impl Master<'_> {
    /// Takes one input, to the end of everything that it brings about.
    pub fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.event(event),
            Input::Probed { instance, role, epoch, result } => {
                if self.probes.is_current(instance, role, epoch) {
                    self.event(Event::Probed { instance, role, result });
                }
            }
            Input::Command(request) => self.command(request),
            Input::Loaded(result) => self.loaded(result),
            Input::LoadLate => self.load_late(),
            Input::Worker { generation, message } => self.heard(generation, message),
            Input::WorkerLost { generation, why } => {
                log::warn!("worker lost worker={generation} reason=\"{why}\"");
                // Where the process has ended this changes nothing.
                if self.phase == Phase::Running {
                    self.workers.kill(generation);
                }
            }
            Input::WorkerEnded { generation, how } => self.worker_ended(generation, &how),
            Input::StartKeeper { how } => self.start_keeper_again(&how),
            Input::CaptureEnded => self.steer.capture(None),
            Input::StartWorker => self.start_worker(),
        }
    }

    /// One event through `step`, and those that its effects bring about.
    pub fn event(&mut self, event: Event) {
        self.pending.push_back(event);
        while let Some(event) = self.pending.pop_front() {
            self.before(&event);
            for effect in step(&mut self.state, event, Time::now()) {
                self.perform(effect);
            }
        }
    }

    /// What the loop itself knows to do about an event, before anything is decided.
    fn before(&mut self, event: &Event) {
        match event {
            Event::Exited { instance, .. } | Event::SpawnFailed { instance, .. } => self.gone(*instance),
            _ => {}
        }
    }

    fn gone(&mut self, instance: InstanceId) {
        self.probes.stop_all(instance);
        let Some(running) = self.programs.gone(instance) else { return };
        self.dirty.processes = true;
        let cgroup = running.process.leaf().map(super::program::cgroup::Leaf::id);
        self.kernel.unwatch(running.process.pid, cgroup);
        let row = running.slot.map(|slot| self.kernel.table().read(slot));
        let seen = row.filter(|row| row.exited_instance == instance.0).map(|row| Time(row.exited_at_ns));
        self.exited_at.insert(running.name, seen.unwrap_or_else(Time::now));
    }

    /// What the kernel programs saw. The rows are written already; exits come by pidfd too, which is what counts.
    pub fn noticed(&mut self, notices: Vec<Notice>) {
        for notice in notices {
            let instance = InstanceId(notice.instance);
            match NoticeKind::from_raw(notice.kind) {
                Some(NoticeKind::ListenOpened) => self.event(Event::ListenOpened(instance)),
                // Who dies closes its sockets too: that it died is all there is to tell.
                Some(NoticeKind::ListenClosed) if self.has_died(instance) => self.dirty.table = true,
                Some(NoticeKind::ListenClosed) => self.event(Event::ListenClosed(instance)),
                // Workers look at once and not when the process was reaped.
                Some(NoticeKind::Exited) => self.dirty.table = true,
                None => {}
            }
        }
    }

    /// Whether the kernel saw this instance die. Its row was written before its sockets were closed.
    fn has_died(&self, instance: InstanceId) -> bool {
        let slot = self.programs.get(instance).and_then(|running| running.slot);
        slot.is_some_and(|slot| self.kernel.table().read(slot).exited_instance == instance.0)
    }

    fn heard(&mut self, generation: u64, message: FromWorker) {
        match message {
            FromWorker::Serving { number } => {
                let number = self.workers.serves(generation, number);
                self.event(Event::Acknowledged { number });
            }
            FromWorker::SnapshotLost { number } => {
                log::warn!("worker is out of descriptors worker={generation} snapshot={number}");
                self.workers.publish_again(generation);
            }
            FromWorker::Failure { slot, instance, reason } => self.event(Event::BackendFailed {
                slot: crate::state::event::Slot(slot),
                instance: InstanceId(instance),
                reason,
            }),
            FromWorker::Success { slot, instance } => self.event(Event::BackendSucceeded {
                slot: crate::state::event::Slot(slot),
                instance: InstanceId(instance),
            }),
            FromWorker::Pong => {}
            FromWorker::StatusWanted => self.dirty.status = true,
            FromWorker::Drained => log::info!("worker drained worker={generation}"),
        }
    }

    fn worker_ended(&mut self, generation: u64, how: &str) {
        let wait = self.workers.ended(generation, Time::now());
        self.dirty.processes = true;
        self.note("worker", "worker exited", how, "kernel");
        match self.phase {
            Phase::Running if wait.is_zero() => self.start_worker(),
            Phase::Running => self.start_worker_after(wait),
            Phase::Draining { .. } if self.workers.is_empty() => self.stop_programs(),
            _ => {}
        }
    }

    /// Starts a worker later.
    pub fn start_worker_after(&self, wait: Duration) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = inbox.send(Input::StartWorker).await;
        });
    }

    /// SIGTERM, SIGINT or `lbctl shutdown`: the first drains, the second ends at once.
    pub fn terminate(&mut self, why: &str) {
        match self.phase {
            Phase::Running => {
                self.note("master", "master draining", why, "operator");
                let within = self.drain_within();
                self.phase = Phase::Draining { until: Time::now() + within + Duration::from_secs(1) };
                self.workers.drain(within);
                self.listeners.close();
                if self.workers.is_empty() {
                    self.stop_programs();
                }
            }
            Phase::Draining { .. } => {
                self.stop_programs();
                self.kill_everything(why);
            }
            Phase::Stopping => self.kill_everything(why),
            Phase::Killing { .. } | Phase::Over => {}
        }
    }

    /// Nothing is waited for any more but the end of what is killed.
    fn kill_everything(&mut self, why: &str) {
        self.note("master", "master ending now", why, "operator");
        if self.phase == Phase::Stopping {
            self.phase = Phase::Killing { until: Time::now() + KILLED_WITHIN };
        }
        self.workers.kill_all();
        self.event(Event::Terminate);
        self.programs.all().for_each(|(_, running)| running.process.kill());
    }

    /// Requests in progress may take as long as the most patient upstream or program allows.
    fn drain_within(&self) -> Duration {
        let upstreams = self.model.upstreams.values().map(|upstream| upstream.drain_timeout);
        let programs = self.model.programs.values().map(|program| program.stop.drain_timeout);
        upstreams.chain(programs).max().unwrap_or_default()
    }

    /// The time that the end may take has passed.
    pub fn deadline_passed(&mut self) {
        if let Phase::Killing { .. } = self.phase {
            let name = |running: &Running| format!("{} pid {}", running.name, running.process.pid);
            let left = self.programs.all().map(|(_, running)| name(running)).collect::<Vec<_>>();
            log::error!("left behind, killed and not gone left=\"{}\"", left.join(", "));
            self.phase = Phase::Over;
            return;
        }
        log::warn!("workers ended before they were drained");
        self.workers.kill_all();
        self.stop_programs();
    }

    fn stop_programs(&mut self) {
        self.phase = Phase::Stopping;
        self.event(Event::Terminate);
    }

    /// The end of a batch: one message to workers however many rows changed, one write however many processes.
    pub fn flush(&mut self) {
        let Dirty { table, processes, .. } = self.dirty;
        if table {
            self.workers.table_changed();
        }
        if processes && let Err(error) = self.record_processes() {
            log::warn!("state.json not written reason=\"{error}\"");
        }
        self.dirty = Dirty { status: self.dirty.status, ..Dirty::default() };
        self.steer.turn(self.kernel.table());
        for note in self.steer.take_notes() {
            self.note(&note.subject, note.what, &note.cause, "master");
        }
    }

    fn record_processes(&mut self) -> std::io::Result<()> {
        let programs = self.programs.all().map(|(_, running)| running.process.recorded(&running.name));
        let ours = self.workers.recorded().chain([self.keeper.recorded()]);
        let processes = programs.chain(ours).flatten();
        let record = Record {
            master_pid: std::process::id(),
            cgroup: self.cgroups.product().map(std::path::Path::to_path_buf),
            processes: processes.collect(),
        };
        self.run_dir.record(record)
    }

    /// Refuses a request that is not `step`'s to answer.
    pub fn refuse(&mut self, request: u64, kind: FailureKind, message: String) {
        self.answer(request, Answer::Failed { kind, message });
    }
}
