//! The control protocol: JSON lines over the unix socket `control.sock` in the run folder.
//!
//! One request line per connection; the answer is one or more lines, the last of which is not [`Answer::More`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use self::steering::{CapturedFrame, FlowReport, Transport, VipReport};
use crate::state::event::Ending;

pub mod steering;

/// The version of the protocol; both sides refuse another.
pub const PROTOCOL_VERSION: u32 = 1;

/// A request line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// What is asked.
    pub command: Command,
}

/// What can be asked. `names` select programs (`docs`), instances (`docs:0`) or, for drain and undrain, also static backends by
/// address (`docs/192.168.1.10:8080`); an empty list means all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// [`Answer::Status`].
    Status {
        /// Which.
        names: Vec<String>,
    },
    /// Answered when all are RUNNING and ready, or one has failed.
    Start {
        /// Which.
        names: Vec<String>,
    },
    /// Drain → signal → deadline → kill; answered when all are STOPPED.
    Stop {
        /// Which.
        names: Vec<String>,
        /// Without draining.
        now: bool,
    },
    /// Rolling: one instance after the other, never below the upstream's minimum.
    Restart {
        /// Which.
        names: Vec<String>,
        /// All at once, without draining.
        now: bool,
    },
    /// Out of rotation, keeps running; answered when every worker has acknowledged.
    Drain {
        /// Which.
        names: Vec<String>,
    },
    /// Back in rotation.
    Undrain {
        /// Which.
        names: Vec<String>,
    },
    /// Read the configuration again and apply it; refused whole when invalid. Handled by the loop, which reads the file and turns it
    /// into `Event::Apply`.
    Reload,
    /// The captured output; handled by the loop.
    Logs {
        /// Which.
        names: Vec<String>,
        /// The last so many lines.
        lines: usize,
        /// Go on with what is written from now.
        follow: bool,
    },
    /// The event log.
    Events {
        /// The last so many.
        last: usize,
        /// Go on with what happens from now.
        follow: bool,
    },
    /// What the kernel accelerations are doing; handled by the loop.
    Doctor,
    /// What the kernel steers; handled by the loop.
    Vips {
        /// VIPs by name or address; all for none.
        names: Vec<String>,
    },
    /// Where a flow goes and why; handled by the loop.
    FlowLookup {
        /// Who sends.
        client: SocketAddr,
        /// To whom.
        vip: SocketAddr,
        /// Over what.
        transport: Transport,
    },
    /// Frames to a VIP with what was decided; handled by the loop. Ends after `count` frames, after `for_ms`, or with the client.
    Capture {
        /// By name or address.
        vip: String,
        /// So many frames.
        count: u64,
        /// One frame in so many; a power of two.
        every: u32,
        /// At most so long; `None`: until the client goes away.
        for_ms: Option<u64>,
    },
    /// End everything, as SIGTERM would.
    Shutdown,
}

impl Command {
    /// Whether it changes anything.
    pub const fn acts(&self) -> bool {
        !matches!(
            self,
            Self::Status { .. }
                | Self::Logs { .. }
                | Self::Events { .. }
                | Self::Doctor
                | Self::Vips { .. }
                | Self::FlowLookup { .. }
        )
    }

    /// Whether it is answered for as long as the client listens.
    pub const fn follows(&self) -> bool {
        matches!(
            self,
            Self::Logs { follow: true, .. } | Self::Events { follow: true, .. } | Self::Capture { .. }
        )
    }
}

/// An answer line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "body", rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done {
        /// One line each for the operator.
        lines: Vec<String>,
    },
    /// Not done, and why.
    Failed {
        /// What kind of failure, for the exit code.
        kind: FailureKind,
        /// One or more lines for the operator.
        message: String,
    },
    /// What is.
    Status(StatusReport),
    /// The capability matrix.
    Doctor(Vec<Capability>),
    /// A line of captured output; more follow.
    Line {
        /// The instance.
        instance: String,
        /// `stdout` or `stderr`.
        stream: String,
        /// Without line end.
        text: String,
    },
    /// An event; more follow.
    Event(EventRecord),
    /// What the kernel steers.
    Vips(VipReport),
    /// Where a flow goes.
    Flow(Box<FlowReport>),
    /// A captured frame; more follow.
    Frame(CapturedFrame),
    /// No answer yet: shows that the other side lives, at least every five seconds.
    More,
}

impl Answer {
    /// Whether nothing follows it.
    pub const fn is_last(&self) -> bool {
        !matches!(self, Self::More | Self::Line { .. } | Self::Event(_) | Self::Frame(_))
    }
}

/// Kinds of failure with an exit code of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Exit code 1.
    Failed,
    /// No program, instance or backend of that name. Exit code 1 (4 for `status`, as Supervisor).
    NoSuchName,
    /// The configuration is invalid. Exit code 1.
    InvalidConfiguration,
    /// The peer's uid may not do that. Exit code 4.
    Denied,
    /// Other protocol version. Exit code 4.
    Version,
}

/// What is, for `status`, `/metrics` and `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// `[node] name`.
    pub node: String,
    /// Process id of the master.
    pub master_pid: u32,
    /// Since the master started.
    pub uptime_ms: u64,
    /// The number of the snapshot that every worker serves.
    pub snapshot: u64,
    /// Worker processes.
    pub workers: Vec<WorkerStatus>,
    /// Instances of programs, in order of program and index.
    pub instances: Vec<InstanceStatus>,
    /// Backends, supervised or not.
    pub backends: Vec<BackendStatus>,
    /// Listening addresses.
    pub listeners: Vec<String>,
    /// What the kernel steers; filled in by the loop.
    #[serde(default)]
    pub steering: VipReport,
    /// The capability matrix; filled in by the loop.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// What the short-cut and the watches counted; filled in by the loop.
    #[serde(default)]
    pub kernel: KernelCounts,
}

impl StatusReport {
    /// The report as it would be `later`: everything that was up has been up for so much longer.
    pub fn aged(mut self, later: std::time::Duration) -> Self {
        let later_ms = u64::try_from(later.as_millis()).unwrap_or(u64::MAX);
        self.uptime_ms = self.uptime_ms.saturating_add(later_ms);
        for worker in &mut self.workers {
            worker.uptime_ms = worker.uptime_ms.saturating_add(later_ms);
        }
        for uptime_ms in self.instances.iter_mut().filter_map(|one| one.uptime_ms.as_mut()) {
            *uptime_ms = uptime_ms.saturating_add(later_ms);
        }
        self
    }
}

/// What the kernel programs around local backends counted since the master started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounts {
    /// Deaths of watched processes.
    pub exits: u64,
    /// Notices that found the ring full.
    pub notices_lost: u64,
    /// Sockets enrolled in the short-cut.
    pub enrolled: u64,
    /// Sockets that could have been enrolled and were not.
    pub refused: u64,
    /// Messages that took the short-cut.
    pub redirected: u64,
    /// Bytes that took the short-cut.
    pub redirected_bytes: u64,
    /// Messages of enrolled sockets that went by TCP.
    pub passed: u64,
    /// Segments of such sockets that were lost, and their connections with them.
    pub repeated_lost: u64,
}

/// A worker process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Process id.
    pub pid: u32,
    /// How many workers came before it.
    pub generation: u64,
    /// The snapshot that it serves.
    pub serving: u64,
    /// Since it was started.
    pub uptime_ms: u64,
}

/// Supervisor's process states with its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProcessState {
    /// Not started, or stopped by an operator.
    #[default]
    Stopped = 0,
    /// Spawned; startup probe not yet passed.
    Starting = 10,
    /// Started.
    Running = 20,
    /// Failed to start; will be started again.
    Backoff = 30,
    /// Draining, signalled, or about to be killed.
    Stopping = 40,
    /// Ended by itself, and not to be restarted.
    Exited = 100,
    /// Failed too often.
    Fatal = 200,
}

impl ProcessState {
    /// Supervisor's name of the state.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "STOPPED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Backoff => "BACKOFF",
            Self::Stopping => "STOPPING",
            Self::Exited => "EXITED",
            Self::Fatal => "FATAL",
        }
    }
}

/// One instance of a program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// `program:index`.
    pub name: String,
    /// Its program.
    pub program: String,
    /// Its process, where there is one.
    pub pid: Option<u32>,
    /// Its life.
    pub instance: u64,
    /// Process state.
    pub process_state: ProcessState,
    /// Traffic state by name, where it is a backend.
    pub traffic_state: Option<String>,
    /// Where it listens.
    pub address: Option<String>,
    /// Since it was spawned, while it runs.
    pub uptime_ms: Option<u64>,
    /// Times it was started again without an operator asking.
    pub restarts: u64,
    /// Requests and tunnels in progress.
    pub active: u32,
    /// Why it is what it is: the last cause of a change.
    pub reason: String,
    /// How its last life ended.
    pub ending: Option<Ending>,
    /// The last line of its last life's stderr, where that ended badly.
    pub last_line: Option<String>,
}

/// One backend of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its upstream.
    pub upstream: String,
    /// `program:index`, or the address.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Its row.
    pub slot: u32,
    /// Traffic state by name.
    pub traffic_state: String,
    /// Share relative to the others.
    pub weight: u32,
    /// Only when no other may take requests.
    pub backup: bool,
    /// Requests and tunnels in progress.
    pub active: u32,
    /// Open connections.
    pub connections: u32,
    /// Requests sent.
    pub requests: u64,
    /// Why it is what it is.
    pub reason: String,
    /// Whether a supervised instance stands behind it.
    pub supervised: bool,
}

/// One line of the event log: a transition with time, cause and actor (invariant 9).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Grows by one.
    pub number: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Milliseconds since 1970; filled in by the loop.
    pub wall_ms: u64,
    /// What it is about: `docs:0`, `docs/10.0.0.7:80`, `master`.
    pub subject: String,
    /// What happened, noun first: `backend out`, `process exited`.
    pub what: String,
    /// The cause: `signal=9`, `reason=response_timeout after=3`.
    pub cause: String,
    /// Who caused it: `kernel`, `probe`, `worker`, `uid=0 pid=412`, `master`.
    pub actor: String,
    /// Nanoseconds from what caused it to its effect, where measured (exit → table out, exit → spawn).
    pub took_ns: Option<u64>,
}

/// A row of the capability matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capability {
    /// `exit_watch`, `short_cut`, `cgroup`, `limits`, `user_switch`, …
    pub name: String,
    /// Whether it is in use.
    pub on: bool,
    /// Why it is on or off, with figures where it was measured.
    pub why: String,
    /// What the operator could change to have it; empty where there is nothing.
    pub remedy: String,
}
