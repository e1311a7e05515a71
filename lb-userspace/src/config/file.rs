//! The file as written: which keys there are, what each means, and of which type its value is.
//!
//! The JSON Schema comes from the same list, so what editors complete is what the program reads.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "descriptions of the JSON Schema: `[::]:80` is an address, not a link"
)]

use std::net::IpAddr;

use ipnet::IpNet;

use super::defaults;
use super::leaf::{
    CommandLine, Cores, DependencyWord, Forward, HeaderName, Interface, LookupRows, MetricsBind, Name,
    NatSource, OffSwitch, Persistence, ProbePath, Protocol, RoutePath, ServerId, Signal, Umask, VipProtocol,
};
use super::model::steering::{PortRange, VipAddress, XdpMode};
use super::model::{
    AccessFormat, Address, AutoRestart, Balance, HostPattern, ProgramAddress, Switch, Template,
};
use super::reading::{Located, Names, Whole, section};
use super::units::{ByteSize, Percentage, Timespan};
use crate::limits::INSTANCES_PER_PROGRAM_MAX;

section! {
    /// The configuration of lbctl.
    pub struct File {
        /// More files, by path or pattern such as "conf.d/*.toml", relative to this file.
        may include: Vec<Located<String>>,
        /// This machine.
        may node: Node,
        /// Where metrics and health are answered.
        may metrics: Metrics,
        /// Kernel accelerations.
        may kernel: Kernel,
        /// Access and error log.
        may log: Log,
        /// Addresses on which clients are accepted.
        may listener: Vec<Located<Listener>>,
        /// Host and path to upstream; the most specific host wins, then the longest path.
        may route: Vec<Located<Route>>,
        /// Groups of backends.
        may upstream: Names<Upstream>,
        /// Commands that are kept running.
        may program: Names<Program>,
        /// Addresses that the XDP program answers for.
        may vip: Vec<Located<Vip>>,
        /// Whose packets to VIPs are dropped.
        may guard: Guard,
    }
}

section! {
    /// This machine.
    pub struct Node {
        /// Name of this machine in logs and metrics; the host name by default.
        may name: String,
        /// Worker threads; 0: one per core.
        may worker_threads: Whole<0, 1024> = defaults::WORKER_THREADS,
        /// The user that workers run as; by default nobody where lbctl runs as root, else the user who runs it.
        may user: String,
        /// Networks whose X-Forwarded headers are believed and extended.
        may trusted_proxies: Vec<Located<IpNet>>,
        /// Whether answers that lbctl makes itself carry X-Lb-Reason.
        may reason_header: bool = false,
    }
}

section! {
    /// Where metrics and health are answered.
    pub struct Metrics {
        /// Address of /metrics, /healthz and /readyz; "" switches them off.
        may bind: MetricsBind = defaults::METRICS_BIND,
    }
}

section! {
    /// Kernel accelerations; auto probes and measures at start.
    pub struct Kernel {
        /// Packets to VIPs taken by XDP: "on" refuses to start where that fails, "auto" goes on with a warning.
        may xdp: Switch = "auto",
        /// "native" in the driver, "generic" behind it, "auto" tries in that order.
        may xdp_mode: XdpMode = "auto",
        /// Rows of the lookup table of each upstream of VIPs, a prime; a hundred per backend keep shares within 1 %.
        may lookup_rows: LookupRows = defaults::LOOKUP_ROWS,
        /// Flows that l2dsr, ipip and gue remember; the least recently used goes first.
        may flows: Whole<1024, 16_777_216> = defaults::FLOWS,
        /// Flows that nat translates; what exceeds them is refused.
        may nat_flows: Whole<1024, 8_388_608> = defaults::NAT_FLOWS,
        /// Whether VIPs are answered on when lbctl is told to end.
        may vips_outlive: bool = false,
        /// Bytes between worker and local backends skip TCP.
        may short_cut: Switch = "auto",
        /// Tunnels spliced by the kernel.
        may splice: OffSwitch = "auto",
        /// The kernel takes dead instances out of rotation.
        may exit_watch: Switch = "auto",
    }
}

section! {
    /// Access and error log.
    pub struct Log {
        /// File for one record per request; none by default.
        may access: String,
        /// "json", or a template with variables such as "$client_ip $method $path $status".
        may access_format: AccessFormat = "json",
        /// File for one JSON record per answer that lbctl made itself; standard error by default.
        may error: String,
        /// File for the audit log: who asked for what; audit.log in the run folder by default.
        may audit: String,
    }
}

section! {
    /// An address on which clients are accepted.
    pub struct Listener {
        /// The name by which routes refer to it.
        must name: Name,
        /// Addresses such as "0.0.0.0:80" and "[::]:80".
        must bind: Vec<Located<std::net::SocketAddr>>,
        /// What is spoken there.
        may protocol: Protocol = "http",
    }
    later tls: "let another program end TLS in front of this listener meanwhile, and name it in [node] trusted_proxies";
    later proxy_protocol: "use X-Forwarded-For and [node] trusted_proxies meanwhile";
}

section! {
    /// Host and path to upstream.
    pub struct Route {
        /// Name of the listener.
        must listener: String,
        /// Host such as "docs.example.com" or "*.example.com"; any host by default.
        may host: HostPattern,
        /// Beginning of the path, up to a segment boundary.
        may path: RoutePath = defaults::ROUTE_PATH,
        /// Name of the upstream.
        must upstream: String,
        /// Largest request body, such as "100MiB"; unlimited by default.
        may body_max: ByteSize,
        /// Changes to the headers of requests.
        may request_headers: HeaderChanges,
        /// Changes to the headers of responses.
        may response_headers: HeaderChanges,
    }
}

section! {
    /// Changes to the headers of a message, in the order remove, set, append.
    pub struct HeaderChanges {
        /// Header = value that replaces every line of the name.
        may set: Names<Template>,
        /// Header = value that is added after what is there.
        may append: Names<Template>,
        /// Headers to remove.
        may remove: Vec<Located<HeaderName>>,
    }
}

section! {
    /// A group of backends.
    pub struct Upstream {
        /// How a backend is picked.
        may balance: Balance = "round_robin",
        /// Idle connections kept by the whole worker; 0 keeps none.
        may keepalive: Whole<0, 65_535> = defaults::KEEPALIVE,
        /// Longest time until a connection stands.
        may connect_timeout: Timespan<1> = defaults::CONNECT_TIMEOUT,
        /// Longest time between two writes.
        may send_timeout: Timespan<1> = defaults::SEND_TIMEOUT,
        /// Longest time between two reads.
        may read_timeout: Timespan<1> = defaults::READ_TIMEOUT,
        /// How long requests wait while no backend is IN; 0 answers 503 at once.
        may hold_timeout: Timespan<0> = defaults::HOLD_TIMEOUT,
        /// Retries as a share of requests.
        may retry_budget: Percentage = defaults::RETRY_BUDGET,
        /// Backends that must stay IN whatever is restarted; 1 by default where there are several backends, else 0.
        may min_in: Whole<0, 4096>,
        /// Longest wait for active requests of a backend that is taken out.
        may drain_timeout: Timespan<0> = defaults::DRAIN_TIMEOUT,
        /// How long a backend that comes back takes to get its whole share; 0 gives it at once.
        may slow_start: Timespan<0> = defaults::SLOW_START,
        /// Readiness: what a backend must answer to get traffic.
        may probe: Probe,
        /// Failures of real requests.
        may passive: Passive,
        /// Backends that lbctl does not run; those that it runs come from the programs.
        may backends: Vec<Located<Backend>>,
    }
}

section! {
    /// A backend that lbctl does not run.
    pub struct Backend {
        /// "192.0.2.10:8080", "[2001:db8::1]:8080" or "unix:/run/app.sock".
        must address: Address,
        /// Its share of requests against the others.
        may weight: Whole<1, 1000> = defaults::WEIGHT,
        /// Whether it gets requests only when no other backend may.
        may backup: bool = false,
        /// What it writes into QUIC connection ids, as hexadecimal digits such as "0a1b2c3d"; for VIPs with `quic`.
        may server_id: ServerId,
    }
}

section! {
    /// An address that the XDP program answers for.
    pub struct Vip {
        /// Its name in commands and metrics; the address by default.
        may name: Name,
        /// "203.0.113.10:443", "[2001:db8::1]:443", a network "203.0.113.0/28:443", ports "203.0.113.10:8000-8999"; without a port: every port.
        must address: VipAddress,
        /// tcp or udp; an address may have a VIP for each.
        may protocol: VipProtocol = "tcp",
        /// The network interface on which its packets come in.
        must interface: Interface,
        /// Name of the upstream; may be left out with forward = "local".
        may upstream: String,
        /// How packets get to the backends; "local" by default where programs bring them.
        may forward: Forward,
        /// nat: whose address the backends see, "node" for ours or "client" where their way back leads through us.
        may source: NatSource = "node",
        /// nat: our ports towards the backends; better not those of `sysctl net.ipv4.ip_local_port_range`.
        may ports: PortRange = defaults::NAT_PORTS,
        /// ipip, gue: source address of the outer header; our address towards the backend by default.
        may tunnel_source: IpAddr,
        /// gue: UDP port of the backends that takes the packets.
        may tunnel_port: Whole<1, 65_535> = defaults::TUNNEL_PORT,
        /// "client": all flows of a client's address go to one backend.
        may persistence: Persistence = "none",
        /// How long a client's address keeps its backend without a new flow.
        may persistence_timeout: Timespan<1000> = defaults::PERSISTENCE_TIMEOUT,
        /// udp: a flow without a packet for so long is forgotten.
        may idle_timeout: Timespan<1000> = defaults::IDLE_TIMEOUT,
        /// udp: the backend is read from QUIC connection ids.
        may quic: Quic,
        /// How many flows one source may open.
        may new_flows: NewFlows,
        /// nat, tcp: SYNs per second beyond which handshakes are done with cookies; 0 for never.
        may syn_rate: Whole<0, 1_000_000_000> = defaults::SYN_RATE,
    }
}

section! {
    /// QUIC connection ids that name the backend (QUIC-LB, plaintext).
    pub struct Quic {
        /// Bytes of the server id behind the first byte.
        may server_id_bytes: Whole<1, 8> = defaults::SERVER_ID_BYTES,
        /// The three configuration bits of the first byte.
        may configuration: Whole<0, 6> = 0,
    }
}

section! {
    /// How many flows one source (IPv4 address, IPv6 /64) may open.
    pub struct NewFlows {
        /// New flows per second.
        must per_source: Whole<1, 1_000_000>,
        /// New flows at once; as many as per second by default.
        may burst: Whole<1, 1_000_000>,
    }
}

section! {
    /// Whose packets to VIPs are dropped; the longest network that holds the source decides.
    pub struct Guard {
        /// Networks whose packets are dropped.
        may deny: Vec<Located<IpNet>>,
        /// Networks whose packets pass though a larger one is denied; without any `deny`, the only ones that pass.
        may allow: Vec<Located<IpNet>>,
        /// File with one denied network per line; # begins a comment.
        may deny_file: String,
    }
}

section! {
    /// A question that is asked again and again.
    pub struct Probe {
        /// Path that must answer 200–399 to GET, or one of `status`.
        may http: ProbePath,
        /// true: accepting a connection is enough.
        may tcp: bool,
        /// Host header of an http probe; the address by default.
        may host: String,
        /// Status codes that pass; 200–399 by default.
        may status: Vec<Located<Whole<100, 599>>>,
        /// Time between two probes.
        may every: Timespan<1>,
        /// Longest time for one probe.
        may timeout: Timespan<1>,
        /// Failures in a row until it counts as down.
        may down_after: Whole<1, 1000>,
        /// Successes in a row until it counts as up.
        may up_after: Whole<1, 1000> = defaults::PROBE_UP_AFTER,
    }
    later exec: "probe with http = \"/path\" or tcp = true meanwhile";
    later grpc: "probe with tcp = true meanwhile";
}

section! {
    /// The question that tells that an instance has started.
    pub struct Startup {
        /// Path that must answer 200–399 to GET, or one of `status`.
        may http: ProbePath,
        /// true: accepting a connection is enough.
        may tcp: bool,
        /// Host header of an http probe; the address by default.
        may host: String,
        /// Status codes that pass; 200–399 by default.
        may status: Vec<Located<Whole<100, 599>>>,
        /// Longest time between two probes; the first come faster.
        may every: Timespan<1> = defaults::STARTUP_EVERY,
        /// How long the start may take in all.
        may within: Timespan<1> = defaults::STARTUP_WITHIN,
    }
    later exec: "probe with http = \"/path\" or tcp = true meanwhile";
    later grpc: "probe with tcp = true meanwhile";
}

section! {
    /// Failures of real requests.
    pub struct Passive {
        /// Failures within `fail_window` that take a backend out; 0 switches it off.
        may max_fails: Whole<0, 1_000_000> = defaults::MAX_FAILS,
        /// The time over which failures are counted.
        may fail_window: Timespan<1> = defaults::FAIL_WINDOW,
        /// How long the backend stays out.
        may eject_for: Timespan<1> = defaults::EJECT_FOR,
        /// Share of the backends that may be out for this cause at once.
        may max_ejected: Percentage = defaults::MAX_EJECTED,
    }
}

section! {
    /// A command that is kept running; its instances are backends of its upstream.
    pub struct Program {
        /// The upstream that its instances are backends of.
        may upstream: Name,
        /// Program and arguments; no shell. $PORT and $INSTANCE are filled in.
        must command: CommandLine,
        /// Where it listens: "127.0.0.1:0" (a port is chosen and exported as $PORT), "127.0.0.1:8080" or "unix:/run/app.sock".
        may address: ProgramAddress,
        /// How many of it run.
        may instances: Whole<1, { INSTANCES_PER_PROGRAM_MAX }> = defaults::INSTANCES,
        /// Share of requests of each instance against other backends.
        may weight: Whole<1, 1000> = defaults::WEIGHT,
        /// Working folder.
        may directory: String,
        /// The user that it runs as; by default the user who runs lbctl.
        may user: String,
        /// Variables added to a clean environment; $PORT and $INSTANCE are filled in.
        may environment: Names<String>,
        /// Mode bits that its files do not get, such as "022".
        may umask: Umask = "022",
        /// Whether it starts with lbctl.
        may autostart: bool = true,
        /// When it is started again: always, on-failure or never.
        may autorestart: AutoRestart = "always",
        /// Exit codes that are no failure under "on-failure"; [0] by default.
        may exit_codes: Vec<Located<Whole<0, 255>>> = [0],
        /// Failed starts until it is FATAL; 0: for ever.
        may start_retries: Whole<0, 1_000_000> = defaults::START_RETRIES,
        /// What must be there first: program = "started" | "healthy" | "completed", "tcp:host:port" = "reachable".
        may depends_on: Names<DependencyWord>,
        /// The probe that tells that an instance has started.
        may startup: Startup,
        /// The probe whose failure replaces an instance.
        may liveness: Probe,
        /// How it is stopped.
        may stop: Stop,
        /// Limits of each instance.
        may limits: Limits,
        /// Where its output goes.
        may log: ProgramLog,
    }
}

section! {
    /// How a program is stopped.
    pub struct Stop {
        /// The signal.
        may signal: Signal = "TERM",
        /// Longest wait for active requests before the signal.
        may drain_timeout: Timespan<0> = defaults::DRAIN_TIMEOUT,
        /// Time from the signal to the end of everything it started.
        may kill_after: Timespan<0> = defaults::KILL_AFTER,
    }
}

section! {
    /// Limits of each instance.
    pub struct Limits {
        /// Memory, such as "2GiB".
        may memory: ByteSize,
        /// Cores, such as 1.5.
        may cpu: Cores,
        /// Processes and threads.
        may pids: Whole<1, 4_194_304>,
        /// Open files.
        may open_files: Whole<8, 1_073_741_816>,
    }
}

section! {
    /// Where a program's output goes; always to memory, and to files where they are named.
    pub struct ProgramLog {
        /// File for standard output.
        may stdout: String,
        /// File for standard error; the same file as `stdout` takes both.
        may stderr: String,
        /// Size at which a file is rotated; 0 never.
        may rotate: ByteSize = defaults::LOG_ROTATE,
        /// Rotated files kept.
        may keep: Whole<0, 10_000> = defaults::LOG_KEEP,
    }
}
