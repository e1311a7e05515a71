//! Captured frames: what the ring `CAPTURE` carries to the master.

use bytemuck::{Pod, Zeroable};

use crate::flow::HandOver;
use crate::limits::CAPTURE_BYTES_MAX;
use crate::verdict::{Reason, Verdict};

/// A record of the ring, as long as it is whatever the frame's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Captured {
    /// When the frame came, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Row in `VIP_ROWS`.
    pub vip: u32,
    /// The backend that got it; [`HandOver::NO_SLOT`].
    pub slot: u32,
    /// Where it came in.
    pub ingress: u32,
    /// Where it goes out; 0 where it does not.
    pub egress: u32,
    /// Bytes of the frame as it came.
    pub frame_bytes: u32,
    /// How many of them are in `frame`.
    pub kept_bytes: u32,
    /// [`Outcome`].
    pub outcome: u32,
    /// [`Reason`] of what was dropped or answered; [`Captured::NO_REASON`].
    pub reason: u32,
    /// The first bytes of the frame as it came, link header first; what is beyond `kept_bytes` has any content.
    pub frame: [u8; CAPTURE_BYTES_MAX],
}

impl Captured {
    /// Neither dropped nor answered.
    pub const NO_REASON: u32 = u32::MAX;

    /// The bytes that were kept.
    pub fn kept(&self) -> &[u8] {
        &self.frame[..self.frame.len().min(self.kept_bytes as usize)]
    }

    /// Why it was dropped or answered.
    pub fn reason(&self) -> Option<Reason> {
        Reason::ALL.get(self.reason as usize).copied()
    }

    /// The backend that got it.
    pub fn backend(&self) -> Option<u32> {
        (self.slot != HandOver::NO_SLOT).then_some(self.slot)
    }
}

/// [`Verdict`] without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    /// Up the stack.
    Pass = 0,
    /// Gone.
    Drop = 1,
    /// Back out of where it came in.
    Transmit = 2,
    /// Out of another interface.
    Redirect = 3,
}

impl Outcome {
    /// The outcome stored as `raw`.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Pass,
            1 => Self::Drop,
            2 => Self::Transmit,
            3 => Self::Redirect,
            _ => return None,
        })
    }

    /// As in captures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Transmit => "transmit",
            Self::Redirect => "redirect",
        }
    }
}

impl From<Verdict> for Outcome {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Drop(_) => Self::Drop,
            Verdict::Transmit => Self::Transmit,
            Verdict::Redirect(_) => Self::Redirect,
        }
    }
}

const _: () = assert!(size_of::<Captured>() == 40 + CAPTURE_BYTES_MAX);
