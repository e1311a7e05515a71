//! The vocabulary between the master's loop and the pure `step`: what happened, and what to do.
//!
//! `step(&mut State, Event, now) -> Vec<Effect>` is the only place that decides. The loop performs effects in the
//! order given and turns their outcomes into events again.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::model::{Address, Dependency, Model, ProbeKind, Program};
use crate::control::protocol::{Answer, Command, EventRecord};
use crate::reason::Reason;
use crate::snapshot::Snapshot;
use crate::time::Time;
use lb_common::backend::TrafficState;

/// Which life of a process, or of a static backend, is meant. Never used twice; never a bare pid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceId(pub u64);

/// A row of the backend table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(pub u32);

/// Which probe of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeRole {
    /// Until it passes the instance is STARTING.
    Startup,
    /// Decides between IN and OUT.
    Readiness,
    /// Decides about restarting.
    Liveness,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The kernel ended it for memory (`memory.events` counted an `oom_kill`).
    OutOfMemory,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A validated configuration is to be reached: the first one, or a reload. `seed` feeds jitter.
    Apply {
        /// What should be.
        model: Arc<Model>,
        /// The control request to answer when it is reached, if a command asked for it.
        request: Option<u64>,
    },
    /// [`Effect::Spawn`] worked.
    Spawned {
        /// Which life.
        instance: InstanceId,
        /// Its process.
        pid: u32,
        /// Where it will listen, port filled in; `None` for a program without an address.
        address: Option<Address>,
    },
    /// [`Effect::Spawn`] failed: command not found, user switch refused, ….
    SpawnFailed {
        /// Which life.
        instance: InstanceId,
        /// What the operating system said, with what we were doing.
        error: String,
    },
    /// The process ended (its pidfd said so) and was reaped.
    Exited {
        /// Which life.
        instance: InstanceId,
        /// How.
        ending: Ending,
        /// The last line it wrote to stderr, for status.
        last_line: Option<String>,
    },
    /// The kernel saw the instance begin to listen.
    ListenOpened(InstanceId),
    /// The kernel saw the last listening socket of the instance close; its row is out already.
    ListenClosed(InstanceId),
    /// A probe finished.
    Probed {
        /// Which life it asked.
        instance: InstanceId,
        /// Which probe.
        role: ProbeRole,
        /// `Err`: what went wrong, for status and events.
        result: Result<(), String>,
    },
    /// A worker saw a request fail in a way that counts against the backend.
    BackendFailed {
        /// The row.
        slot: Slot,
        /// The life.
        instance: InstanceId,
        /// How.
        reason: Reason,
    },
    /// A worker saw a request succeed on a backend with failures counted.
    BackendSucceeded {
        /// The row.
        slot: Slot,
        /// The life.
        instance: InstanceId,
    },
    /// The row watched by [`Effect::WatchDrain`] has nothing active in any worker.
    Drained {
        /// The row.
        slot: Slot,
    },
    /// A dependency outside of our programs was asked for; see [`Effect::CheckDependency`].
    DependencyChecked {
        /// The program that waits.
        program: String,
        /// What was asked.
        dependency: Dependency,
        /// `Err`: why not.
        result: Result<(), String>,
    },
    /// Every live worker serves at least this snapshot number and has seen the table as it was then.
    Acknowledged {
        /// The lowest number that any worker serves.
        number: u64,
    },
    /// A control command came in.
    Command {
        /// To be named in the answer.
        request: u64,
        /// What is asked.
        command: Command,
        /// Who asks, for the event log: `uid=0 pid=412`.
        actor: String,
    },
    /// SIGTERM or SIGINT: drain and end everything. A second one: end at once.
    Terminate,
    /// The time asked for by [`Effect::Wake`] has come.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write a row of the backend table. Workers are told by the loop, once per batch of effects.
    SetRow {
        /// The row.
        slot: Slot,
        /// Its instance; 0 empties the row. A new instance also zeroes the listen counts.
        instance: InstanceId,
        /// The state.
        state: TrafficState,
        /// The weight, reduced while warming.
        weight: u32,
        /// What a configured backend is known by to the next master (see `BackendRow::identity`); 0 for all else.
        identity: u64,
    },
    /// Send this picture to every worker, and to later workers until there is a newer one. The loop fills in
    /// `Snapshot::listeners` (it knows socket ids).
    Publish(Snapshot),
    /// Open, keep and close listening sockets and log files so that they match the model; done before [`Self::Publish`].
    Listen(Arc<Model>),
    /// Start a process.
    Spawn {
        /// Which life.
        instance: InstanceId,
        /// Its row, if its program has an upstream.
        slot: Option<Slot>,
        /// Which instance of the program, from 0.
        index: u32,
        /// What to run.
        program: Arc<Program>,
        /// Where it listened in its last life, to be kept; `None`: choose.
        address: Option<Address>,
    },
    /// Send a signal to the process.
    Signal {
        /// Which life.
        instance: InstanceId,
        /// Signal number.
        signal: i32,
    },
    /// End the whole cgroup (process group where there is none) of the instance, now.
    Kill {
        /// Which life.
        instance: InstanceId,
    },
    /// Begin to probe. Each outcome is an [`Event::Probed`]. An earlier probe of the same role is replaced.
    StartProbe {
        /// Which life.
        instance: InstanceId,
        /// Which probe.
        role: ProbeRole,
        /// What to ask.
        kind: ProbeKind,
        /// Where.
        address: Address,
        /// The period.
        every_ms: u64,
        /// First period where probes shall come faster at first (it doubles up to `every`); else the same as `every`.
        first_ms: u64,
        /// The longest one probe may take.
        timeout_ms: u64,
    },
    /// Stop one probe.
    StopProbe {
        /// Which life.
        instance: InstanceId,
        /// Which probe.
        role: ProbeRole,
    },
    /// Ask now and do not wait for the period (the instance began to listen).
    ProbeNow {
        /// Which life.
        instance: InstanceId,
        /// Which probe.
        role: ProbeRole,
    },
    /// Tell by [`Event::Drained`] when nothing is active on this row in any worker, at once if so already.
    WatchDrain {
        /// The row.
        slot: Slot,
    },
    /// No longer.
    UnwatchDrain {
        /// The row.
        slot: Slot,
    },
    /// Try a dependency once; the outcome is an [`Event::DependencyChecked`].
    CheckDependency {
        /// The program that waits.
        program: String,
        /// What to try.
        dependency: Dependency,
    },
    /// Send [`Event::Tick`] at this time (replaces the time asked for before).
    Wake {
        /// When.
        at: Time,
    },
    /// Answer a control request; `last` ends it.
    Answer {
        /// Which.
        request: u64,
        /// With what.
        answer: Answer,
    },
    /// Append to the event log.
    Record(EventRecord),
    /// Forget an instance that is gone for good (scaled down, removed): its cgroup leaf and captured output.
    Forget {
        /// The names (`program:index`) that stay known.
        keep: BTreeSet<String>,
    },
    /// Everything has ended: drain the workers and exit.
    Finish,
}
