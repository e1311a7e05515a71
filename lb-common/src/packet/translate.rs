//! What is written into packets of translated flows: addresses, ports, sequence numbers and the checksums over them (RFC 3022, RFC 1624).

use bytemuck::{Pod, Zeroable};

use super::parse::{Network, OFFSET_MASK, Packet};
use super::quoted::Quoted;
use super::{Frame, ethernet, icmp, ipv4, ipv6, tcp, udp};
use crate::checksum::{ONE_HOP, change, changed, changed_udp, fold, word, words_2, words_8};
use crate::flow::NatFlow;

/// Time to live of what we answer.
pub const TTL: u8 = 64;

/// What of a packet is translated.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// A whole packet, or the beginning of one.
    Whole,
    /// The IP header only: later parts of a datagram have no other.
    Network,
    /// An ICMP error and what it quotes.
    Error(&'a Network, &'a Quoted),
}

/// Writes what the flow's entry says into a packet, and takes one from its time to live. `None`: it ends inside a header.
#[inline(always)]
pub fn translate<F: Frame>(frame: &mut F, packet: &Packet, flow: &NatFlow, extent: Extent<'_>) -> Option<()> {
    match extent {
        Extent::Whole => whole(frame, packet, flow),
        Extent::Network => network(frame, packet, flow),
        Extent::Error(network, quoted) => error(frame, network, quoted, flow),
    }
}

/// Writes all that the flow's entry says into a whole packet, and takes one from its time to live. `None`: it ends inside a header.
#[inline(always)]
fn whole<F: Frame>(frame: &mut F, packet: &Packet, flow: &NatFlow) -> Option<()> {
    transport(frame, packet, flow)?;
    network(frame, packet, flow)
}

/// The IP header only: later fragments have no other.
#[inline(always)]
fn network<F: Frame>(frame: &mut F, packet: &Packet, flow: &NatFlow) -> Option<()> {
    if frame.is_set(packet.is_ipv6) {
        return header_ipv6(frame, packet.network_at, packet.ttl, &flow.source, &flow.target);
    }
    header_ipv4(frame, packet.network_at, flow.network_delta, &flow.source, &flow.target)
}

#[inline(always)]
fn transport<F: Frame>(frame: &mut F, packet: &Packet, flow: &NatFlow) -> Option<()> {
    let at = packet.transport_at;
    if packet.is_tcp() {
        let checksum: u16 = frame.read(at + tcp::CHECKSUM_AT)?;
        frame.write(at + tcp::CHECKSUM_AT, changed(checksum, flow.transport_delta))?;
    } else {
        let checksum: u16 = frame.read(at + udp::CHECKSUM_AT)?;
        frame.write(at + udp::CHECKSUM_AT, changed_udp(checksum, flow.transport_delta))?;
    }
    frame.write(at, ports(flow.source_port, flow.target_port))
}

/// Both ports as they lie in a header.
#[inline(always)]
fn ports(source: [u8; 2], target: [u8; 2]) -> u32 {
    u16::from_ne_bytes(source) as u32 | (u16::from_ne_bytes(target) as u32) << 16
}

/// New addresses, and one from the time to live; `delta` is what both add to the sum of the header.
#[inline(always)]
fn header_ipv4<F: Frame>(
    frame: &mut F,
    network_at: usize,
    delta: u16,
    source: &[u8; 16],
    target: &[u8; 16],
) -> Option<()> {
    let at = network_at + ipv4::TTL_AT;
    // Time to live, protocol, checksum.
    let word: u32 = frame.read(at)?;
    let checksum = changed((word >> 16) as u16, delta) as u32;
    let word = (word & 0xffff).wrapping_sub(1) | checksum << 16;
    frame.write(at, [word, ipv4::unmapped(source), ipv4::unmapped(target)])
}

/// See [`header_ipv4`]; without a checksum.
#[inline(always)]
fn header_ipv6<F: Frame>(
    frame: &mut F,
    network_at: usize,
    ttl: u8,
    source: &[u8; 16],
    target: &[u8; 16],
) -> Option<()> {
    frame.write(network_at + ipv6::HOPS_AT, ttl.wrapping_sub(1))?;
    frame.write(network_at + ipv6::SOURCE_AT, both(source, target))
}

/// Two addresses, one behind the other.
#[inline(always)]
fn both(source: &[u8; 16], target: &[u8; 16]) -> [u64; 4] {
    let [a, b]: [u64; 2] = bytemuck::must_cast(*source);
    let [c, d]: [u64; 2] = bytemuck::must_cast(*target);
    [a, b, c, d]
}

/// Moves the sequence numbers of a TCP packet between what the client was told in a cookie and what the backend counts from.
#[inline(always)]
pub fn sequence<F: Frame>(frame: &mut F, packet: &Packet, flow: &NatFlow) -> Option<()> {
    let is_to_client = flow.flags & NatFlow::TO_CLIENT != 0;
    if !is_to_client && packet.flags & tcp::ACK == 0 {
        return Some(());
    }
    let (field, difference) = if is_to_client {
        (tcp::SEQUENCE_AT, flow.sequence_delta)
    } else {
        (tcp::ACKNOWLEDGEMENT_AT, flow.sequence_delta.wrapping_neg())
    };
    let at = packet.transport_at;
    let field_at = frame.settle(at + field, OFFSET_MASK);
    let old: [u8; 4] = frame.read(field_at)?;
    let new = u32::from_be_bytes(old).wrapping_add(difference).to_be_bytes();
    frame.write(field_at, new)?;
    let checksum: u16 = frame.read(at + tcp::CHECKSUM_AT)?;
    frame.write(at + tcp::CHECKSUM_AT, changed(checksum, change(words_2(old), words_2(new))))
}

/// Turns an echo request into its reply.
#[inline(always)]
pub fn echo<F: Frame>(frame: &mut F, network: &Network) -> Option<()> {
    let at = network.transport_at;
    let [kind, code, high, low]: [u8; 4] = frame.read(at)?;
    let reply = if frame.is_set(network.is_ipv6) { icmp::V6_ECHO_REPLY } else { icmp::ECHO_REPLY };
    let delta = change(word([kind, code]), word([reply, code]));
    let [high, low] = changed(u16::from_ne_bytes([high, low]), delta).to_ne_bytes();
    frame.write(at, [reply, code, high, low])?;
    let at = network.network_at;
    if frame.is_set(network.is_ipv6) {
        frame.write(at + ipv6::HOPS_AT, TTL)?;
        return frame.write(at + ipv6::SOURCE_AT, both(&network.target(), &network.source()));
    }
    let at = at + ipv4::TTL_AT;
    let [ttl, protocol, high, low]: [u8; 4] = frame.read(at)?;
    let delta = change(word([ttl, protocol]), word([TTL, protocol]));
    let [high, low] = changed(u16::from_ne_bytes([high, low]), delta).to_ne_bytes();
    let (source, target) = (ipv4::unmapped(&network.target()), ipv4::unmapped(&network.source()));
    frame.write(at, [u32::from_ne_bytes([TTL, protocol, high, low]), source, target])
}

/// Translates an ICMP error about a packet of the flow, and what it quotes. `flow` is the entry of the packets that go where the error goes, so
/// the quoted packet, which went the other way, gets its ends exchanged.
///
/// Where the flow's source stays, that of the error does: the router's own. Else the error comes from where the flow's packets come from.
#[inline(always)]
fn error<F: Frame>(frame: &mut F, network: &Network, quoted: &Quoted, flow: &NatFlow) -> Option<()> {
    let addresses = change(
        words_8(&quoted.key.source) + words_8(&quoted.key.target),
        words_8(&flow.target) + words_8(&flow.source),
    );
    let port_delta = change(
        word(quoted.key.source_port) + word(quoted.key.target_port),
        word(flow.target_port) + word(flow.source_port),
    );
    // What is added to the sum that the error's checksum covers.
    let mut sum = addresses as u32 + port_delta as u32;
    let at = quoted.network_at;
    if frame.is_set(network.is_ipv6) {
        frame.write(at + ipv6::SOURCE_AT, both(&flow.target, &flow.source))?;
    } else {
        let old: u16 = frame.read(at + ipv4::CHECKSUM_AT)?;
        let new = changed(old, addresses);
        sum += change(old as u32, new as u32) as u32;
        frame.write(at + ipv4::CHECKSUM_AT, new)?;
        frame.write(at + ipv4::SOURCE_AT, [ipv4::unmapped(&flow.target), ipv4::unmapped(&flow.source)])?;
    }
    frame.write(quoted.transport_at, ports(flow.target_port, flow.source_port))?;
    let shift = quoted_sequence(frame, quoted, flow)?;
    sum += shift as u32;
    sum += quoted_checksum(frame, quoted, fold(addresses as u32 + port_delta as u32 + shift as u32))? as u32;
    let source = if flow.source == quoted.key.target { network.source() } else { flow.source };
    sum += error_header(frame, network, &source, &flow.target)? as u32;
    let at = network.transport_at + icmp::CHECKSUM_AT;
    let checksum: u16 = frame.read(at)?;
    frame.write(at, changed(checksum, fold(sum)))
}

/// The quoted sequence number of a backend that the client knows others of; returns what that adds to sums.
#[inline(always)]
fn quoted_sequence<F: Frame>(frame: &mut F, quoted: &Quoted, flow: &NatFlow) -> Option<u16> {
    if flow.flags & (NatFlow::SHIFTED | NatFlow::TO_CLIENT) != NatFlow::SHIFTED {
        return Some(0);
    }
    let at = quoted.transport_at + tcp::SEQUENCE_AT;
    let old: [u8; 4] = frame.read(at)?;
    let new = u32::from_be_bytes(old).wrapping_sub(flow.sequence_delta).to_be_bytes();
    frame.write(at, new)?;
    Some(change(words_2(old), words_2(new)))
}

/// The quoted TCP or UDP checksum, where it is quoted; returns what its change adds to sums.
#[inline(always)]
fn quoted_checksum<F: Frame>(frame: &mut F, quoted: &Quoted, delta: u16) -> Option<u16> {
    let is_tcp = quoted.key.protocol == tcp::PROTOCOL;
    let at = quoted.transport_at + if is_tcp { tcp::CHECKSUM_AT } else { udp::CHECKSUM_AT };
    if at + 2 > quoted.end {
        return Some(0);
    }
    let at = frame.settle(at, OFFSET_MASK);
    let old: u16 = frame.read(at)?;
    let new = if is_tcp { changed(old, delta) } else { changed_udp(old, delta) };
    frame.write(at, new)?;
    Some(change(old as u32, new as u32))
}

/// The IP header of an error; returns what it adds to the sum of ICMPv6, which covers the addresses.
#[inline(always)]
fn error_header<F: Frame>(
    frame: &mut F,
    network: &Network,
    source: &[u8; 16],
    target: &[u8; 16],
) -> Option<u16> {
    let old = words_8(&network.source()) + words_8(&network.target());
    let delta = change(old, words_8(source) + words_8(target));
    if frame.is_set(network.is_ipv6) {
        header_ipv6(frame, network.network_at, network.ttl, source, target)?;
        return Some(delta);
    }
    header_ipv4(frame, network.network_at, fold(delta as u32 + ONE_HOP as u32), source, target)?;
    Some(0)
}

/// Writes the link header that leads back to the client, in place of the packet's own.
#[inline(always)]
pub fn link_to_client<F: Frame>(frame: &mut F, packet: &Packet, flow: &NatFlow) -> Option<()> {
    let words = flow.words();
    let kind = if frame.is_set(packet.is_ipv6) { ethernet::IPV6 } else { ethernet::IPV4 };
    let tags = (ethernet::is_there(words.tag) + ethernet::is_there(words.inner_tag)) as usize;
    let link_bytes = ethernet::HEADER_BYTES + tags * ethernet::TAG_BYTES;
    if packet.network_at != link_bytes {
        frame.grow_front(link_bytes as i32 - packet.network_at as i32)?;
    }
    let (first, vlan) = ethernet::tag_words(words.tag, kind);
    let (second, inner_vlan) = ethernet::tag_words(words.inner_tag, kind);
    frame.write(0, Untagged(words.link, words.link_rest, first))?;
    if words.tag != 0 {
        frame.write(ethernet::HEADER_BYTES, [vlan, second])?;
    }
    if words.inner_tag != 0 {
        frame.write(ethernet::HEADER_BYTES + ethernet::TAG_BYTES, [inner_vlan, kind])?;
    }
    Some(())
}

/// A link header without a tag, in words.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, packed)]
struct Untagged(u64, u32, u16);
