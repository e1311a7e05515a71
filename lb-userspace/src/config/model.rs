//! The validated configuration: no value of these types can be invalid, so nobody downstream checks again.
//!
//! `validate` makes it from `file` (what the user wrote). It is serialisable because parts of it travel to workers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub mod steering;

use steering::Steering;

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// `[node]`.
    pub node: Node,
    /// `[metrics]`; `None` where `bind = ""`.
    pub metrics_bind: Option<SocketAddr>,
    /// `[kernel]`.
    pub kernel: Kernel,
    /// `[log]`.
    pub log: Log,
    /// `[[listener]]`, in file order.
    pub listeners: Vec<Listener>,
    /// `[[route]]`, in file order; `worker::request::route` sorts by specificity.
    pub routes: Vec<Route>,
    /// `[upstream.NAME]`; a program without an upstream section of its name gets one with default values.
    pub upstreams: BTreeMap<String, Upstream>,
    /// `[program.NAME]`.
    pub programs: BTreeMap<String, Program>,
    /// `[[vip]]`, `[guard]`, and what `[kernel]` says about them.
    #[serde(default)]
    pub steering: Steering,
}

/// `[node]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// `name`; the host name by default.
    pub name: String,
    /// Worker threads; at least 1 (0 in the file means one per core and is resolved by validation).
    pub worker_threads: usize,
    /// The user that workers run as; `None`: `nobody` where we are root, ourselves where we are not.
    pub user: Option<User>,
    /// `trusted_proxies`: peers whose X-Forwarded-* headers are believed and extended.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `reason_header`: add `X-Lb-Reason` to answers that we make ourselves.
    pub reason_header: bool,
}

/// A user of this system, resolved by validation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name as written.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: PathBuf,
}

/// A `[kernel]` switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Probe and measure at start, say what was chosen and why.
    #[default]
    Auto,
    /// Use it; failing to is an error.
    On,
    /// Do not use it.
    Off,
}

/// `[kernel]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Worker ↔ local backend bytes skip TCP (sockops + sk_msg).
    pub short_cut: Switch,
    /// The kernel takes dead instances out (`sched_process_exit`) and those that stop listening.
    pub exit_watch: Switch,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// `access`: file for one record per request; `None`: no access log.
    pub access: Option<PathBuf>,
    /// `access_format`.
    pub access_format: AccessFormat,
    /// `error`: file for one JSON record per answer that we made ourselves; `None`: standard error.
    pub error: Option<PathBuf>,
    /// `audit`: file for the audit log; `None`: in the run folder.
    pub audit: Option<PathBuf>,
}

/// How access records look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum AccessFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// A template.
    Template(Vec<AccessPart>),
}

/// A part of an access log's template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessPart {
    /// Text as written.
    Text(String),
    /// A variable that header values have, too.
    Request(Variable),
    /// A variable that only the access log has.
    Record(AccessVariable),
}

/// The variables that only the access log has: `$status`, `$bytes_sent`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is named after the variable that it stands for")]
pub enum AccessVariable {
    Status,
    BytesSent,
    BytesReceived,
    DurationMs,
    UpstreamMs,
    Reason,
    TimeIso8601,
    UserAgent,
    Referer,
    Protocol,
    Attempts,
}

/// `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// `name`, unique.
    pub name: String,
    /// `bind`: at least one address.
    pub bind: Vec<SocketAddr>,
}

/// `[[route]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// `listener`: the name of an existing listener.
    pub listener: String,
    /// `host`; `None` is any host.
    pub host: Option<HostPattern>,
    /// `path`: a prefix that ends at a segment boundary; begins with `/`.
    pub path: String,
    /// `upstream`: the name of an existing upstream.
    pub upstream: String,
    /// `body_max` in bytes; `None` is unlimited.
    pub body_bytes_max: Option<u64>,
    /// `request_headers`.
    pub request_headers: HeaderChanges,
    /// `response_headers`.
    pub response_headers: HeaderChanges,
}

/// A route's host, lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HostPattern {
    /// This host.
    Exact(String),
    /// Every host below this domain: `*.example.com` holds `example.com`.
    Below(String),
}

/// Changes to the headers of a message, applied in the order remove, set, append.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeaderChanges {
    /// Lower-case names to remove.
    pub remove: Vec<String>,
    /// Lower-case name → value that replaces all lines of the name.
    pub set: BTreeMap<String, Template>,
    /// Lower-case name → value appended to the last line of the name, after `, `; a new line where there is none.
    pub append: BTreeMap<String, Template>,
}

/// A value with variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Its parts in order.
    pub parts: Vec<TemplatePart>,
}

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TemplatePart {
    /// Text as written; valid in a header value.
    Text(String),
    /// Filled in per request.
    Variable(Variable),
}

/// The variables of header values: `$host`, `$client_ip`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is named after the variable that it stands for")]
pub enum Variable {
    Host,
    ClientIp,
    ClientPort,
    Scheme,
    RequestId,
    Method,
    Path,
    Query,
    Listener,
    Upstream,
    Backend,
}

/// `[upstream.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// NAME.
    pub name: String,
    /// `balance`.
    pub balance: Balance,
    /// `keepalive`: idle connections kept for the whole worker; 0 keeps none.
    pub keepalive: usize,
    /// `connect_timeout`.
    pub connect_timeout: Duration,
    /// `send_timeout`: between two writes.
    pub send_timeout: Duration,
    /// `read_timeout`: between two reads.
    pub read_timeout: Duration,
    /// `hold_timeout`: how long requests wait while no backend is IN; zero answers 503 at once.
    pub hold_timeout: Duration,
    /// `retry_budget`: retries as a share of requests, 0.0–1.0 (a floor of ten per ten seconds is always allowed).
    pub retry_budget: f64,
    /// `probe`: readiness; `None` where the file names none (a backend is then ready once it has started).
    pub probe: Option<Probe>,
    /// `passive`.
    pub passive: Passive,
    /// `backends`: those that we do not supervise.
    pub backends: Vec<Backend>,
    /// `min_in`: voluntary actions never take the upstream below this many backends that are IN.
    pub min_in: usize,
    /// `drain_timeout` for static backends.
    pub drain_timeout: Duration,
    /// `slow_start`: how long a backend that comes back takes to get its whole share.
    pub slow_start: Duration,
}

/// `balance`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// Fewest active requests per weight.
    LeastConnections,
    /// The same client address goes to the same backend while the set stays.
    IpHash,
}

/// A backend that we do not supervise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// `address`.
    pub address: Address,
    /// `weight`, 1–1000.
    pub weight: u32,
    /// `backup`: used only when no other backend of the upstream may take requests.
    pub backup: bool,
    /// `server_id`: what it writes into QUIC connection ids, 1–8 bytes; empty where the file names none.
    #[serde(default)]
    pub server_id: Vec<u8>,
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Address {
    /// `host:port` or `[v6]:port`.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A probe: `probe` (readiness), `startup` or `liveness`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    pub kind: ProbeKind,
    /// `every`: the period.
    pub every: Duration,
    /// `timeout` of one probe.
    pub timeout: Duration,
    /// `down_after` consecutive failures.
    pub down_after: u32,
    /// `up_after` consecutive successes.
    pub up_after: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeKind {
    /// `http = "/path"`: GET answered with 200–399, or with `status` where given.
    Http {
        /// Path and query.
        path: String,
        /// `host`: the Host header; the address by default.
        host: Option<String>,
        /// `status`: the codes that pass.
        status: Vec<u16>,
    },
    /// `tcp = true`: the connection is accepted.
    Tcp,
}

/// `passive`: failures that workers see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passive {
    /// `max_fails` within `fail_window` take the backend out; 0 switches it off.
    pub max_fails: u32,
    /// `fail_window`.
    pub fail_window: Duration,
    /// `eject_for`.
    pub eject_for: Duration,
    /// `max_ejected`: share of the upstream's backends that may be out for this cause at once, 0.0–1.0.
    pub max_ejected: f64,
}

/// `[program.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// NAME.
    pub name: String,
    /// `upstream`; `None` for a program that gets no traffic.
    pub upstream: Option<String>,
    /// `command`, split as a POSIX shell splits words, not yet expanded. At least one word.
    pub command: Vec<String>,
    /// `address`; `None` for a program that does not listen.
    pub address: Option<ProgramAddress>,
    /// `instances`, 1 or more.
    pub instances: u32,
    /// `weight` of each instance, 1–1000.
    pub weight: u32,
    /// `directory`; absolute.
    pub directory: Option<PathBuf>,
    /// `user`; `None`: as the master.
    pub user: Option<User>,
    /// `environment`, added to a clean one (PATH, LANG, TZ kept); values may use `$PORT` and `$INSTANCE`.
    pub environment: BTreeMap<String, String>,
    /// `umask`.
    pub umask: u32,
    /// `autostart`.
    pub autostart: bool,
    /// `autorestart`.
    pub autorestart: AutoRestart,
    /// `exit_codes` that are not failures under `on-failure`.
    pub exit_codes: BTreeSet<i32>,
    /// `start_retries`: 0 is for ever; n: FATAL after n.
    pub start_retries: u32,
    /// `depends_on`.
    pub depends_on: Vec<Dependency>,
    /// `startup`: until it passes the instance is STARTING.
    pub startup: Option<Startup>,
    /// `liveness`: fails → drain, stop, start again.
    pub liveness: Option<Probe>,
    /// `stop`.
    pub stop: Stop,
    /// `limits`.
    pub limits: Limits,
    /// `log`.
    pub log: ProgramLog,
}

/// `address` of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgramAddress {
    /// `host:0`: we choose a port per instance and export `$PORT`.
    Chosen(std::net::IpAddr),
    /// `host:port`: instance n listens on port + n.
    Fixed(SocketAddr),
    /// `unix:/path`; with several instances the path holds `$INSTANCE`.
    Unix(String),
}

/// `autorestart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoRestart {
    /// However it ended.
    #[default]
    Always,
    /// When it ended by a signal or with a code outside `exit_codes`.
    OnFailure,
    /// Not at all.
    Never,
}

/// One entry of `depends_on`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dependency {
    /// Another program.
    Program {
        /// Its name.
        name: String,
        /// What it must be.
        condition: DependencyCondition,
    },
    /// `"tcp:host:port" = "reachable"`.
    Tcp(SocketAddr),
}

/// What a program must be for those that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    /// An instance is STARTING or RUNNING.
    Started,
    /// An instance is RUNNING and ready.
    Healthy,
    /// It ended with an expected exit code.
    Completed,
}

/// `startup`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Startup {
    /// What is asked.
    pub kind: ProbeKind,
    /// `every`: the longest period; the first probes come faster (5 ms, doubling).
    pub every: Duration,
    /// `within`: how long the instance may take in all.
    pub within: Duration,
}

/// `stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// `signal` number.
    pub signal: i32,
    /// `drain_timeout`: the longest wait for active requests before the signal.
    pub drain_timeout: Duration,
    /// `kill_after`: from the signal to the end of the whole cgroup.
    pub kill_after: Duration,
}

/// `limits`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// `memory` in bytes (`memory.max`).
    pub memory_bytes: Option<u64>,
    /// `cpu` in cores (`cpu.max`).
    pub cpu_cores: Option<f64>,
    /// `pids` (`pids.max`).
    pub pids: Option<u64>,
    /// `open_files` (RLIMIT_NOFILE).
    pub open_files: Option<u64>,
}

/// `log` of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramLog {
    /// `stdout`: absolute path; `None`: memory only.
    pub stdout: Option<PathBuf>,
    /// `stderr`: absolute path; the same as `stdout` merges both; `None`: memory only.
    pub stderr: Option<PathBuf>,
    /// `rotate`: bytes at which a file is rotated; 0 never.
    pub rotate_bytes: u64,
    /// `keep`: rotated files kept.
    pub keep: u32,
}
