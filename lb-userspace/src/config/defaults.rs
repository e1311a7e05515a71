//! Every default value of the configuration, once: validation fills in with these and the JSON Schema shows them.

use super::units::{ByteSize, Percentage, Timespan};
use crate::limits;

/// `[metrics] bind`.
pub const METRICS_BIND: &str = "127.0.0.1:9901";
/// `[node] worker_threads`: one per core.
pub const WORKER_THREADS: u32 = 0;
/// `[[route]] path`: every path.
pub const ROUTE_PATH: &str = "/";
/// `keepalive`: idle connections to the backends of one upstream.
pub const KEEPALIVE: u32 = 32;
/// `connect_timeout`.
pub const CONNECT_TIMEOUT: Timespan<1> = Timespan::from_secs(5);
/// `send_timeout`.
pub const SEND_TIMEOUT: Timespan<1> = Timespan::from_secs(60);
/// `read_timeout`.
pub const READ_TIMEOUT: Timespan<1> = Timespan::from_secs(60);
/// `hold_timeout`.
pub const HOLD_TIMEOUT: Timespan<0> = Timespan::from_secs(30);
/// `retry_budget`.
pub const RETRY_BUDGET: Percentage = Percentage::new(20);
/// `drain_timeout` of an upstream and of `stop`.
pub const DRAIN_TIMEOUT: Timespan<0> = Timespan::from_secs(30);
/// `weight` of a backend and of a program's instances.
pub const WEIGHT: u32 = 1;
/// `every` of a readiness probe.
pub const PROBE_EVERY: Timespan<1> = Timespan::from_secs(1);
/// `timeout` of a readiness probe.
pub const PROBE_TIMEOUT: Timespan<1> = Timespan::from_secs(1);
/// `down_after` of a readiness probe.
pub const PROBE_DOWN_AFTER: u32 = 2;
/// `up_after` of any probe.
pub const PROBE_UP_AFTER: u32 = 1;
/// `every` of a startup probe.
pub const STARTUP_EVERY: Timespan<1> = Timespan::from_millis(limits::STARTUP_EVERY.as_millis() as u64);
/// `within` of a startup probe.
pub const STARTUP_WITHIN: Timespan<1> = Timespan::from_secs(limits::STARTUP_WITHIN.as_secs());
/// `every` of a liveness probe: slower than readiness, because its failure costs a restart.
pub const LIVENESS_EVERY: Timespan<1> = Timespan::from_secs(5);
/// `timeout` of a liveness probe.
pub const LIVENESS_TIMEOUT: Timespan<1> = Timespan::from_secs(2);
/// `down_after` of a liveness probe.
pub const LIVENESS_DOWN_AFTER: u32 = 3;
/// `max_fails` of `passive`.
pub const MAX_FAILS: u32 = 2;
/// `fail_window` of `passive`.
pub const FAIL_WINDOW: Timespan<1> = Timespan::from_secs(30);
/// `eject_for` of `passive`.
pub const EJECT_FOR: Timespan<1> = Timespan::from_secs(30);
/// `max_ejected` of `passive`.
pub const MAX_EJECTED: Percentage = Percentage::new(50);
/// `instances` of a program.
pub const INSTANCES: u32 = 1;
/// `umask` of a program.
pub const UMASK: u32 = 0o022;
/// `start_retries`: for ever.
pub const START_RETRIES: u32 = 0;
/// `signal` of `stop`.
pub const STOP_SIGNAL: i32 = libc::SIGTERM;
/// `kill_after` of `stop`.
pub const KILL_AFTER: Timespan<0> = Timespan::from_secs(10);
/// `rotate` of a program's log.
pub const LOG_ROTATE: ByteSize = ByteSize(50 << 20);
/// `keep` of a program's log.
pub const LOG_KEEP: u32 = 10;
/// `slow_start` of an upstream: none.
pub const SLOW_START: Timespan<0> = Timespan::from_secs(0);
/// `[kernel] lookup_rows`: shares within 1 % for 650 backends (Maglev, NSDI 2016, section 5.3).
pub const LOOKUP_ROWS: u32 = 65_537;
/// `[kernel] flows`.
pub const FLOWS: u32 = lb_common::limits::FLOWS_MAX;
/// `[kernel] nat_flows`.
pub const NAT_FLOWS: u32 = lb_common::limits::NAT_ENTRIES_MAX / 2;
/// `syn_rate` of a VIP with NAT: as many handshakes as have room for two seconds, which is when a SYN or its answer that was lost has been sent again
/// (RFC 6298, section 2).
pub const SYN_RATE: u32 = lb_common::limits::NAT_HALF_OPEN_MAX / 2 / 2;
/// `ports` of a VIP with NAT: below those that Linux gives to connections of the host (32768–60999), so that no answer to a
/// probe is taken for one to a client.
pub const NAT_PORTS: &str = "10240-32767";
/// `tunnel_port`: the port that IANA has assigned to GUE.
pub const TUNNEL_PORT: u32 = 6080;
/// `persistence_timeout`.
pub const PERSISTENCE_TIMEOUT: Timespan<1000> = Timespan::from_secs(3600);
/// `idle_timeout` of UDP flows, that of Linux for flows with answers (`nf_conntrack_udp_timeout_stream`).
pub const IDLE_TIMEOUT: Timespan<1000> = Timespan::from_secs(120);
/// `server_id_bytes` of `quic`.
pub const SERVER_ID_BYTES: u32 = 4;
