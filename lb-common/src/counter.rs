//! What the kernel programs count: one index per event, one record per VIP and backend, so that each side means the same.

use bytemuck::{Pod, Zeroable};

/// An index of the counter map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Deaths of watched processes.
    Exits = 0,
    /// Listening sockets of watched instances that opened.
    ListensOpened = 1,
    /// Listening sockets of watched instances that closed.
    ListensClosed = 2,
    /// Notices that found the ring full.
    NoticesLost = 3,
    /// Sockets enrolled in the short-cut.
    Enrolled = 4,
    /// Sockets that could have been enrolled and were not: a map is full, another owner, a protocol on top of TCP.
    Refused = 5,
    /// Messages that took the short-cut.
    Redirected = 6,
    /// Bytes that took the short-cut.
    RedirectedBytes = 7,
    /// Messages that went by TCP because the other end is not enrolled, or closed.
    PassedNoPeer = 8,
    /// Messages that went by TCP because bytes sent by TCP before were unread.
    PassedUnread = 9,
    /// Messages that went by TCP because the reader was behind.
    PassedNoCredit = 10,
    /// Bytes of segments that an enrolled socket had received before: taken off (see [`crate::socket::repeated`]).
    RepeatedBytes = 11,
    /// Segments dropped because such bytes could not be taken off: no memory. Their connection ends by time-out.
    RepeatedLost = 12,
}

impl Counter {
    /// Entries of the counter map.
    pub const COUNT: u32 = 13;
}

/// What one CPU counted for one VIP (`VIP_COUNTS`) or one backend (`BACKEND_COUNTS`), towards backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of their IP packets as they came.
    pub bytes: u64,
    /// Flows that began.
    pub flows: u64,
    /// Packets dropped, or answered by ourselves.
    pub dropped: u64,
}
