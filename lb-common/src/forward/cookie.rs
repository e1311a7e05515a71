//! The stages of handshakes by SYN cookie, for VIPs with NAT that get SYNs faster than they should (RFC 4987, section 3.6).
//!
//! [`cookie`] answers a SYN and remembers nothing. [`proof`] sees whether an acknowledgement is of such an answer, and chooses a backend;
//! [`open`] enters the flow and makes of the acknowledgement a SYN to the backend. [`handshake`] makes of the backend's answer an
//! acknowledgement to the client. From then on the sequence numbers of one side are moved to those of the other.
//!
//! Our answer closes the window, so that no data comes before the backend is there to take it; what the client gets then opens it, and its first
//! data finishes the handshake with the backend (as netfilter's SYNPROXY does it). Only the size of segments is agreed on: no window scaling, no
//! selective acknowledgements, no timestamps, since all of them would have to be remembered.

use super::answer::turn_link;
use super::choose::{self, Places};
use super::deliver::leave;
use super::nat::entry::{self, Home, Opening, Side};
use super::{Stage, Step, drop, limit, nat};
use crate::flow::{FlagChange, FlowKey, HandOver, NatFlow};
use crate::hash;
use crate::packet::parse::{OFFSET_MASK, Packet, parse};
use crate::packet::segment::{NO_OPTION, Segment};
use crate::packet::{Frame, rewrite, tcp, translate};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::VipRow;

/// Largest segments that a cookie can remember: a host without the option, tunnels, PPPoE, Ethernet (as Linux chooses them in `syncookies.c`).
const SEGMENTS_IPV4: u64 = packed([536, 1300, 1440, 1460]);
/// See [`SEGMENTS_IPV4`].
const SEGMENTS_IPV6: u64 = packed([1220, 1280, 1420, 1440]);
/// How many.
const CLASSES: usize = 4;
/// Options that are looked at for the largest segment: most put it first.
const OPTIONS_MAX: u32 = 4;
/// The window that a backend is told of which waits for its client: what a client of any size has room for (RFC 6928).
const WINDOW_BYTES: u16 = 14_600;

/// The stage `Cookie`: a SYN beyond the VIP's rate. [`HandOver`] has the VIP.
#[inline(always)]
pub fn cookie<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse(frame) else { return Step::Done(Verdict::Pass) };
    let note = tables.handed_over();
    match send_cookie(frame, tables, &packet) {
        Ok(()) => {
            tables.count_reason(Some(note.vip), Reason::CookieSent);
            Step::Done(Verdict::Transmit)
        }
        Err(reason) => drop(tables, note.vip, reason),
    }
}

#[inline(always)]
fn send_cookie<F: Frame, T: Tables>(frame: &mut F, tables: &T, packet: &Packet) -> Result<(), Reason> {
    let at = packet.transport_at;
    let sequence = tcp::number(frame, at, tcp::SEQUENCE_AT).ok_or(Reason::Truncated)?;
    let class = class_of(segment_bytes_max(frame, at), frame.is_set(packet.is_ipv6));
    let cookie = tables.cookie(&packet.key, sequence, class).ok_or(Reason::CookieInvalid)?;
    let segment = Segment {
        ends: packet.key.reversed(),
        sequence: cookie,
        acknowledgement: sequence.wrapping_add(1),
        flags: tcp::SYN | tcp::ACK,
        window: 0,
        option: segment_option(class, frame.is_set(packet.is_ipv6)),
    };
    segment.write(frame, packet).ok_or(Reason::NoHeadroom)?;
    turn_link(frame).ok_or(Reason::Truncated)
}

/// The stage `Proof`: an acknowledgement of no flow. [`HandOver`] has the VIP.
#[inline(always)]
pub fn proof<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse(frame) else { return Step::Done(Verdict::Pass) };
    let vip = tables.handed_over().vip;
    match proven(frame, tables, packet, vip) {
        Ok(note) => {
            tables.hand_over(note);
            Step::Next(Stage::CookieOpen)
        }
        Err(reason) => drop(tables, vip, reason),
    }
}

/// The backend of who has proven that the SYN was his, and what the cookie has kept, in [`HandOver::mtu`].
///
/// Where the acknowledgement was lost, the client's next packet probes our closed window with the number before its next one (RFC 9293,
/// section 3.8.6.1). The kernel finds a cookie valid for the first number and for the three before it, in whose place it keeps its own note, so the
/// largest for which it is valid is the right one.
#[inline(always)]
fn proven<F: Frame, T: Tables>(frame: &F, tables: &T, packet: Packet, vip: u32) -> Result<HandOver, Reason> {
    let row = tables.vip_row(vip).ok_or(Reason::NoBackend)?;
    let (sequence, cookie) = numbers(frame, packet.transport_at).ok_or(Reason::Truncated)?;
    let class = class_held(tables, &packet.key, sequence, cookie).ok_or(Reason::CookieInvalid)?;
    let is_probe = tables.cookie_holds(&packet.key, sequence.wrapping_add(1), class, cookie);
    if !limit::may_open(tables, vip, row, &packet.key.source) {
        return Err(Reason::SourceRate);
    }
    let packet = Packet { opens: frame.settle(1, 1) as u8, ..packet };
    let places = Places::of(frame, tables, &packet.key);
    let slot = choose::backend(frame, tables, &packet, vip, row, &places).ok_or(Reason::NoBackend)?;
    Ok(HandOver { vip, slot, mtu: class as u32, probe: is_probe as u32, reclaimed: 0 })
}

#[inline(always)]
fn class_held<T: Tables>(tables: &T, key: &FlowKey, sequence: u32, cookie: u32) -> Option<u8> {
    (0..CLASSES as u8).find(|class| tables.cookie_holds(key, sequence, *class, cookie))
}

/// The stage `CookieOpen`: a handshake with a client is done. [`HandOver`] has VIP, backend and class.
#[inline(always)]
pub fn open<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse(frame) else { return Step::Done(Verdict::Pass) };
    let note = tables.handed_over();
    let opened =
        enter(frame, tables, &packet, &note).and_then(|()| send_first(frame, tables, note.mtu as u8));
    opened.unwrap_or_else(|reason| nat::not_opened(tables, note, reason))
}

#[inline(always)]
fn enter<F: Frame, T: Tables>(frame: &F, tables: &T, packet: &Packet, note: &HandOver) -> Result<(), Reason> {
    let row = tables.vip_row(note.vip).ok_or(Reason::NoBackend)?;
    let backend = tables.backend(note.slot).ok_or(Reason::NoBackend)?;
    let (sequence, cookie) = numbers(frame, packet.transport_at).ok_or(Reason::Truncated)?;
    let opening = Opening {
        key: &packet.key,
        vip: note.vip,
        keeps_client: row.flags & VipRow::KEEP_CLIENT != 0,
        slot: note.slot,
        instance: backend.instance,
        hop: tables.hop(note.slot).ok_or(Reason::NoNextHop)?,
        client: Side::of(frame).ok_or(Reason::Truncated)?,
        flags: NatFlow::COOKIE_OPENING | (note.mtu as u16) << NatFlow::CLASS_SHIFT,
        numbers: (sequence.wrapping_add(note.probe), cookie),
        hash: hash::of_flow(&packet.key, tables.settings().seed) as u32,
    };
    entry::open(tables, Home::Known, &opening)
}

/// Read again rather than kept, as in `nat::send_first`.
#[inline(always)]
fn send_first<F: Frame, T: Tables>(frame: &mut F, tables: &T, class: u8) -> Result<Step, Reason> {
    let packet = parse(frame).map_err(|_| Reason::Truncated)?;
    let flow = tables.nat(&packet.key).ok_or(Reason::NatTableFull)?;
    tables.count(flow.vip as u32, Some(flow.slot), packet.bytes as u64, true);
    send_syn(frame, tables, &packet, flow, class)
}

/// A SYN to the backend, in place of what the client sent.
#[inline(always)]
fn send_syn<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
    class: u8,
) -> Result<Step, Reason> {
    let window: [u8; 2] = frame.read(packet.transport_at + tcp::WINDOW_AT).ok_or(Reason::Truncated)?;
    let segment = Segment {
        ends: entry::other_key(flow, tcp::PROTOCOL).reversed(),
        sequence: flow.sequence_delta,
        acknowledgement: 0,
        flags: tcp::SYN,
        window: u16::from_be_bytes(window),
        option: segment_option(class, frame.is_set(packet.is_ipv6)),
    };
    segment.write(frame, packet).ok_or(Reason::NoHeadroom)?;
    let hop = tables.hop(flow.slot).ok_or(Reason::NoNextHop)?;
    let interface = hop.interface;
    if interface == 0 {
        return Err(Reason::NoNextHop);
    }
    rewrite::redirect_link(frame, packet.network_at, hop).ok_or(Reason::NoHeadroom)?;
    Ok(Step::Done(leave(frame, interface)))
}

/// The stage `Handshake`: a packet of a flow whose handshake with the backend is not finished, in either direction, or the backend's answer once more.
#[inline(always)]
pub fn handshake<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse(frame) else { return Step::Done(Verdict::Pass) };
    let Some(flow) = tables.nat(&packet.key) else { return Step::Done(Verdict::Pass) };
    let vip = flow.vip as u32;
    let step = if flow.flags & NatFlow::TO_CLIENT != 0 {
        of_backend(frame, tables, &packet, flow)
    } else {
        of_client(frame, tables, &packet, flow)
    };
    step.unwrap_or_else(|reason| drop(tables, vip, reason))
}

/// The client waits: the SYN or the answer to it was lost, or it is impatient.
#[inline(always)]
fn of_client<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
) -> Result<Step, Reason> {
    if packet.flags & (tcp::SYN | tcp::RST) != 0 {
        entry::forget(tables, Home::Known, &packet.key, flow);
        return Err(Reason::UnknownFlow);
    }
    tables.touch_nat(&packet.key, flow, FlagChange::NONE);
    send_syn(frame, tables, packet, flow, (flow.flags >> NatFlow::CLASS_SHIFT) as u8)
}

#[inline(always)]
fn of_backend<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    flow: &NatFlow,
) -> Result<Step, Reason> {
    let (before, acknowledged) = numbers(frame, packet.transport_at).ok_or(Reason::Truncated)?;
    let sequence = before.wrapping_add(1);
    let is_answer = packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK;
    if is_answer && flow.flags & NatFlow::SHIFTED != 0 {
        return acknowledge(frame, packet, sequence, acknowledged.wrapping_add(1));
    }
    let is_reset = packet.flags & tcp::RST != 0;
    if !is_answer && !is_reset {
        return disown(frame, packet, acknowledged.wrapping_add(1));
    }
    let other = entry::other_key(flow, tcp::PROTOCOL);
    let first = tables.nat(&other).ok_or(Reason::UnknownFlow)?.sequence_delta;
    if acknowledged != first {
        return Err(Reason::UnknownFlow);
    }
    let window: [u8; 2] = frame.read(packet.transport_at + tcp::WINDOW_AT).ok_or(Reason::Truncated)?;
    let segment = Segment {
        ends: other.reversed(),
        sequence: flow.sequence_delta.wrapping_add(1),
        acknowledgement: first.wrapping_add(1),
        flags: tcp::ACK | packet.flags & tcp::RST,
        window: u16::from_be_bytes(window),
        option: NO_OPTION,
    };
    let interface = flow.interface;
    segment.write(frame, packet).ok_or(Reason::NoHeadroom)?;
    translate::link_to_client(frame, packet, flow).ok_or(Reason::NoHeadroom)?;
    if is_reset {
        entry::forget(tables, Home::Known, &packet.key, flow);
    } else {
        entry::shift(tables, &packet.key, flow, flow.sequence_delta.wrapping_sub(sequence));
    }
    Ok(Step::Done(leave(frame, interface)))
}

/// The backend takes our SYN for one of an earlier connection of the same ports that it has not seen the end of, and asks (RFC 9293, section
/// 3.10.7.4): it has ended. The next SYN, when the client asks again, begins.
#[inline(always)]
fn disown<F: Frame>(frame: &mut F, packet: &Packet, acknowledged: u32) -> Result<Step, Reason> {
    let segment = Segment {
        ends: packet.key.reversed(),
        sequence: acknowledged,
        acknowledgement: 0,
        flags: tcp::RST,
        window: 0,
        option: NO_OPTION,
    };
    segment.write(frame, packet).ok_or(Reason::NoHeadroom)?;
    turn_link(frame).ok_or(Reason::Truncated)?;
    Ok(Step::Done(Verdict::Transmit))
}

/// What the backend would have had from the client, who has nothing to say yet.
#[inline(always)]
fn acknowledge<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    sequence: u32,
    acknowledged: u32,
) -> Result<Step, Reason> {
    let segment = Segment {
        ends: packet.key.reversed(),
        sequence: acknowledged,
        acknowledgement: sequence.wrapping_add(1),
        flags: tcp::ACK,
        window: WINDOW_BYTES,
        option: NO_OPTION,
    };
    segment.write(frame, packet).ok_or(Reason::NoHeadroom)?;
    turn_link(frame).ok_or(Reason::Truncated)?;
    Ok(Step::Done(Verdict::Transmit))
}

/// What came before what a segment begins with, and before what it wants next: of the last of a handshake the first numbers of both sides.
#[inline(always)]
fn numbers<F: Frame>(frame: &F, transport_at: usize) -> Option<(u32, u32)> {
    let sequence = tcp::number(frame, transport_at, tcp::SEQUENCE_AT)?;
    let acknowledgement = tcp::number(frame, transport_at, tcp::ACKNOWLEDGEMENT_AT)?;
    Some((sequence.wrapping_sub(1), acknowledgement.wrapping_sub(1)))
}

/// What the sender of a SYN says that its segments may have; 0 where it says nothing that is found.
#[inline(always)]
fn segment_bytes_max<F: Frame>(frame: &F, transport_at: usize) -> u16 {
    let mut at = transport_at + tcp::HEADER_BYTES;
    for _ in 0..OPTIONS_MAX {
        let Some([kind, bytes, high, low]) = frame.read::<[u8; 4]>(at) else { return 0 };
        if kind == tcp::SEGMENT_OPTION && bytes == 4 {
            return u16::from_be_bytes([high, low]);
        }
        let bytes = match kind {
            0 => return 0,
            1 => 1,
            _ => bytes,
        };
        at = frame.settle(at + bytes as usize, OFFSET_MASK);
    }
    0
}

/// Four sizes in a word: an array would lie in a map of its own.
const fn packed(sizes: [u16; CLASSES]) -> u64 {
    sizes[0] as u64 | (sizes[1] as u64) << 16 | (sizes[2] as u64) << 32 | (sizes[3] as u64) << 48
}

#[inline(always)]
fn size_of_class(class: u8, is_ipv6: bool) -> u16 {
    let sizes = if is_ipv6 { SEGMENTS_IPV6 } else { SEGMENTS_IPV4 };
    (sizes >> (16 * (class & (CLASSES as u8 - 1)))) as u16
}

/// The largest class that is not larger.
#[inline(always)]
fn class_of(segment_bytes: u16, is_ipv6: bool) -> u8 {
    let holds = |class: u8| (segment_bytes >= size_of_class(class, is_ipv6)) as u8;
    holds(1) + holds(2) + holds(3)
}

/// The option that tells the largest segment of the class.
#[inline(always)]
fn segment_option(class: u8, is_ipv6: bool) -> [u8; 4] {
    let [high, low] = size_of_class(class, is_ipv6).to_be_bytes();
    [tcp::SEGMENT_OPTION, 4, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_the_largest_that_the_client_can_take() {
        for (bytes, ipv4, ipv6) in
            [(0, 536, 1220), (1299, 536, 1280), (1300, 1300, 1280), (1459, 1440, 1440), (9000, 1460, 1440)]
        {
            assert_eq!(size_of_class(class_of(bytes, false), false), ipv4, "{bytes}");
            assert_eq!(size_of_class(class_of(bytes, true), true), ipv6, "{bytes}");
        }
    }
}
