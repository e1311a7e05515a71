//! One instance of a program: where it is in its life, and what it is meant to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::event::{Ending, InstanceId, ProbeRole, Slot};
use crate::config::model::{Address, AutoRestart, Program};
use crate::control::protocol::ProcessState;
use crate::health::back_off::BackOff;
use crate::health::counter::Counter;
use crate::limits::READY_LONG_ENOUGH;
use crate::time::Time;

/// `program:index`: it stays the same over all lives of the instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Name {
    pub program: String,
    pub index: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.program, self.index)
    }
}

/// What an instance is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Up,
    Down,
}

/// Where it is in its life.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// No process, and none is meant to be.
    Stopped,
    /// No process yet: what it depends on is not there.
    Waiting(Wait),
    /// Spawned. It has started when the proof is given.
    Starting {
        proof: Proof,
        until: Time,
    },
    Running,
    /// To be signalled when nothing is active on it any more, or at `until` (`None`: when its pid is known).
    Draining {
        until: Option<Time>,
        /// The wait is over, but programs that depend on it still run (while everything is shut down).
        done: bool,
    },
    /// Told to stop.
    Signalled {
        kill_at: Time,
    },
    /// Killed; its exit is due any moment.
    Killed {
        again_at: Time,
    },
    /// Failed to start.
    Backoff {
        until: Time,
    },
    /// Ended by itself, and not to be started again.
    Exited {
        expected: bool,
    },
    /// Failed too often.
    Fatal,
}

/// What shows that an instance has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Its start-up probe passes; by `until` it must.
    Startup,
    /// Its readiness probe passes; at `until` it counts as started, but not ready.
    Readiness,
    /// It lives at `until`.
    Alive,
}

/// What is known of dependencies outside of our programs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wait {
    /// The last outcome of each.
    pub outcomes: BTreeMap<SocketAddr, Result<(), String>>,
    /// When to ask again; `None` where nothing is to be asked.
    pub ask_at: Option<Time>,
}

/// A voluntary end of a life, which waits for the upstream's budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacement {
    pub cause: Cause,
    /// The operators' requests that wait for it, whatever else its cause is.
    pub requests: BTreeSet<u64>,
    pub actor: String,
    /// First come, first served.
    pub order: u64,
}

/// Why an instance is to be replaced or retired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its liveness probe failed, as said.
    Liveness(String),
    /// Operators' requests.
    Operator,
    /// What its process depends on has changed in the configuration.
    Configuration,
    /// It is no longer in the configuration.
    Retire,
}

/// An instance.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub name: Name,
    /// What the configuration says now.
    pub program: Arc<Program>,
    /// What it said when the process was spawned.
    pub spawned_as: Option<Arc<Program>>,
    pub goal: Goal,
    pub phase: Phase,
    /// Scaled down or removed: forgotten when it has stopped.
    pub leaving: bool,
    /// From `Effect::Spawn` until the process is known to be gone.
    pub life: Option<InstanceId>,
    /// The life before, or this one.
    pub last_life: InstanceId,
    pub pid: Option<u32>,
    /// Where it listens, or did.
    pub address: Option<Address>,
    pub slot: Option<Slot>,
    pub spawned_at: Time,
    /// When this life was first ready.
    pub ready_since: Option<Time>,
    pub back_off: BackOff,
    pub restarts: u64,
    /// This life is being ended because it did not start.
    pub failed_start: bool,
    /// The life is being ended by us for a fault of its own: the next one counts as a restart.
    pub counts_as_restart: bool,
    pub replacement: Option<Replacement>,
    /// A voluntary replacement has begun and the new life is not ready yet.
    pub in_replacement: bool,
    /// The probes that ask this life.
    pub probing: BTreeSet<ProbeRole>,
    pub liveness: Option<Counter>,
    /// What the last failed probe said, for time-outs.
    pub last_probe_error: Option<String>,
    pub reason: String,
    pub ending: Option<Ending>,
    pub last_line: Option<String>,
}

impl Replacement {
    /// What is left of it when its cause is gone: operators may still wait for it.
    pub fn without_cause(self) -> Option<Self> {
        (!self.requests.is_empty()).then_some(Self { cause: Cause::Operator, ..self })
    }
}

impl Instance {
    pub fn new(name: Name, program: Arc<Program>, goal: Goal, now: Time) -> Self {
        Self {
            name,
            program,
            spawned_as: None,
            goal,
            phase: Phase::Stopped,
            leaving: false,
            life: None,
            last_life: InstanceId::default(),
            pid: None,
            address: None,
            slot: None,
            spawned_at: now,
            ready_since: None,
            back_off: BackOff::default(),
            restarts: 0,
            failed_start: false,
            counts_as_restart: false,
            replacement: None,
            in_replacement: false,
            probing: BTreeSet::new(),
            liveness: None,
            last_probe_error: None,
            reason: "not started".to_owned(),
            ending: None,
            last_line: None,
        }
    }

    /// Supervisor's name of the phase. Waiting for a dependency is STOPPED, "not started"; the reason says for what.
    pub fn process_state(&self) -> ProcessState {
        match self.phase {
            Phase::Stopped | Phase::Waiting(_) => ProcessState::Stopped,
            Phase::Starting { .. } => ProcessState::Starting,
            Phase::Running => ProcessState::Running,
            Phase::Draining { .. } | Phase::Signalled { .. } | Phase::Killed { .. } => ProcessState::Stopping,
            Phase::Backoff { .. } => ProcessState::Backoff,
            Phase::Exited { .. } => ProcessState::Exited,
            Phase::Fatal => ProcessState::Fatal,
        }
    }

    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// On its way down: draining, signalled or killed.
    pub fn is_stopping(&self) -> bool {
        self.process_state() == ProcessState::Stopping
    }

    /// No process, and nothing will start one but an operator or another configuration.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::Stopped | Phase::Exited { .. } | Phase::Fatal)
    }

    /// Whether this life has been ready for so long that its end is not a failed start.
    pub fn was_ready_long_enough(&self, now: Time) -> bool {
        self.ready_since.is_some_and(|since| now.since(since) > READY_LONG_ENOUGH)
    }

    /// Whether the running process is what the configuration asks for.
    pub fn is_outdated(&self) -> bool {
        self.spawned_as.as_ref().is_some_and(|was| !same_process(was, &self.program))
    }

    /// Whether the policy starts it again after such an end; and if not, whether the end was an expected one.
    pub fn policy_after(&self, ending: Ending) -> AfterExit {
        let expected = matches!(ending, Ending::Code(code) if self.program.exit_codes.contains(&code));
        match self.program.autorestart {
            AutoRestart::Always => AfterExit::Restart,
            AutoRestart::OnFailure if !expected => AfterExit::Restart,
            AutoRestart::OnFailure | AutoRestart::Never => AfterExit::Rest { expected },
        }
    }
}

/// What the policy says after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterExit {
    Restart,
    Rest { expected: bool },
}

/// Whether two configurations of a program make the same process. Weight, probes, stop and restart policy, dependencies and the
/// number of instances do not touch it; nor does another upstream, but whether there is one does (its row is watched).
pub(super) fn same_process(a: &Program, b: &Program) -> bool {
    a.command == b.command
        && a.address == b.address
        && a.directory == b.directory
        && a.user == b.user
        && a.environment == b.environment
        && a.umask == b.umask
        && a.limits == b.limits
        && a.log == b.log
        && a.upstream.is_some() == b.upstream.is_some()
}

/// How a process ended, in words.
pub(super) fn ending_words(ending: Ending) -> String {
    match ending {
        Ending::Code(code) => format!("exit code {code}"),
        Ending::Signal(signal) => format!("signal {signal}"),
        Ending::OutOfMemory => "out of memory".to_owned(),
    }
}
