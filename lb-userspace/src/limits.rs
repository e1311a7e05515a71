//! Every bound of the userspace side in one place. Bounds that the kernel shares are in `lb_common::limits`.

use std::time::Duration;

/// Bytes of a request or response head that we accept.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a request target; longer is 414.
pub const URI_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a refused head's first line that are kept for the logs.
pub const REFUSED_LINE_BYTES_MAX: usize = 1024;
/// Header lines in one head.
pub const HEADERS_MAX: usize = 100;
/// Bytes of an `X-Request-Id` that is passed on.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Bytes of a header value that a template makes.
pub const RENDERED_BYTES_MAX: usize = 8 * 1024;
/// Addresses of an `X-Forwarded-For` chain that we look at.
pub const FORWARDED_ADDRESSES_MAX: usize = 32;
/// Bytes of trailers in one message.
pub const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Bytes of chunk extensions in one message.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Requests that may wait for a backend in one worker.
pub const HELD_MAX: usize = 10_000;
/// Bytes of request body kept for a retry.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// Attempts for one request, the first included.
pub const ATTEMPTS_MAX: u32 = 3;
/// Connections that the kernel completes on one listening socket before a thread accepts them.
pub const ACCEPT_QUEUE_MAX: i32 = 4096;
/// Client connections in one worker, where it has the descriptors for them.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Descriptors of a worker that are for neither clients nor backends: link, logs, runtimes, `/metrics`, those who are refused.
pub const DESCRIPTORS_RESERVED: u64 = 256;
/// Connections beyond the bound that are told so at one time; the others are closed without a word.
pub const REFUSED_MAX: usize = 64;
/// Time a client has to send a complete head.
pub const CLIENT_HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Time a client's keep-alive connection may be idle.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time between two reads of a client's body, or two writes to the client.
pub const CLIENT_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle time after which a pooled backend connection is closed; below the 5 s of common backends.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Time that a client which still sends after its last answer is read from.
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(30);
/// Time between two reads then.
pub const LINGER_IDLE: Duration = Duration::from_secs(2);
/// Bytes read and thrown away then.
pub const LINGER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Connections of one worker with which that is done at one time.
pub const LINGERING_MAX: usize = 1_024;
/// Bytes of captured output kept in memory for each stream of an instance.
pub const OUTPUT_RING_BYTES: usize = 64 * 1024;
/// Bytes of captured output waiting for the disk, for each file; beyond it lines are dropped and counted.
pub const OUTPUT_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of captured output waiting for the disk, for all files together.
pub const OUTPUT_QUEUES_BYTES: usize = 64 * 1024 * 1024;
/// Output pipes of all instances, two each, that the keeper may still have to be told of.
pub const OUTPUT_PIPES_MAX: usize = 2 * lb_common::limits::INSTANCES_MAX as usize;
/// Symbolic links on the way to a file that is appended to, as many as the kernel follows.
pub const PATH_LINKS_MAX: usize = 40;
/// Events kept for `lbctl events`.
pub const EVENTS_KEPT: usize = 4_096;
/// Log records waiting for the writer thread; beyond it records are dropped and counted.
pub const LOG_QUEUE_RECORDS: usize = 16_384;
/// Bytes of log records waiting for the writer thread; beyond it records are dropped and counted.
pub const LOG_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of one client-controlled text in a log record; longer is cut.
pub const LOG_TEXT_BYTES_MAX: usize = 8 * 1024;
/// Bytes of one control request.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Bytes of one line of a control answer: a status with every backend that the table holds.
pub const CONTROL_ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Time to read the configuration again; the user database that it is checked against may be in the network.
pub const RELOAD_WITHIN: Duration = Duration::from_secs(30);
/// Control connections at one time: [`CONTROL_FOLLOWERS_MAX`], [`COMMANDS_MAX`], and room for those that are answered at once.
pub const CONTROL_CONNECTIONS_MAX: usize = 128;
/// Control connections that are answered for as long as they listen: `logs -f`, `events -f`, `capture`.
pub const CONTROL_FOLLOWERS_MAX: usize = 32;
/// Bytes of the audit log before it begins anew.
pub const AUDIT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes read of a probe's answer.
pub const PROBE_RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Time a worker has to acknowledge a snapshot before it counts as stuck.
pub const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a worker is asked whether all its threads still run.
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// Time it has to answer before it counts as stuck.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait between two starts of a program that keeps failing.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// First wait between two starts of a program that keeps failing.
pub const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// An instance that was ready for longer than this is restarted without waiting.
pub const READY_LONG_ENOUGH: Duration = Duration::from_secs(1);
/// Instances of one program.
pub const INSTANCES_PER_PROGRAM_MAX: u32 = 256;
/// Bytes of one configuration file.
pub const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of a file that the configuration names, such as `deny_file`: a million networks.
pub const NAMED_FILE_BYTES_MAX: u64 = 64 << 20;
/// Configuration files read through `include`.
pub const CONFIG_FILES_MAX: usize = 256;
/// Time an instance has to start where its program names no `startup` of its own.
pub const STARTUP_WITHIN: Duration = Duration::from_secs(60);
/// Longest period of the start-up probe where the program names none.
pub const STARTUP_EVERY: Duration = Duration::from_millis(250);
/// First period of probes that come fast at first.
pub const STARTUP_PROBE_FIRST: Duration = Duration::from_millis(5);
/// Longest time one start-up probe may take.
pub const STARTUP_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A process that nothing can be asked of counts as started when it has lived this long (Supervisor's `startsecs`).
pub const STARTED_AFTER: Duration = Duration::from_secs(1);
/// Period of asking for a dependency outside of our programs.
pub const DEPENDENCY_EVERY: Duration = Duration::from_millis(500);
/// Longest wait for the active requests of an instance whose liveness failed: it hardly answers them any more.
pub const FROZEN_DRAIN_MAX: Duration = Duration::from_secs(2);
/// Period of killing again what a kill has not ended.
pub const KILL_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// Time without any progress after which a command is answered as failed, on top of what its programs may take to start, drain and stop.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// Time for everything to be gone after it was killed by a second SIGTERM; what is stuck in the kernel is then left behind.
pub const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// Control commands in progress at one time.
pub const COMMANDS_MAX: usize = 64;
/// Problems that one configuration report shows.
pub const CONFIG_PROBLEMS_MAX: usize = 100;
/// Bytes of a configuration line that a report still shows with a caret.
pub const CONFIG_LINE_BYTES_MAX: usize = 1_000;
/// Bytes that a backend may send before the head of its answer is complete: that head, and interim answers (1xx).
pub const INTERIM_BYTES_MAX: u64 = 256 * 1024;
/// How often `read_timeout` may pass before the head of an answer is complete, as long as something comes.
pub const INTERIM_TIMEOUTS_MAX: u32 = 10;
/// Bytes of a small answer that is waited for, so that the request can be repeated when it breaks off.
pub const RESPONSE_PEEK_BYTES_MAX: usize = 16 * 1024;
/// Bytes that each direction of an idle tunnel buffers.
pub const TUNNEL_BUFFER_BYTES_MIN: usize = 4 * 1024;
/// Bytes that each direction of a busy tunnel buffers.
pub const TUNNEL_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Silence after which a tunnel is ended one of whose sides has closed: streams that go on for long after that are legal, but do say something.
pub const HALF_CLOSED_IDLE_MAX: Duration = Duration::from_secs(600);
/// Time after which a tunnel's peer that acknowledges nothing is gone, by keep-alive as by TCP_USER_TIMEOUT.
pub const TUNNEL_PEER_TIMEOUT: Duration = Duration::from_secs(240);
/// Connections to the address of `/metrics` at one time; each asks once.
pub const METRICS_CONNECTIONS_MAX: usize = 64;
/// Those among them that get `/metrics`: a page takes its time to be read, and `/healthz` must not wait for it.
pub const METRICS_PAGES_MAX: usize = 48;
/// Time to send a request there.
pub const METRICS_HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time to take the answer.
pub const METRICS_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a snapshot or a status report from the master.
pub const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Addresses on which one node listens for clients; each has a socket per worker thread.
pub const LISTEN_ADDRESSES_MAX: usize = 256;
/// Listening sockets of one node: addresses times worker threads. Each is open in the master and in the worker.
pub const LISTEN_SOCKETS_MAX: usize = 16_384;
/// Packets waiting for a worker: every listening socket, and what else comes while it starts; one that is so far behind is replaced.
pub const WORKER_QUEUE_MAX: usize = LISTEN_SOCKETS_MAX + 4_096;
/// Names that one hint of a configuration report lists.
pub const CONFIG_NAMES_LISTED_MAX: usize = 20;
/// Neighbours whose link address is remembered; the kernel keeps 1,024 for each family unless told otherwise (`gc_thresh3`).
pub const NEIGHBOURS_MAX: usize = 65_536;
