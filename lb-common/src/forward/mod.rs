//! What becomes of a packet: `forward(frame, tables) -> Verdict`, in stages.
//!
//! The kernel runs each stage as a program of its own, by tail calls, so that each stays small for the verifier; the host
//! runs the same functions in a loop. A stage reads the frame again; what it cannot read from there is in [`HandOver`].

pub mod answer;
pub mod choose;
pub mod cookie;
pub mod deliver;
pub mod fragment;
pub mod icmp;
pub mod known;
pub mod limit;
pub mod malformed;
pub mod nat;
pub mod new_flow;
pub mod quic;
pub mod vip;

pub use known::known;
pub use new_flow::new_flow;

use crate::flow::HandOver;
use crate::packet::Frame;
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};

/// What a stage returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// That is what becomes of the packet.
    Done(Verdict),
    /// Another stage decides.
    Next(Stage),
}

/// The stages that follow [`known()`]; index of the program array `STAGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// [`new_flow()`]: no flow is known.
    New = 0,
    /// [`nat::nat`]: a packet of a translated flow that is not ordinary, or of none; [`HandOver`] has the VIP where it was asked for.
    Nat = 1,
    /// [`icmp::icmp`].
    Icmp = 2,
    /// [`fragment::fragment`].
    Fragment = 3,
    /// [`cookie::cookie`]: a SYN for a NAT VIP above its rate. [`HandOver`] has the VIP.
    Cookie = 4,
    /// [`answer::answer`]: the packet cannot go on, and its sender should know. [`HandOver`] says why.
    Answer = 5,
    /// [`nat::open`]: the first packet of a translated flow. [`HandOver`] has the VIP and the backend.
    Open = 6,
    /// [`icmp::icmp_direct`]: an ICMP error that is about no translated flow.
    IcmpDirect = 7,
    /// [`known::beginning`]: the first part of a datagram that is ours.
    Beginning = 8,
    /// [`icmp::icmp_nat`]: an ICMP error that may be about a translated flow.
    IcmpNat = 9,
    /// [`fragment::fragment_direct`]: a later part of a datagram that is not translated.
    FragmentDirect = 10,
    /// [`cookie::proof`]: what may be the answer to a cookie. [`HandOver`] has the VIP.
    Proof = 11,
    /// [`cookie::open`]: the answer to a cookie. [`HandOver`] has the VIP, the backend and what the cookie said.
    CookieOpen = 12,
    /// [`cookie::handshake`]: a packet of a flow that a cookie began.
    Handshake = 13,
    /// [`malformed::malformed`]: a packet of no use to anybody.
    Malformed = 14,
    /// [`answer::reset`]: a TCP packet whose backend is gone. [`HandOver`] has the VIP.
    Reset = 15,
    /// [`nat::reclaim`]: no port is free for a flow. [`HandOver`] is as for the stage that found none.
    Reclaim = 16,
}

impl Stage {
    /// Entries of the array.
    pub const COUNT: u32 = 17;
    /// Every stage in order of its number.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::New,
        Self::Nat,
        Self::Icmp,
        Self::Fragment,
        Self::Cookie,
        Self::Answer,
        Self::Open,
        Self::IcmpDirect,
        Self::Beginning,
        Self::IcmpNat,
        Self::FragmentDirect,
        Self::Proof,
        Self::CookieOpen,
        Self::Handshake,
        Self::Malformed,
        Self::Reset,
        Self::Reclaim,
    ];

    /// The kernel program that is this stage.
    pub const fn program(self) -> &'static str {
        match self {
            Self::New => "steer_new",
            Self::Nat => "steer_nat",
            Self::Icmp => "steer_icmp",
            Self::Fragment => "steer_fragment",
            Self::Cookie => "steer_cookie",
            Self::Answer => "steer_answer",
            Self::Open => "steer_open",
            Self::IcmpDirect => "steer_icmp_direct",
            Self::Beginning => "steer_beginning",
            Self::IcmpNat => "steer_icmp_nat",
            Self::FragmentDirect => "steer_fragment_direct",
            Self::Proof => "steer_proof",
            Self::CookieOpen => "steer_cookie_open",
            Self::Handshake => "steer_handshake",
            Self::Malformed => "steer_malformed",
            Self::Reset => "steer_reset",
            Self::Reclaim => "steer_reclaim",
        }
    }
}

/// The kernel program of [`known()`], which is attached to interfaces.
pub const ENTRY_PROGRAM: &str = "steer";

/// Stages that a packet can go through: `Nat` may come before and after `New`, what opens a flow before and after `Reclaim`, no other comes twice.
const STEPS_MAX: u32 = Stage::COUNT + 3;

/// What becomes of a frame; its bytes are changed accordingly.
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let mut step = known(frame, tables);
    for _ in 0..STEPS_MAX {
        step = match step {
            Step::Done(verdict) => return verdict,
            Step::Next(Stage::New) => new_flow(frame, tables),
            Step::Next(Stage::Nat) => nat::nat(frame, tables),
            Step::Next(Stage::Icmp) => icmp::icmp(frame, tables),
            Step::Next(Stage::Fragment) => fragment::fragment(frame, tables),
            Step::Next(Stage::Cookie) => cookie::cookie(frame, tables),
            Step::Next(Stage::Answer) => answer::answer(frame, tables),
            Step::Next(Stage::Malformed) => malformed::malformed(frame, tables),
            Step::Next(Stage::Open) => nat::open(frame, tables),
            Step::Next(Stage::IcmpDirect) => icmp::icmp_direct(frame, tables),
            Step::Next(Stage::Beginning) => known::beginning(frame, tables),
            Step::Next(Stage::IcmpNat) => icmp::icmp_nat(frame, tables),
            Step::Next(Stage::FragmentDirect) => fragment::fragment_direct(frame, tables),
            Step::Next(Stage::Proof) => cookie::proof(frame, tables),
            Step::Next(Stage::CookieOpen) => cookie::open(frame, tables),
            Step::Next(Stage::Handshake) => cookie::handshake(frame, tables),
            Step::Next(Stage::Reset) => answer::reset(frame, tables),
            Step::Next(Stage::Reclaim) => nat::reclaim(frame, tables),
        };
    }
    fault(tables)
}

/// A stage is missing: counted, and up the stack, so that losing a program never cuts this host off.
#[inline(always)]
pub fn fault<T: Tables>(tables: &T) -> Verdict {
    tables.count_reason(None, Reason::ProgramFault);
    Verdict::Pass
}

/// Drops the packet, counted.
#[inline(always)]
pub fn drop<T: Tables>(tables: &T, vip: u32, reason: Reason) -> Step {
    tables.count_reason(Some(vip), reason);
    Step::Done(Verdict::Drop(reason))
}

/// Lets the packet be answered: too big, where there is an `mtu` that it should have kept, else its time to live has ended.
#[inline(always)]
pub fn answered<T: Tables>(tables: &T, vip: u32, slot: u32, mtu: u32) -> Step {
    tables.hand_over(HandOver { vip, slot, mtu, probe: 0, reclaimed: 0 });
    Step::Next(Stage::Answer)
}

#[cfg(test)]
mod tests;
