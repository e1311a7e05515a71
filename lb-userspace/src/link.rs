//! The words that master and worker exchange over their socket pair (`SOCK_SEQPACKET`, one JSON message per packet).
//!
//! File descriptors travel with the message that names them. A snapshot travels as a memfd, so that its size is bound
//! by memory and not by the socket. `master::worker_link` and `worker::master_link` are the two ends.

use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// Bytes of one packet on the link.
pub const PACKET_BYTES_MAX: usize = 32 * 1024;

/// Master → worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first message: how many threads to run.
    Hello {
        /// One runtime and one listening socket per listener for each.
        threads: usize,
        /// The index of this worker process (its life time number), for logs.
        generation: u64,
    },
    /// One file descriptor comes with it.
    Attach {
        /// What it is.
        what: Attachment,
    },
    /// A memfd with the JSON of a `Snapshot` comes with it.
    Snapshot {
        /// `Snapshot::number`.
        number: u64,
    },
    /// Some row of the backend table changed: look again if you hold requests, tunnels or idle connections.
    TableChanged,
    /// What the master knows for `/metrics`, `/healthz` and `/readyz`; a memfd with the JSON of a
    /// `control::protocol::StatusReport` comes with it.
    Status,
    /// Answer with [`FromWorker::Pong`] when every thread has come by.
    Ping,
    /// Take nothing new but what waits in accept queues, finish what is in progress, then exit 0. Idle client connections are closed. Snapshots,
    /// changes of the table and pings are obeyed as before.
    Drain {
        /// After this long exit all the same.
        within_ms: u64,
    },
}

/// What an attached descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Attachment {
    /// The backend table, read-only; `lb_common::limits::BACKENDS_MAX` rows.
    Table,
    /// This worker's activity table, read-write.
    Activity,
    /// The access log, open for append. Replaces the one before (reopen).
    AccessLog,
    /// The error log, open for append. Replaces the one before (reopen).
    ErrorLog,
    /// The listening socket for `/metrics`.
    Metrics,
    /// A listening socket.
    Listener {
        /// `ServedListener::id`.
        id: u32,
        /// Which thread accepts on it.
        thread: usize,
    },
}

/// Worker → master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// Everything up to this snapshot is served by every thread.
    Serving {
        /// `Snapshot::number`.
        number: u64,
    },
    /// The descriptor of this snapshot, or of a newer one, was lost on the way: send the newest again.
    SnapshotLost {
        /// `Snapshot::number`.
        number: u64,
    },
    /// A request failed on a backend in a way that counts against it.
    Failure {
        /// The backend's row.
        slot: u32,
        /// The instance that it failed on.
        instance: u64,
        /// How.
        reason: Reason,
    },
    /// A request succeeded on a backend that had failures counted against it.
    Success {
        /// The backend's row.
        slot: u32,
        /// The instance.
        instance: u64,
    },
    /// The answer to [`ToWorker::Ping`].
    Pong,
    /// Somebody asks for `/metrics`: send [`ToWorker::Status`] as it is now.
    StatusWanted,
    /// Drained: about to exit.
    Drained,
}
