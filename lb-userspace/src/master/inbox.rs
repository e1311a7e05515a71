//! What reaches the master's loop: the one channel that tasks send to.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::config::model::Model;
use crate::control::protocol::{Answer, Command};
use crate::link::FromWorker;
use crate::state::event::{Event, InstanceId, ProbeRole};

/// Things waiting for the loop; senders wait beyond it.
pub const INBOX_MAX: usize = 4096;
/// Answers waiting for a control connection; beyond it lines are lost and the connection is told so.
pub const ANSWERS_MAX: usize = 256;

/// The way to the loop.
pub type Inbox = mpsc::Sender<Input>;

/// Something for the loop.
#[derive(Debug)]
pub enum Input {
    /// For `step` as it is.
    Event(Event),
    /// A probe finished; only counted while `epoch` is the current one of that instance and role.
    Probed {
        /// Which life.
        instance: InstanceId,
        /// Which probe.
        role: ProbeRole,
        /// Which task of that probe.
        epoch: u64,
        /// `Err`: what went wrong.
        result: Result<(), String>,
    },
    /// A control command came in.
    Command(ControlRequest),
    /// A configuration was read: the model, or the rendered report where it is invalid.
    Loaded(Result<Arc<Model>, String>),
    /// It takes longer than it may.
    LoadLate,
    /// A worker said something.
    Worker {
        /// Which worker.
        generation: u64,
        /// What.
        message: FromWorker,
    },
    /// A worker's link ended, or it took too long: it is to be replaced.
    WorkerLost {
        /// Which worker.
        generation: u64,
        /// Why.
        why: String,
    },
    /// A worker's process ended and was reaped.
    WorkerEnded {
        /// Which worker.
        generation: u64,
        /// How: `exit code 1`, `signal 9`.
        how: String,
    },
    /// The keeper of output has ended, or did not start, some time ago: it is to be started.
    StartKeeper {
        /// How it ended.
        how: String,
    },
    /// A capture has ended.
    CaptureEnded,
    /// The time to start a worker again has come.
    StartWorker,
}

/// A command with the way to answer it.
#[derive(Debug)]
pub struct ControlRequest {
    /// What is asked.
    pub command: Command,
    /// Who asks, for the event log: `uid=0 pid=412`.
    pub actor: String,
    /// Where answers go. Dropped when the last was given.
    pub answers: mpsc::Sender<Answer>,
}
