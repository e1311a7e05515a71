//! Bounds that the kernel and userspace share; every map is sized from here.

/// Rows of the backend table: the most backends one node can hold.
pub const BACKENDS_MAX: u32 = 4096;
/// Instances watched by the exit program at one time.
pub const INSTANCES_MAX: u32 = BACKENDS_MAX;
/// Sockets enrolled in the short-cut at one time; beyond it sockets keep to plain TCP.
pub const SOCKETS_MAX: u32 = 65_536;
/// Bytes of the ring that carries kernel notices to the master; a power of two and a multiple of the page size.
pub const NOTICE_RING_BYTES: u32 = 256 * 1024;
/// Bytes that may wait in the queue of one enrolled socket before further messages go by TCP, which makes the sender wait. More than
/// one message of any usual writer (64 to 400 KiB): TCP costs an enrolled socket more than any other.
pub const SHORT_CUT_BYTES_MAX: u32 = 1024 * 1024;
/// Messages below this size take the short-cut only into an empty queue: each costs the kernel about 1 KiB, whatever its size.
pub const SHORT_CUT_SMALL_BYTES: u32 = 512;
/// Ends of enrolled connections that the other end may still look for; each does so at its first message.
pub const SHORT_CUT_ENDS_MAX: u32 = 16_384;
/// Enrolled sockets whose next segment is known. The least recently used goes: one with nothing on the way.
pub const SHORT_CUT_SEGMENTS_MAX: u32 = SOCKETS_MAX;
/// Local ports whose connections may take the short-cut.
pub const SHORT_CUT_PORTS_MAX: u32 = BACKENDS_MAX;
/// VIPs of one node, ranges and prefixes included.
pub const VIPS_MAX: u32 = 1024;
/// Port ranges that can hang on one prefix of VIP addresses, those of the prefixes around it included.
pub const SPANS_PER_PREFIX_MAX: usize = 8;
/// Upstreams that VIPs refer to; each has a lookup table of its own.
pub const LOOKUP_TABLES_MAX: u32 = 512;
/// Rows of the largest lookup table, a prime: shares within 1 % for 650 backends (Maglev, NSDI 2016, section 5.3).
pub const LOOKUP_ROWS_MAX: u32 = 131_071;
/// Known flows by default; the least recently used goes first.
pub const FLOWS_MAX: u32 = 1_048_576;
/// Entries of translated flows by default, two for each; a full table refuses new ones.
pub const NAT_ENTRIES_MAX: u32 = 524_288;
/// Translated flows that both sides have not yet agreed on, two entries each; the least recently used goes first.
pub const NAT_HALF_OPEN_MAX: u32 = 131_072;
/// Of those at least so many entries for each CPU.
pub const NAT_HALF_OPEN_PER_CPU_MIN: u32 = 2_048;
/// After the backend's first sequence number the client may acknowledge so much to finish a handshake: what a backend sends before it hears of
/// the end of the handshake, which is nothing but for TCP Fast Open (RFC 7413, section 4.2), and no more than guessing stays hopeless.
pub const FIRST_ACKNOWLEDGED_MAX: u32 = 65_536;
/// ICMP errors that one CPU sends in a second, and at once (Linux: `icmp_msgs_per_sec`).
pub const ICMP_ERRORS_PER_SECOND: u32 = 1_000;
/// Ports tried for a new translated flow before it is refused.
pub const NAT_PORT_TRIES_MAX: u32 = 24;
/// Of those, ports among which the oldest flow that is not established is looked for where all are taken.
pub const NAT_RECLAIM_TRIES_MAX: u32 = 16;
/// Datagrams whose fragments are being forwarded.
pub const FRAGMENTS_MAX: u32 = 16_384;
/// Networks in the deny and allow lists together.
pub const GUARDED_NETWORKS_MAX: u32 = 1_048_576;
/// Source addresses whose rate of new flows is remembered.
pub const SOURCES_MAX: u32 = 262_144;
/// Connection ids that name a backend.
pub const QUIC_SERVERS_MAX: u32 = BACKENDS_MAX;
/// Marks of new flows while two generations of a lookup table are alive; a power of two.
pub const MARKS_MAX: u32 = 65_536;
/// Bytes of the ring that carries captured frames; a power of two and a multiple of the page size.
pub const CAPTURE_RING_BYTES: u32 = 1024 * 1024;
/// Bytes of a frame that a capture keeps.
pub const CAPTURE_BYTES_MAX: usize = 256;
/// Extension headers of an IPv6 packet that are read; more are nonsense.
pub const EXTENSION_HEADERS_MAX: u32 = 6;
/// Rows of a lookup table that are asked for a flow before there is no backend.
pub const LOOKUP_TRIES_MAX: u32 = 4;
/// Interfaces that packets may leave by.
pub const INTERFACES_MAX: u32 = 256;
/// The time in a flow's entry is written when it is older than this: ten times a second at most.
pub const TOUCH_NS: u64 = 100_000_000;
