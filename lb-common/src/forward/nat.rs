//! Translated flows: [`known`] in the hot path, the stage `Nat` for all that is not ordinary about them, the stage `Open` for new ones.

pub mod entry;
#[cfg(test)]
mod tests;

use super::deliver::leave;
use super::known::is_alive;
use super::{Stage, Step, answered, drop, limit};
use crate::flow::{HandOver, NatFlow};
use crate::hash;
use crate::packet::parse::{Packet, parse_beginning};
use crate::packet::translate::{self, Extent};
use crate::packet::{Frame, rewrite, tcp};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::VipRow;
use entry::{Home, Opening, Side};

/// What is noted of a packet whose VIP nobody has asked for yet.
const UNASKED: HandOver = HandOver { vip: HandOver::NO_VIP, slot: HandOver::NO_SLOT, mtu: 0, zero: 0 };

/// Whether a packet is the first of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    New,
    Known,
}

/// A packet of a translated flow that is known, in either direction: rewritten and counted. `None`: no such flow.
///
/// Part of the program `steer`, for packets that VIPs with NAT might have: small and quick. What begins or ends a flow, and a flow that
/// something is odd about, goes to [`nat`].
#[inline(always)]
pub fn known<F: Frame, T: Tables>(frame: &mut F, tables: &T, packet: &Packet) -> Option<Step> {
    let Some(flow) = tables.nat(&packet.key) else {
        // What a backend answers to a SYN: its flow is half open. Everything else of such a flow is for a VIP.
        let is_answer =
            packet.flags & tcp::SYN != 0 && packet.flags & tcp::ACK != 0 || packet.flags & tcp::RST != 0;
        return is_answer.then(|| ask_nat(tables));
    };
    if packet.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
        || flow.flags & (NatFlow::COOKIE_OPENING | NatFlow::SHIFTED) != 0
    {
        return Some(ask_nat(tables));
    }
    if flow.flags & NatFlow::TO_CLIENT == 0 {
        if !is_alive(tables, flow.slot, flow.instance) || !comes_as_before(frame, flow) {
            return Some(ask_nat(tables));
        }
        if limit::is_denied(tables, &packet.key.source) {
            return Some(drop(tables, flow.vip as u32, Reason::Denied));
        }
    }
    tables.touch_nat(&packet.key, flow, flow.flags);
    Some(send(frame, tables, packet, flow, Extent::Whole))
}

#[inline(always)]
fn ask_nat<T: Tables>(tables: &T) -> Step {
    tables.hand_over(UNASKED);
    Step::Next(Stage::Nat)
}

/// Whether the client's packet came the way that its replies take.
#[inline(always)]
fn comes_as_before<F: Frame>(frame: &F, flow: &NatFlow) -> bool {
    Side::of(frame).is_some_and(|side| side == Side::of_flow(flow))
}

/// What is found of a packet's flow.
enum Found<'a> {
    /// The packet goes its way.
    Flow(&'a NatFlow),
    /// It does, and ends a handshake.
    LastOf(&'a NatFlow),
    /// It does not.
    Other(Step),
    /// There is no flow, or none any more.
    Nothing,
}

/// The stage: packets that [`known`] leaves, of flows in either table.
#[inline(always)]
pub fn nat<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse_beginning(frame) else { return Step::Done(Verdict::Pass) };
    let mut found = match tables.nat(&packet.key) {
        Some(flow) => established(frame, tables, &packet, flow),
        None => Found::Nothing,
    };
    if packet.is_tcp() && matches!(found, Found::Nothing) {
        found = half_open(tables, &packet);
    }
    let (flow, is_last) = match found {
        Found::Flow(flow) => (flow, false),
        Found::LastOf(flow) => (flow, true),
        Found::Other(step) => return step,
        Found::Nothing => return unknown(tables, &packet),
    };
    let step = send(frame, tables, &packet, flow, Extent::Whole);
    if is_last {
        entry::forget(tables, Home::HalfOpen, &packet.key, flow);
    }
    step
}

#[inline(always)]
fn established<'a, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &'a T,
    packet: &Packet,
    flow: &'a NatFlow,
) -> Found<'a> {
    let (key, vip) = (&packet.key, flow.vip as u32);
    let is_second_answer =
        flow.flags & NatFlow::SHIFTED != 0 && packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK;
    if flow.flags & NatFlow::COOKIE_OPENING != 0 || is_second_answer {
        return Found::Other(Step::Next(Stage::Handshake));
    }
    let mut flow = flow;
    if flow.flags & NatFlow::TO_CLIENT == 0 {
        if packet.is_bare_syn() && entry::is_over(flow) {
            entry::forget(tables, Home::Known, key, flow);
            return Found::Nothing;
        }
        if !is_alive(tables, flow.slot, flow.instance) {
            entry::forget(tables, Home::Known, key, flow);
            // UDP finds another backend; a TCP connection has ended with its backend, and the client is told.
            return if packet.is_tcp() { Found::Other(reset(tables, packet, vip)) } else { Found::Nothing };
        }
        if limit::is_denied(tables, &key.source) {
            return Found::Other(drop(tables, vip, Reason::Denied));
        }
        if !comes_as_before(frame, flow)
            && let Some(side) = Side::of(frame)
        {
            entry::redirect(tables, key, flow, side);
            // The entry that was replaced is another flow's soon.
            flow = match tables.nat(key) {
                Some(flow) => flow,
                None => return Found::Nothing,
            };
        }
    }
    if flow.flags & NatFlow::SHIFTED != 0 && translate::sequence(frame, packet, flow).is_none() {
        return Found::Other(drop(tables, vip, Reason::Truncated));
    }
    entry::note(tables, key, flow, packet.flags);
    Found::Flow(flow)
}

/// An end of a connection that its client did not ask for.
#[inline(always)]
fn reset<T: Tables>(tables: &T, packet: &Packet, vip: u32) -> Step {
    if packet.flags & (tcp::SYN | tcp::RST | tcp::ACK) != tcp::ACK {
        return drop(tables, vip, Reason::UnknownFlow);
    }
    tables.hand_over(HandOver { vip, slot: HandOver::NO_SLOT, mtu: 0, zero: 0 });
    Step::Next(Stage::Reset)
}

/// A packet of a handshake that is not finished.
#[inline(always)]
fn half_open<'a, T: Tables>(tables: &'a T, packet: &Packet) -> Found<'a> {
    let key = &packet.key;
    let Some(flow) = tables.nat_half_open(key) else { return Found::Nothing };
    let vip = flow.vip as u32;
    let is_reset = packet.flags & tcp::RST != 0;
    if flow.flags & NatFlow::TO_CLIENT != 0 {
        tables.touch_nat(key, flow, flow.flags | NatFlow::ANSWERED);
        return if is_reset { Found::LastOf(flow) } else { Found::Flow(flow) };
    }
    if !is_alive(tables, flow.slot, flow.instance) {
        entry::forget(tables, Home::HalfOpen, key, flow);
        return Found::Nothing;
    }
    if packet.is_bare_syn() {
        tables.touch_nat(key, flow, flow.flags);
        return Found::Flow(flow);
    }
    if is_reset {
        return Found::LastOf(flow);
    }
    if let Err(reason) = entry::promote(tables, key, flow) {
        return Found::Other(drop(tables, vip, reason));
    }
    let Some(flow) = tables.nat(key) else { return Found::Nothing };
    entry::note(tables, key, flow, packet.flags);
    Found::Flow(flow)
}

/// A packet of no flow: opens one where a backend was chosen for it.
#[inline(always)]
fn unknown<T: Tables>(tables: &T, packet: &Packet) -> Step {
    let note = tables.handed_over();
    if note.vip == HandOver::NO_VIP {
        return Step::Next(Stage::New);
    }
    if note.slot != HandOver::NO_SLOT {
        return Step::Next(Stage::Open);
    }
    let takes_cookies = tables.vip_row(note.vip).is_some_and(|row| row.syn_rate != 0);
    if takes_cookies && packet.flags & (tcp::SYN | tcp::RST | tcp::ACK) == tcp::ACK {
        return Step::Next(Stage::Proof);
    }
    drop(tables, note.vip, Reason::UnknownFlow)
}

/// The stage `Open`: the first packet of a flow, for which [`HandOver`] has the VIP and the backend.
#[inline(always)]
pub fn open<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse_beginning(frame) else { return Step::Done(Verdict::Pass) };
    let note = tables.handed_over();
    // A SYN that is repeated.
    if packet.is_tcp() && tables.nat_half_open(&packet.key).is_some() {
        return Step::Next(Stage::Nat);
    }
    let home = if packet.is_tcp() { Home::HalfOpen } else { Home::Known };
    let opened = enter(frame, tables, &packet, home, &note);
    let opened = opened.and_then(|()| send_first(frame, tables));
    opened.unwrap_or_else(|reason| drop(tables, note.vip, reason))
}

/// Sends the packet that has just opened a flow. Read again rather than kept: what is kept over the opening exceeds the stack of a kernel
/// program.
#[inline(always)]
fn send_first<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Step, Reason> {
    let packet = parse_beginning(frame).map_err(|_| Reason::Truncated)?;
    let flow = if packet.is_tcp() { tables.nat_half_open(&packet.key) } else { tables.nat(&packet.key) };
    to_backend(frame, tables, &packet, flow.ok_or(Reason::NatTableFull)?, Age::New, Extent::Whole)
}

#[inline(always)]
fn enter<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    home: Home,
    note: &HandOver,
) -> Result<(), Reason> {
    let row = tables.vip_row(note.vip).ok_or(Reason::NoBackend)?;
    let backend = tables.backend(note.slot).ok_or(Reason::NoBackend)?;
    let opening = Opening {
        key: &packet.key,
        vip: note.vip,
        keeps_client: row.flags & VipRow::KEEP_CLIENT != 0,
        slot: note.slot,
        instance: backend.instance,
        hop: tables.hop(note.slot).ok_or(Reason::NoNextHop)?,
        client: Side::of(frame).ok_or(Reason::Truncated)?,
        flags: 0,
        numbers: (0, 0),
        hash: hash::of_flow(&packet.key, tables.settings().seed) as u32,
    };
    entry::open(tables, home, &opening)
}

/// A packet of a flow, in either direction; `extent` says what of it is translated.
#[inline(always)]
fn send<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
    extent: Extent<'_>,
) -> Step {
    let sent = if flow.flags & NatFlow::TO_CLIENT != 0 {
        to_client(frame, tables, packet, flow, extent)
    } else {
        to_backend(frame, tables, packet, flow, Age::Known, extent)
    };
    sent.unwrap_or_else(|reason| drop(tables, flow.vip as u32, reason))
}

/// What belongs to a flow without being one of its packets, a later part of a datagram or an ICMP error; `packet` has the key of the flow
/// that it follows. `None`: no such flow.
#[inline(always)]
pub fn related<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    extent: Extent<'_>,
) -> Option<Step> {
    let flow = match tables.nat(&packet.key) {
        Some(flow) => flow,
        None => tables.nat_half_open(&packet.key)?,
    };
    let is_to_client = flow.flags & NatFlow::TO_CLIENT != 0;
    if !is_to_client && !is_alive(tables, flow.slot, flow.instance) {
        return None;
    }
    let sent = send_related(frame, tables, packet, flow, extent);
    Some(sent.unwrap_or_else(|reason| drop(tables, flow.vip as u32, reason)))
}

/// As [`send`], with one translation for both directions: that of an error is long.
#[inline(always)]
fn send_related<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
    extent: Extent<'_>,
) -> Result<Step, Reason> {
    if packet.ttl <= 1 {
        return Err(Reason::TimeExceeded);
    }
    translate::translate(frame, packet, flow, extent).ok_or(Reason::Truncated)?;
    if flow.flags & NatFlow::TO_CLIENT != 0 {
        translate::link_to_client(frame, packet, flow).ok_or(Reason::NoHeadroom)?;
        return Ok(Step::Done(leave(frame, flow.interface)));
    }
    let hop = tables.hop(flow.slot).ok_or(Reason::NoNextHop)?;
    let interface = hop.interface;
    if interface == 0 {
        return Err(Reason::NoNextHop);
    }
    if packet.bytes > hop.mtu as usize {
        return Err(Reason::TooBig);
    }
    rewrite::redirect_link(frame, packet.network_at, hop).ok_or(Reason::NoHeadroom)?;
    tables.count(flow.vip as u32, Some(flow.slot), packet.bytes as u64, false);
    Ok(Step::Done(leave(frame, interface)))
}

/// A client's packet on to its backend; `extent` says what of it is translated.
///
/// # Errors
/// Why it has to be dropped.
#[inline(always)]
fn to_backend<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
    age: Age,
    extent: Extent<'_>,
) -> Result<Step, Reason> {
    let (vip, slot) = (flow.vip as u32, flow.slot);
    let hop = tables.hop(slot).ok_or(Reason::NoNextHop)?;
    let interface = hop.interface;
    if interface == 0 {
        return Err(Reason::NoNextHop);
    }
    if packet.ttl <= 1 {
        return Ok(answered(tables, vip, slot, 0));
    }
    if packet.bytes > hop.mtu as usize {
        return Ok(answered(tables, vip, slot, hop.mtu as u32));
    }
    translate::translate(frame, packet, flow, extent).ok_or(Reason::Truncated)?;
    rewrite::redirect_link(frame, packet.network_at, hop).ok_or(Reason::NoHeadroom)?;
    tables.count(vip, Some(slot), packet.bytes as u64, matches!(age, Age::New));
    Ok(Step::Done(leave(frame, interface)))
}

/// A backend's packet back to its client; `extent` says what of it is translated.
///
/// # Errors
/// Why it has to be dropped.
#[inline(always)]
fn to_client<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
    extent: Extent<'_>,
) -> Result<Step, Reason> {
    let interface = flow.interface;
    if packet.ttl <= 1 {
        return Ok(answered(tables, flow.vip as u32, flow.slot, 0));
    }
    translate::translate(frame, packet, flow, extent).ok_or(Reason::Truncated)?;
    translate::link_to_client(frame, packet, flow).ok_or(Reason::NoHeadroom)?;
    Ok(Step::Done(leave(frame, interface)))
}
