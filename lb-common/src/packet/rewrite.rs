//! What is written into packets on their way to a backend that answers directly: a new link header, an outer IP header.

use bytemuck::{Pod, Zeroable};

use super::parse::Packet;
use super::{Frame, ipv4, ipv6, udp};
use crate::checksum;
use crate::hop::HopRow;
use crate::verdict::Reason;

/// IP protocol numbers of IP in IP.
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;

/// Bytes that the way over `hop` adds to an IP packet.
#[inline(always)]
pub fn overhead(hop: &HopRow) -> usize {
    hop.outer_bytes as usize + if is_gue(hop) { udp::HEADER_BYTES } else { 0 }
}

#[inline(always)]
fn is_gue(hop: &HopRow) -> bool {
    hop.gue_port != [0; 2]
}

/// One from the time to live. The caller has seen that it is more than one.
#[inline(always)]
pub fn age<F: Frame>(frame: &mut F, packet: &Packet) -> Option<()> {
    if frame.is_set(packet.is_ipv6) {
        return frame.write(packet.network_at + ipv6::HOPS_AT, packet.ttl.wrapping_sub(1));
    }
    let at = packet.network_at + ipv4::TTL_AT;
    // Time to live, protocol, checksum.
    let word: u32 = frame.read(at)?;
    let checksum = checksum::changed((word >> 16) as u16, checksum::ONE_HOP);
    frame.write(at, (word & 0xffff).wrapping_sub(1) | (checksum as u32) << 16)
}

/// Writes the link header of `hop` in place of the packet's own.
#[inline(always)]
pub fn redirect_link<F: Frame>(frame: &mut F, network_at: usize, hop: &HopRow) -> Option<()> {
    let link_bytes = hop.link_bytes as usize;
    if network_at != link_bytes {
        frame.grow_front(link_bytes as i32 - network_at as i32)?;
    }
    if link_bytes > LINK_BYTES {
        return frame.write(0, LinkHeader::of(hop));
    }
    let [first, second] = hop.words().link;
    frame.write(0, Untagged(first, second as u32, (second >> 32) as u16))
}

/// Bytes of a link header without a VLAN tag.
const LINK_BYTES: usize = size_of::<Untagged>();

/// A link header with room for a VLAN tag, in words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct LinkHeader(u64, u64, u16);

impl LinkHeader {
    #[inline(always)]
    fn of(hop: &HopRow) -> Self {
        let words = hop.words();
        Self(words.link[0], words.link[1], words.link_end)
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Untagged(u64, u32, u16);

/// An IPv4 header in words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct OuterIpv4(u64, u64, u32);

/// Puts the packet into the outer header of `hop`. `flow_hash` is what routers on the way may tell flows by.
///
/// # Errors
/// [`Reason::NoHeadroom`].
#[inline(always)]
pub fn encapsulate<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    hop: &HopRow,
    flow_hash: u64,
) -> Result<(), Reason> {
    let link_bytes = hop.link_bytes as usize;
    let overhead = overhead(hop);
    frame.grow_front((link_bytes + overhead) as i32 - packet.network_at as i32).ok_or(Reason::NoHeadroom)?;
    // As long as the longest link header: what is too much, the outer header writes over.
    let written = frame.write(0, LinkHeader::of(hop)).and_then(|()| {
        let outer_at = frame.settle(link_bytes, 31);
        if hop.outer_bytes as usize == ipv4::HEADER_BYTES {
            outer_ipv4(frame, outer_at, packet, hop, flow_hash)
        } else {
            outer_ipv6(frame, outer_at, packet, hop, flow_hash)
        }
    });
    written.ok_or(Reason::Truncated)
}

#[inline(always)]
fn outer_ipv4<F: Frame>(frame: &mut F, at: usize, packet: &Packet, hop: &HopRow, hash: u64) -> Option<()> {
    let total = ((packet.bytes + overhead(hop)) as u16).to_be();
    let protocol = protocol(packet, hop);
    let [first, second, third, ..] = hop.words().outer;
    let old = checksum::word([0, (first >> 8) as u8]) + checksum::word([0, (second >> 8) as u8]);
    let new = checksum::word([0, packet.traffic_class]) + checksum::word([0, protocol]);
    // Twice 0xffff is zero in one's complement, and more than what is taken away.
    let sum = hop.outer_sum as u32 + total as u32 + new + (0x1_fffe - old);
    // Version and length stay, traffic class and total length are ours; time to live stays, protocol and checksum are ours.
    let first = first & !0xffff_ff00 | (packet.traffic_class as u64) << 8 | (total as u64) << 16;
    let second = second & !0xffff_ff00 | (protocol as u64) << 8 | (!checksum::fold(sum) as u64) << 16;
    frame.write(at, OuterIpv4(first, second, third as u32))?;
    write_gue(frame, at + ipv4::HEADER_BYTES, packet, hop, hash)
}

#[inline(always)]
fn outer_ipv6<F: Frame>(frame: &mut F, at: usize, packet: &Packet, hop: &HopRow, hash: u64) -> Option<()> {
    let [first, source_first, source_last, target_first, target_last] = hop.words().outer;
    let payload = (packet.bytes + overhead(hop) - ipv6::HEADER_BYTES) as u16;
    // Version 6, the traffic class, and the flow label (RFC 6438).
    let word = 6 << 28 | (packet.traffic_class as u32) << 20 | (hash >> 44) as u32;
    let header = ipv6::Header {
        version_class_label: word.to_be(),
        payload: payload.to_be(),
        next: protocol(packet, hop),
        hops: (first >> 56) as u8,
        source: [source_first, source_last],
        target: [target_first, target_last],
    };
    frame.write(at, header)?;
    write_gue(frame, at + ipv6::HEADER_BYTES, packet, hop, hash)
}

#[inline(always)]
fn protocol(packet: &Packet, hop: &HopRow) -> u8 {
    if is_gue(hop) {
        udp::PROTOCOL
    } else if packet.is_ipv6 != 0 {
        IPV6_INSIDE
    } else {
        IPV4_INSIDE
    }
}

/// The UDP header of GUE, without a checksum: what is inside has its own (RFC 6936, section 4).
#[inline(always)]
fn write_gue<F: Frame>(frame: &mut F, at: usize, packet: &Packet, hop: &HopRow, hash: u64) -> Option<()> {
    if !is_gue(hop) {
        return Some(());
    }
    // A dynamic port (RFC 6335, section 6).
    let source_port = ((hash >> 48) as u16 | 0xc000).to_be();
    let ports = source_port as u32 | (u16::from_ne_bytes(hop.gue_port) as u32) << 16;
    let length = ((packet.bytes + udp::HEADER_BYTES) as u16).to_be();
    frame.write(at, udp::Header { ports, length, checksum: 0 })
}

#[cfg(test)]
mod tests;
