//! What the master tells a worker to serve: a numbered, complete picture, never a difference.
//!
//! States and loads are not in it; they are in the backend table (`crate::table`), which both sides map.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::model::{AccessFormat, Address, Balance, Route};

/// One complete picture. The worker that serves it answers with its number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Grows by one with each picture; a worker ignores one that is not newer than what it serves.
    pub number: u64,
    /// `[node] name`.
    pub node: String,
    /// Listeners to accept on. Their sockets came before, as attachments. A listener no longer named is closed.
    pub listeners: Vec<ServedListener>,
    /// All routes.
    pub routes: Vec<Route>,
    /// All upstreams with their backends.
    pub upstreams: Vec<ServedUpstream>,
    /// Peers whose X-Forwarded-* headers are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Add `X-Lb-Reason` to answers that we make ourselves.
    pub reason_header: bool,
    /// How access records look; `None`: there is no access log, whatever was attached before.
    pub access_format: Option<AccessFormat>,
    /// Whether the error log is a file, attached before; else it is standard error.
    pub error_file: bool,
    /// Whether `/metrics` is served, on a socket attached before.
    pub metrics: bool,
}

/// A listening address. `id` names its sockets in `Attachment::Listener`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedListener {
    /// Unique while the master lives.
    pub id: u32,
    /// The listener's name, as routes refer to it.
    pub name: String,
    /// The bound address (port 0 resolved).
    pub address: SocketAddr,
}

/// An upstream as workers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServedUpstream {
    /// Its name.
    pub name: String,
    /// How a backend is chosen.
    pub balance: Balance,
    /// Idle connections kept for the whole worker.
    pub keepalive: usize,
    /// Time-outs in milliseconds: connect, send, read, hold.
    pub connect_timeout_ms: u64,
    /// Between two writes to the backend.
    pub send_timeout_ms: u64,
    /// Between two reads from the backend.
    pub read_timeout_ms: u64,
    /// How long requests wait while no backend is IN.
    pub hold_timeout_ms: u64,
    /// Retries as a share of requests.
    pub retry_budget: f64,
    /// Its backends that have an address.
    pub backends: Vec<ServedBackend>,
    /// How many more will have one without an operator's doing: requests may wait for them.
    pub unplaced: usize,
}

/// A backend as workers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedBackend {
    /// Its row in the backend table.
    pub slot: u32,
    /// `program:instance` or the address: as shown to operators.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Used only when no other backend of the upstream may take requests.
    pub backup: bool,
    /// How long its tunnels may go on while it drains: as long as the master waits for it.
    pub drain_timeout_ms: u64,
}
