//! The backend table: one row (slot) for each backend, read by kernel programs, master and workers alike.
//!
//! Each field has one writer, so no update can be lost: the master writes what was decided, the kernel writes what it
//! saw. [`BackendRow::traffic`] joins the two, and everybody who chooses a backend asks it.

use bytemuck::{Pod, Zeroable};

/// May a backend get traffic? The joined verdict of master and kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum TrafficState {
    /// Gets nothing.
    #[default]
    Out = 0,
    /// Gets new requests at reduced weight.
    Warming = 1,
    /// Gets new requests.
    In = 2,
    /// Keeps the flows and requests that it has, gets no new ones.
    Draining = 3,
    /// Its requests wait in the worker; nobody of its upstream is [`TrafficState::In`].
    Held = 4,
}

impl TrafficState {
    /// The state stored as `raw`; an unknown number is [`TrafficState::Out`], the safe reading.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Warming,
            2 => Self::In,
            3 => Self::Draining,
            4 => Self::Held,
            _ => Self::Out,
        }
    }

    /// Whether new requests and flows may be sent to a backend in this state (invariant 1).
    #[inline(always)]
    pub const fn takes_new(self) -> bool {
        matches!(self, Self::In | Self::Warming)
    }

    /// The name shown to operators.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "OUT",
            Self::Warming => "WARMING",
            Self::In => "IN",
            Self::Draining => "DRAINING",
            Self::Held => "HELD",
        }
    }
}

/// One row of the backend table: 64 bytes, one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BackendRow {
    /// Master: which instance the row speaks of; 0 is an empty row. Never used twice, across restarts of the master too.
    pub instance: u64,
    /// Master: [`TrafficState`] as decided.
    pub state: u32,
    /// Master: share of new requests relative to the other backends of the upstream, already reduced while warming.
    /// 0 while OUT: nobody is expected back without an operator's doing.
    pub weight: u32,
    /// Kernel: the last instance of this row whose process died (`sched_process_exit`).
    pub exited_instance: u64,
    /// Kernel: when, in nanoseconds of `CLOCK_MONOTONIC`.
    pub exited_at_ns: u64,
    /// Kernel: sockets of this instance that began to listen. The master zeroes both counts before it spawns.
    pub listens_opened: u32,
    /// Kernel: sockets of this instance that ceased to listen.
    pub listens_closed: u32,
    /// Kernel: when the last of them changed, in nanoseconds of `CLOCK_MONOTONIC`.
    pub listen_changed_at_ns: u64,
    /// Master: when `state` was written, in nanoseconds of `CLOCK_MONOTONIC`.
    pub state_changed_at_ns: u64,
    /// Master: a hash of what a backend of the configuration is, so that the next master knows the row again; 0 for instances of
    /// programs, which end with the master.
    pub identity: u64,
}

const _: () = assert!(core::mem::size_of::<BackendRow>() == 64);

impl BackendRow {
    /// The state that counts: what the master decided, unless the kernel saw this instance die or stop listening.
    #[inline(always)]
    pub const fn traffic(&self) -> TrafficState {
        if self.instance == 0 || self.exited_instance == self.instance || self.has_stopped_listening() {
            TrafficState::Out
        } else {
            TrafficState::from_raw(self.state)
        }
    }

    /// Whether requests need not wait for it: it was stopped, or has failed too often.
    #[inline(always)]
    pub const fn is_given_up(&self) -> bool {
        self.instance != 0
            && self.weight == 0
            && matches!(TrafficState::from_raw(self.state), TrafficState::Out)
    }

    /// Whether the instance had listening sockets and has none now. Never true where the kernel does not watch.
    #[inline(always)]
    pub const fn has_stopped_listening(&self) -> bool {
        self.listens_opened != 0 && self.listens_opened == self.listens_closed
    }
}

/// One row of the activity table, written by one worker: the load of the backend in the same slot of [`BackendRow`].
///
/// Each worker process has a table of its own, so that a worker which dies takes its counts with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ActivityRow {
    /// Requests, tunnels and streams in progress on this backend.
    pub active: u32,
    /// Open connections to this backend, idle ones included.
    pub connections: u32,
    /// Requests ever sent to this backend by this worker.
    pub requests: u64,
    /// Zero: keeps rows of different backends on different cache lines.
    pub reserved: [u64; 6],
}

const _: () = assert!(core::mem::size_of::<ActivityRow>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: BackendRow, expect: TrafficState) {
        assert_eq!(row.traffic(), expect, "{row:?}");
    }

    #[test]
    fn kernel_overrules_the_master_only_for_the_same_instance() {
        let living = BackendRow { instance: 7, state: TrafficState::In as u32, ..Default::default() };
        check(living, TrafficState::In);
        check(BackendRow { exited_instance: 6, ..living }, TrafficState::In);
        check(BackendRow { exited_instance: 7, ..living }, TrafficState::Out);
        check(BackendRow { instance: 0, ..living }, TrafficState::Out);
    }

    #[test]
    fn closed_listener_is_out_until_it_listens_again() {
        let row = BackendRow { instance: 7, state: TrafficState::In as u32, ..Default::default() };
        check(BackendRow { listens_opened: 1, listens_closed: 1, ..row }, TrafficState::Out);
        check(BackendRow { listens_opened: 2, listens_closed: 1, ..row }, TrafficState::In);
        check(BackendRow { state: 99, ..row }, TrafficState::Out);
    }
}
