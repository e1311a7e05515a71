//! Translated flows: [`known`] in the hot path, the stage `Nat` for all that is not ordinary about them, the stage `Open` for new ones.

pub mod entry;
pub mod port;
#[cfg(test)]
mod tests;

use super::deliver::leave;
use super::known::{is_alive, is_idle};
use super::{Stage, Step, answered, choose, drop, limit};
use crate::flow::{FlagChange, HandOver, NatFlow, SourceKey};
use crate::hash;
use crate::limits::FIRST_ACKNOWLEDGED_MAX;
use crate::packet::parse::{Packet, parse_beginning};
use crate::packet::translate::{self, Extent};
use crate::packet::{Frame, rewrite, tcp};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::VipRow;
use entry::{Home, Opening, Side};
use port::Search;

/// A flow is looked at anew by who has been silent for so long.
const PAUSE_NS: u64 = 1_000_000_000;
/// Every interface takes packets of this size (RFC 8200, section 5).
const MTU_MIN: usize = 1280;
/// What is noted of a packet whose VIP nobody has asked for yet.
const UNASKED: HandOver =
    HandOver { vip: HandOver::NO_VIP, slot: HandOver::NO_SLOT, mtu: 0, probe: 0, reclaimed: 0 };

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
    let flow = match tables.nat(&packet.key) {
        Some(flow) => flow,
        // What a backend answers to a SYN: its flow is half open. Everything else of such a flow is for a VIP, where it is looked for.
        None if packet.is_tcp() => return is_first_answer(packet).then(|| ask_nat(tables)),
        None => {
            let flow = tables.nat_half_open(&packet.key)?;
            if is_to_be_noted(tables, flow) {
                return Some(ask_nat(tables));
            }
            flow
        }
    };
    if packet.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0
        || flow.flags & (NatFlow::COOKIE_OPENING | NatFlow::SHIFTED | NatFlow::ANY_RESET) != 0
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
    tables.touch_nat(&packet.key, flow, FlagChange::NONE);
    Some(send(frame, tables, packet, flow, Extent::Whole))
}

#[inline(always)]
fn is_first_answer(packet: &Packet) -> bool {
    packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK || packet.flags & tcp::RST != 0
}

/// Whether a datagram changes its flow, which is half open: the first from the backend, the first from the client after that, or one after a
/// pause in which the flow may have ended. Others only pass, since of much UDP nothing ever comes back.
#[inline(always)]
fn is_to_be_noted<T: Tables>(tables: &T, flow: &NatFlow) -> bool {
    const NEIGHBOURS: u32 = NatFlow::ANSWERED.trailing_zeros() - NatFlow::TO_CLIENT.trailing_zeros();
    (flow.flags >> NEIGHBOURS ^ flow.flags) & NatFlow::TO_CLIENT != 0
        || tables.now_ns().saturating_sub(flow.seen_at_ns) > PAUSE_NS
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
    if matches!(found, Found::Nothing) {
        found = half_open(frame, tables, &packet);
    }
    let (entry, is_last) = match found {
        // Copied, because pointers into two maps are two ways for the verifier.
        Found::Flow(flow) => (*flow.words(), 0),
        Found::LastOf(flow) => (*flow.words(), 1),
        Found::Other(step) => return step,
        Found::Nothing => return unknown(tables, &packet),
    };
    let flow = entry.flow();
    let step = send(frame, tables, &packet, flow, Extent::Whole);
    if frame.is_set(is_last) {
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
            // What begins, and UDP, finds another backend; a TCP connection has ended with its backend, and the client is told.
            let goes_on = !packet.is_tcp() || packet.is_bare_syn();
            return if goes_on { Found::Nothing } else { Found::Other(reset(tables, packet, vip)) };
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
    tables.hand_over(HandOver { vip, slot: HandOver::NO_SLOT, mtu: 0, probe: 0, reclaimed: 0 });
    Step::Next(Stage::Reset)
}

/// A packet of a handshake that is not finished, or of UDP whose client has sent nothing since it was answered.
#[inline(always)]
fn half_open<'a, F: Frame, T: Tables>(frame: &F, tables: &'a T, packet: &Packet) -> Found<'a> {
    let key = &packet.key;
    let Some(flow) = tables.nat_half_open(key) else { return Found::Nothing };
    if flow.flags & NatFlow::TO_CLIENT != 0 {
        return of_backend(frame, tables, packet, flow);
    }
    let is_forgotten = !packet.is_tcp()
        && tables.vip_row(flow.vip as u32).is_some_and(|row| is_idle(tables, row, flow.seen_at_ns));
    if is_forgotten || !is_alive(tables, flow.slot, flow.instance) {
        entry::forget(tables, Home::HalfOpen, key, flow);
        return Found::Nothing;
    }
    if frame.is_set(limit::is_denied(tables, &key.source) as u8) {
        return Found::Other(drop(tables, flow.vip as u32, Reason::Denied));
    }
    // Anybody may have made up a RST: the backend knows whether it belongs to the handshake.
    let is_of_none = packet.flags & (tcp::SYN | tcp::RST) != 0;
    let Some(reply) = entry::reply(tables, key, flow) else {
        // It was evicted, and this one serves nobody any more.
        tables.forget_nat_half_open(key);
        return Found::Nothing;
    };
    if is_of_none || !confirms(frame, packet, reply) {
        // Perhaps it ends a handshake that was done by cookie.
        if packet.is_tcp() && !is_of_none {
            return Found::Nothing;
        }
        tables.touch_nat(key, flow, FlagChange::NONE);
        return Found::Flow(flow);
    }
    if let Err(reason) = entry::promote(tables, key, flow, reply) {
        if packet.is_tcp() {
            return Found::Other(drop(tables, flow.vip as u32, reason));
        }
        // Datagrams of both sides are looked for here, too.
        tables.touch_nat(key, flow, FlagChange::NONE);
        return Found::Flow(flow);
    }
    let Some(flow) = tables.nat(key) else { return Found::Nothing };
    let source = SourceKey { address: key.source, vip: flow.vip as u32 };
    if tables.vip_row(source.vip).is_some_and(|row| row.flags & VipRow::AFFINITY != 0) {
        choose::keep(tables, &source, flow.slot);
    }
    entry::note(tables, key, flow, packet.flags);
    Found::Flow(flow)
}

/// What a backend sends in a flow that is half open.
#[inline(always)]
fn of_backend<'a, F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    flow: &'a NatFlow,
) -> Found<'a> {
    if packet.flags & tcp::RST != 0 {
        return Found::LastOf(flow);
    }
    match tcp::number(frame, packet.transport_at, tcp::SEQUENCE_AT) {
        Some(sequence) if packet.is_tcp() => tables.note_answer(&packet.key, sequence),
        _ => entry::note_answered(tables, &packet.key, flow),
    }
    Found::Flow(flow)
}

/// Whether the client's packet shows that it has got the backend's answer, whose entry is `reply`. Who only claims to be the client cannot know
/// with what sequence number the backend began; of UDP there is nothing to be known.
#[inline(always)]
fn confirms<F: Frame>(frame: &F, packet: &Packet, reply: &NatFlow) -> bool {
    if reply.flags & NatFlow::ANSWERED == 0 || !packet.is_tcp() {
        return reply.flags & NatFlow::ANSWERED != 0;
    }
    let acknowledged = tcp::number(frame, packet.transport_at, tcp::ACKNOWLEDGEMENT_AT).unwrap_or_default();
    let beyond_first = acknowledged.wrapping_sub(reply.sequence_delta.wrapping_add(1));
    packet.flags & tcp::ACK != 0 && beyond_first < FIRST_ACKNOWLEDGED_MAX
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
    if tables.nat_half_open(&packet.key).is_some() {
        return Step::Next(Stage::Nat);
    }
    let opened = enter(frame, tables, &packet, &note);
    let opened = opened.and_then(|()| send_first(frame, tables));
    opened.unwrap_or_else(|reason| not_opened(tables, note, reason))
}

/// Where all ports are taken, one is looked for that somebody may have to give back; once.
#[inline(always)]
pub fn not_opened<T: Tables>(tables: &T, note: HandOver, reason: Reason) -> Step {
    if !matches!(reason, Reason::NatPortsExhausted) || note.reclaimed != 0 {
        return drop(tables, note.vip, reason);
    }
    Step::Next(Stage::Reclaim)
}

/// The stage `Reclaim`: no port is free for the first packet of a flow, or for the answer to a cookie, which [`HandOver`] is about.
#[inline(always)]
pub fn reclaim<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse_beginning(frame) else { return Step::Done(Verdict::Pass) };
    let note = tables.handed_over();
    let hash = hash::of_flow(&packet.key, tables.settings().seed) as u32;
    let reclaimed = match (tables.vip_row(note.vip), tables.hop(note.slot)) {
        (Some(row), Some(hop)) => {
            Search::new(&packet.key, row.flags & VipRow::KEEP_CLIENT != 0, hop, hash).reclaim(frame, tables)
        }
        _ => Err(Reason::NoBackend),
    };
    if let Err(reason) = reclaimed {
        return drop(tables, note.vip, reason);
    }
    tables.hand_over(HandOver { reclaimed: 1, ..note });
    Step::Next(if frame.is_set(packet.opens) { Stage::Open } else { Stage::CookieOpen })
}

/// Sends the packet that has just opened a flow. Read again rather than kept: what is kept over the opening exceeds the stack of a kernel
/// program.
#[inline(always)]
fn send_first<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Step, Reason> {
    let packet = parse_beginning(frame).map_err(|_| Reason::Truncated)?;
    let flow = tables.nat_half_open(&packet.key).ok_or(Reason::NatTableFull)?;
    to_backend(frame, tables, &packet, flow, Age::New, Extent::Whole)
}

#[inline(always)]
fn enter<F: Frame, T: Tables>(frame: &F, tables: &T, packet: &Packet, note: &HandOver) -> Result<(), Reason> {
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
    entry::open(tables, Home::HalfOpen, &opening)
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
    // Copied, because pointers into two maps are two ways for the verifier, and what follows is long.
    let entry = match tables.nat(&packet.key) {
        Some(flow) => *flow.words(),
        None => *tables.nat_half_open(&packet.key)?.words(),
    };
    let flow = entry.flow();
    if flow.flags & NatFlow::TO_CLIENT == 0 {
        if !is_alive(tables, flow.slot, flow.instance) {
            return None;
        }
        // An error about a flow that the client should not have harms nobody.
        if matches!(extent, Extent::Network) && limit::is_denied(tables, &packet.key.source) {
            return Some(drop(tables, flow.vip as u32, Reason::Denied));
        }
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
    // Errors are small.
    if matches!(extent, Extent::Network) && packet.bytes > mtu_to_client(frame, tables, packet, flow) as usize
    {
        return Err(Reason::TooBig);
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
    let mtu = mtu_to_client(frame, tables, packet, flow);
    if packet.bytes > mtu as usize {
        return Ok(answered(tables, flow.vip as u32, flow.slot, mtu));
    }
    translate::translate(frame, packet, flow, extent).ok_or(Reason::Truncated)?;
    translate::link_to_client(frame, packet, flow).ok_or(Reason::NoHeadroom)?;
    Ok(Step::Done(leave(frame, interface)))
}

/// The largest IP packet that the interface of the flow's VIP takes, for what goes to clients. Not looked up for what every interface takes.
#[inline(always)]
fn mtu_to_client<F: Frame, T: Tables>(frame: &F, tables: &T, packet: &Packet, flow: &NatFlow) -> u32 {
    let mut mtu = u32::MAX;
    if packet.bytes > MTU_MIN
        && flow.flags & NatFlow::TO_CLIENT != 0
        && let Some(row) = tables.vip_row(flow.vip as u32)
    {
        mtu = row.mtu;
    }
    frame.settle(mtu as usize, u32::MAX as usize) as u32
}
