//! Every bound of the userspace side in one place. Bounds that the kernel shares are in `lb_common::limits`.

use std::time::Duration;

/// Bytes of a request or response head that we accept.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of a request target; longer is 414.
pub const URI_BYTES_MAX: usize = 8 * 1024;
/// Header lines in one head.
pub const HEADERS_MAX: usize = 100;
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
/// Client connections in one worker.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Time a client has to send a complete head.
pub const CLIENT_HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Time a client's keep-alive connection may be idle.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time between two reads of a client's body, or two writes to the client.
pub const CLIENT_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle time after which a pooled backend connection is closed; below the 5 s of common backends.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_millis(4_500);
/// Unread request body that we read away so that the connection can be kept.
pub const DISCARD_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of captured output kept in memory for each stream of an instance.
pub const OUTPUT_RING_BYTES: usize = 64 * 1024;
/// Bytes of captured output waiting for the disk; beyond it lines are dropped and counted.
pub const OUTPUT_QUEUE_BYTES: usize = 1024 * 1024;
/// Events kept for `lbctl events`.
pub const EVENTS_KEPT: usize = 4_096;
/// Log records waiting for the writer thread; beyond it records are dropped and counted.
pub const LOG_QUEUE_RECORDS: usize = 16_384;
/// Bytes of one control request.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Control connections at one time.
pub const CONTROL_CONNECTIONS_MAX: usize = 64;
/// Bytes read of a probe's answer.
pub const PROBE_RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Time a worker has to acknowledge a snapshot before it counts as stuck.
pub const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(5);
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
/// Configuration files read through `include`.
pub const CONFIG_FILES_MAX: usize = 256;
