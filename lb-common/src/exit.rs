//! What the exit and listen watchers share with the master: which processes to watch, and the notices they send.

use bytemuck::{Pod, Zeroable};

/// Value of the map of watched processes (key: `tgid` as u32) and of watched cgroups (key: cgroup id as u64).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Watched {
    /// The instance id, as in `BackendRow::instance`.
    pub instance: u64,
    /// Its row in the backend table.
    pub slot: u32,
    /// The port that the instance should listen on, host order; 0 for a unix socket (listens are then not counted).
    pub port: u32,
}

const _: () = assert!(core::mem::size_of::<Watched>() == 16);

/// What a [`Notice`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NoticeKind {
    /// The process died; its row was taken out.
    Exited = 1,
    /// A socket of the instance began to listen on its port.
    ListenOpened = 2,
    /// The last listening socket on its port closed; its row was taken out.
    ListenClosed = 3,
}

impl NoticeKind {
    /// The kind stored as `raw`, if there is one.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Exited),
            2 => Some(Self::ListenOpened),
            3 => Some(Self::ListenClosed),
            _ => None,
        }
    }
}

/// A record of the notice ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Notice {
    /// The instance it speaks of.
    pub instance: u64,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The row in the backend table.
    pub slot: u32,
    /// A [`NoticeKind`].
    pub kind: u32,
}

const _: () = assert!(core::mem::size_of::<Notice>() == 24);
