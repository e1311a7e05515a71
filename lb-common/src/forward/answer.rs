//! Stages `Answer` and `Reset`: ICMP "too big" and "time exceeded" to the sender of a packet that cannot go on, and the end of a connection whose
//! backend is gone.

use super::{Step, drop, limit};
use crate::checksum::{finish, fold, word, words_2, words_8};
use crate::packet::parse::{ICMP, ICMPV6, Packet, parse_beginning};
use crate::packet::segment::{NO_OPTION, Segment};
use crate::packet::translate::TTL;
use crate::packet::{Frame, ethernet, icmp, ipv4, ipv6, tcp};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};

/// What an answer quotes of a packet that was too big: more than any header that a sender looks for (RFC 1812, section 4.3.2.3, allows
/// 548 bytes, RFC 4443 as much as fits into 1280).
type OfBig = [u64; 16];
/// What it quotes of one that may have no more: headers without options, and eight bytes.
type OfOldIpv4 = [u32; 7];
/// See [`OfOldIpv4`].
type OfOldIpv6 = [u64; 6];

/// The stage: [`crate::flow::HandOver`] says whether the packet was too big or too old.
///
/// Parts of datagrams but the first, ICMP errors, and packets to or from groups get no answer (RFC 1122, section 3.2.2; RFC 4443,
/// section 2.4): the former two are not parsed, groups have addresses of their own.
#[inline(always)]
pub fn answer<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let note = tables.handed_over();
    let (dropped, answered) = match note.mtu {
        0 => (Reason::TimeExceeded, Reason::TimeExceededAnswered),
        _ => (Reason::TooBig, Reason::TooBigAnswered),
    };
    let Ok(packet) = parse_beginning(frame) else { return drop(tables, note.vip, dropped) };
    if !is_answerable(frame, &packet.key.source) || !limit::may_answer(tables) {
        return drop(tables, note.vip, dropped);
    }
    if write(frame, &packet, note.mtu).is_none() {
        return drop(tables, note.vip, dropped);
    }
    tables.count_reason(Some(note.vip), answered);
    Step::Done(Verdict::Transmit)
}

/// The stage `Reset`: the backend of the packet's connection is gone, and the client need not wait to find out (RFC 9293, section 3.5.2). Counted as
/// [`Reason::UnknownFlow`], as what else comes of it. [`crate::flow::HandOver`] has the VIP.
#[inline(always)]
pub fn reset<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let vip = tables.handed_over().vip;
    match send_reset(frame) {
        Some(()) => {
            tables.count_reason(Some(vip), Reason::UnknownFlow);
            Step::Done(Verdict::Transmit)
        }
        None => drop(tables, vip, Reason::UnknownFlow),
    }
}

#[inline(always)]
fn send_reset<F: Frame>(frame: &mut F) -> Option<()> {
    let packet = parse_beginning(frame).ok()?;
    if !is_answerable(frame, &packet.key.source) {
        return None;
    }
    let expected: [u8; 4] = frame.read(packet.transport_at + tcp::ACKNOWLEDGEMENT_AT)?;
    let segment = Segment {
        ends: packet.key.reversed(),
        sequence: u32::from_be_bytes(expected),
        acknowledgement: 0,
        flags: tcp::RST,
        window: 0,
        option: NO_OPTION,
    };
    segment.write(frame, &packet)?;
    turn_link(frame)
}

/// Whether what came from this address, in this frame, may be answered: it is one host's, and was sent to us alone.
#[inline(always)]
pub fn is_answerable<F: Frame>(frame: &F, source: &[u8; 16]) -> bool {
    const GROUP_BIT: u8 = 1;
    let is_to_group = frame.read::<u8>(0).is_none_or(|first| first & GROUP_BIT != 0);
    let is_of_one = if ipv4::is_mapped(source) {
        !matches!(source[12], 0 | 127 | 224..)
    } else {
        source[0] != 0xff && (source[0] | source[1]) != 0
    };
    !is_to_group && is_of_one
}

#[inline(always)]
fn write<F: Frame>(frame: &mut F, packet: &Packet, mtu: u32) -> Option<()> {
    let at = packet.network_at;
    let (sum, quoted_bytes) = match (mtu, frame.is_set(packet.is_ipv6)) {
        (0, false) => (fold_words(frame.read::<OfOldIpv4>(at)?), size_of::<OfOldIpv4>()),
        (0, true) => (fold_longs(&frame.read::<OfOldIpv6>(at)?), size_of::<OfOldIpv6>()),
        _ => (fold_longs(&frame.read::<OfBig>(at)?), size_of::<OfBig>()),
    };
    if packet.transport_at + 8 > at + quoted_bytes {
        return None;
    }
    let quoted_bytes = frame.settle(quoted_bytes, 255);
    let header_bytes = if frame.is_set(packet.is_ipv6) { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
    let message_bytes = icmp::HEADER_BYTES + quoted_bytes;
    let link = Link::turned(frame)?;
    frame.set_bytes(at + quoted_bytes)?;
    frame.grow_front((header_bytes + icmp::HEADER_BYTES) as i32)?;
    link.write(frame, at)?;
    let message_at = frame.settle(at + header_bytes, 127);
    if frame.is_set(packet.is_ipv6) {
        let kind = if mtu == 0 { icmp::V6_TIME_EXCEEDED } else { icmp::V6_TOO_BIG };
        frame.write(at, header_ipv6(packet, message_bytes))?;
        let pseudo = words_8(&packet.key.source) + words_8(&packet.key.target);
        let pseudo = pseudo + word((message_bytes as u16).to_be_bytes()) + word([0, ICMPV6]);
        frame.write(message_at, message([kind, 0], mtu.to_be_bytes(), sum + pseudo))
    } else {
        let kind = if mtu == 0 { icmp::TIME_EXCEEDED } else { icmp::TOO_BIG };
        frame.write(at, header_ipv4(packet, message_bytes))?;
        frame.write(message_at, message(kind, mtu.to_be_bytes(), sum))
    }
}

/// The sum of a quotation.
#[inline(always)]
fn fold_longs(longs: &[u64]) -> u32 {
    let mut sum = 0;
    for long in longs {
        sum += (long & 0xffff_ffff) + (long >> 32);
    }
    fold((sum & 0xffff) as u32 + (sum >> 16) as u32) as u32
}

/// See [`fold_longs`].
#[inline(always)]
fn fold_words(words: [u32; 7]) -> u32 {
    let [a, b, c, d, e, f, g] = words;
    fold_longs(&[a as u64, b as u64, c as u64, d as u64, e as u64, f as u64, g as u64])
}

#[inline(always)]
fn header_ipv4(packet: &Packet, message_bytes: usize) -> ipv4::Header {
    let mut header = ipv4::Header {
        version_words: 0x45,
        traffic_class: 0,
        total: ((ipv4::HEADER_BYTES + message_bytes) as u16).to_be(),
        identification: 0,
        fragment: ipv4::DO_NOT_FRAGMENT.to_be(),
        ttl: TTL,
        protocol: ICMP,
        checksum: 0,
        source: ipv4::unmapped(&packet.key.target),
        target: ipv4::unmapped(&packet.key.source),
    };
    let sum = word([header.version_words, 0])
        + header.total as u32
        + header.fragment as u32
        + word([TTL, ICMP])
        + words_2(header.source.to_ne_bytes())
        + words_2(header.target.to_ne_bytes());
    header.checksum = finish(sum);
    header
}

#[inline(always)]
fn header_ipv6(packet: &Packet, message_bytes: usize) -> ipv6::Header {
    ipv6::Header {
        version_class_label: 0x6000_0000_u32.to_be(),
        payload: (message_bytes as u16).to_be(),
        next: ICMPV6,
        hops: TTL,
        source: bytemuck::must_cast(packet.key.target),
        target: bytemuck::must_cast(packet.key.source),
    }
}

/// Type, code, checksum and the four bytes that follow; `sum` is that of all else that the checksum covers.
#[inline(always)]
fn message(kind: [u8; 2], rest: [u8; 4], sum: u32) -> [u8; 8] {
    let checksum = finish(sum + word(kind) + words_2(rest)).to_ne_bytes();
    [kind[0], kind[1], checksum[0], checksum[1], rest[0], rest[1], rest[2], rest[3]]
}

/// The frame's own link header with its ends exchanged, tags included.
struct Link {
    first: [u8; 14],
    tags: [u8; 8],
}

impl Link {
    #[inline(always)]
    fn turned<F: Frame>(frame: &F) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n]: [u8; 14] = frame.read(0)?;
        let first = [g, h, i, j, k, l, a, b, c, d, e, f, m, n];
        Some(Self { first, tags: frame.read(ethernet::HEADER_BYTES)? })
    }

    /// In front of what begins at `network_at`, and will be written over where the tags are not all tags.
    #[inline(always)]
    fn write<F: Frame>(&self, frame: &mut F, network_at: usize) -> Option<()> {
        frame.write(0, self.first)?;
        if network_at > ethernet::HEADER_BYTES {
            frame.write(ethernet::HEADER_BYTES, self.tags)
        } else {
            Some(())
        }
    }
}

/// Exchanges the ends in the link header: what comes out goes back to where the frame came from.
#[inline(always)]
pub fn turn_link<F: Frame>(frame: &mut F) -> Option<()> {
    let link = Link::turned(frame)?;
    frame.write(0, link.first)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::flow::HandOver;
    use crate::host::{HostFrame, HostTables, Packet as Description, World, verify};

    fn check(packet: &Description, mtu: u32, expect: Verdict) -> HostFrame {
        let tables = HostTables::new(World::default());
        tables.hand_over(HandOver { vip: 0, slot: 0, mtu, probe: 0, reclaimed: 0 });
        let mut frame = HostFrame::new(&packet.frame(), 1);
        assert_eq!(answer(&mut frame, &tables), Step::Done(expect), "{packet:?}");
        frame
    }

    fn ends() -> [[SocketAddr; 2]; 2] {
        [["192.0.2.1:5555", "203.0.113.10:443"], ["[2001:db8::1]:5555", "[2001:db8:1::a]:443"]]
            .map(|pair| pair.map(|text| text.parse().expect("an address")))
    }

    #[test]
    fn answer_is_what_a_router_would_have_written() {
        for [client, vip] in ends() {
            for (vlans, payload, mtu) in [
                (std::vec![], 1400, 1400),
                (std::vec![5], 1, 0),
                (std::vec![5, 6], 300, 0),
                (std::vec![5, 6], 300, 200),
            ] {
                let mut packet = Description::udp(client, vip, &std::vec![7; payload]);
                packet.vlans = vlans.clone();
                {
                    let frame = check(&packet, mtu, Verdict::Transmit);
                    verify(frame.as_slice()).expect("lengths and checksums are right");
                    let kind = match (client.is_ipv4(), mtu) {
                        (true, 0) => [11, 0],
                        (true, _) => [3, 4],
                        (false, 0) => [3, 0],
                        (false, _) => [2, 0],
                    };
                    let mut error = Description::icmp_error(vip.ip(), client.ip(), kind, mtu, &packet);
                    let crate::host::Body::Icmp { payload, .. } = &mut error.body else { panic!("ICMP") };
                    payload.truncate(match (client.is_ipv4(), mtu) {
                        (true, 0) => 28,
                        (false, 0) => 48,
                        _ => 128,
                    });
                    (error.vlans, error.identification) = (vlans.clone(), 0);
                    error.link = [packet.link[1], packet.link[0]];
                    assert_eq!(frame.as_slice(), error.frame());
                }
            }
        }
    }

    #[test]
    fn groups_and_parts_are_not_answered() {
        let expect = Verdict::Drop(Reason::TooBig);
        for [client, vip] in ends() {
            let mut packet = Description::udp(client, vip, &[7; 100]);
            packet.link[0][0] |= 1;
            check(&packet, 1400, expect);
        }
        for source in ["0.0.0.0:1", "127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1"] {
            check(&Description::udp(source.parse().expect("an address"), ends()[0][1], b""), 1400, expect);
        }
        for source in ["[::]:1", "[::1]:1", "[ff02::1]:1"] {
            check(&Description::udp(source.parse().expect("an address"), ends()[1][1], b""), 1400, expect);
        }
    }
}
