//! Bounds that the kernel and userspace share; every map is sized from here.

/// Rows of the backend table: the most backends one node can hold.
pub const BACKENDS_MAX: u32 = 4096;
/// Instances watched by the exit program at one time.
pub const INSTANCES_MAX: u32 = BACKENDS_MAX;
/// Sockets enrolled in the short-cut at one time; beyond it sockets keep to plain TCP.
pub const SOCKETS_MAX: u32 = 65_536;
/// Bytes of the ring that carries kernel notices to the master; a power of two and a multiple of the page size.
pub const NOTICE_RING_BYTES: u32 = 256 * 1024;
/// Bytes that may wait in the queue of one enrolled socket before further messages go by TCP, which makes the sender wait.
pub const SHORT_CUT_BYTES_MAX: u32 = 256 * 1024;
/// Messages below this size take the short-cut only into an empty queue: each costs the kernel about 1 KiB, whatever its size.
pub const SHORT_CUT_SMALL_BYTES: u32 = 512;
/// Ends of enrolled connections that the other end may still look for; each does so at its first message.
pub const SHORT_CUT_ENDS_MAX: u32 = 16_384;
/// Local ports whose connections may take the short-cut.
pub const SHORT_CUT_PORTS_MAX: u32 = BACKENDS_MAX;
