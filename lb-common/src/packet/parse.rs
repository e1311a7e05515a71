//! From a frame to what the decisions ask about: addresses, ports, protocol, TCP flags, and where they are.

use super::{Frame, ethernet, ipv4, ipv6, tcp, udp};
use crate::flow::FlowKey;
use crate::limits::EXTENSION_HEADERS_MAX;
use crate::verdict::Reason;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// A TCP or UDP packet that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Addresses, ports, protocol.
    pub key: FlowKey,
    /// Where the IP header begins: 14, 18 or 22.
    pub network_at: usize,
    /// Where the TCP or UDP header begins.
    pub transport_at: usize,
    /// Bytes of the IP packet, its header included.
    pub bytes: usize,
    /// 1 where it is IPv6, 0 where IPv4.
    pub is_ipv6: u8,
    /// TCP flags; 0 of UDP.
    pub flags: u8,
    /// 1 where it may be the first packet of a flow: a SYN without ACK, any UDP packet; else 0.
    pub opens: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
}

impl Packet {
    /// Whether it is TCP.
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.protocol == tcp::PROTOCOL
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    pub const fn is_bare_syn(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether it ends a TCP connection.
    #[inline(always)]
    pub const fn ends(&self) -> bool {
        self.flags & (tcp::FIN | tcp::RST) != 0
    }
}

/// Why there is no [`Packet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// Not IP, or a protocol that no VIP has.
    Foreign,
    /// ICMP or ICMPv6.
    Icmp,
    /// Part of a datagram that was cut.
    Fragment,
    /// Of no use to anybody. For whom it was, [`addresses`] tells.
    Fault(Reason),
}

/// Reads a frame.
///
/// # Errors
/// [`Unparsed`]: it is not a whole TCP or UDP packet.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Result<Packet, Unparsed> {
    let network = network(frame)?;
    if !matches!(network.part, Part::Whole) {
        return Err(Unparsed::Fragment);
    }
    transport(frame, &network, 0)
}

/// Reads a frame that may be the first part of a datagram as well.
///
/// # Errors
/// [`Unparsed`]: it is not the beginning of a TCP or UDP packet.
#[inline(always)]
pub fn parse_beginning<F: Frame>(frame: &F) -> Result<Packet, Unparsed> {
    let network = network(frame)?;
    if matches!(network.part, Part::Later) {
        return Err(Unparsed::Fragment);
    }
    let is_first = frame.settle(matches!(network.part, Part::First) as usize, 1) as u8;
    transport(frame, &network, is_first)
}

/// Reads the IP header of a frame, whatever it carries.
///
/// # Errors
/// [`Unparsed::Foreign`], [`Unparsed::Fault`].
#[inline(always)]
pub fn network<F: Frame>(frame: &F) -> Result<Network, Unparsed> {
    let (network_at, kind) = ethernet::network(frame).ok_or(Unparsed::Foreign)?;
    match kind {
        ethernet::IPV4 => ipv4(frame, network_at),
        ethernet::IPV6 => ipv6(frame, network_at),
        _ => Err(Unparsed::Foreign),
    }
}

/// Source and destination of an IP packet of which nothing else need be right, and where its header begins.
#[inline(always)]
pub fn addresses<F: Frame>(frame: &F) -> Option<(usize, [u8; 16], [u8; 16])> {
    let (network_at, kind) = ethernet::network(frame)?;
    match kind {
        ethernet::IPV4 => {
            let header: ipv4::Header = frame.read(network_at)?;
            Some((network_at, ipv4::mapped(header.source), ipv4::mapped(header.target)))
        }
        ethernet::IPV6 => {
            let header: ipv6::Header = frame.read(network_at)?;
            Some((network_at, bytemuck::must_cast(header.source), bytemuck::must_cast(header.target)))
        }
        _ => None,
    }
}

/// What the network layer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Source address.
    pub source: [u64; 2],
    /// Destination address.
    pub target: [u64; 2],
    /// Where the IP header begins.
    pub network_at: usize,
    /// Where what it carries begins.
    pub transport_at: usize,
    /// Bytes of the IP packet, its header included.
    pub bytes: usize,
    /// IP protocol number of what it carries.
    pub protocol: u8,
    /// 1 where it is IPv6, 0 where IPv4.
    pub is_ipv6: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// How much of a datagram it is.
    pub part: Part,
    /// Which datagram it is a part of; of IPv4 in the last two bytes.
    pub identification: [u8; 4],
}

impl Network {
    /// The same, with the ways of both IPs joined (see [`Frame::settle`]).
    #[inline(always)]
    pub fn joined<F: Frame>(self, frame: &F) -> Self {
        Self {
            source: join(frame, self.source),
            target: join(frame, self.target),
            is_ipv6: frame.settle(self.is_ipv6 as usize, 1) as u8,
            protocol: frame.settle(self.protocol as usize, 0xff) as u8,
            ..self
        }
    }

    /// The source address as tables hold it.
    #[inline(always)]
    pub fn source(&self) -> [u8; 16] {
        bytemuck::must_cast(self.source)
    }

    /// The destination address as tables hold it.
    #[inline(always)]
    pub fn target(&self) -> [u8; 16] {
        bytemuck::must_cast(self.target)
    }
}

/// How much of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// The beginning, with the ports.
    First,
    /// Another part, without ports.
    Later,
}

impl Part {
    /// From the word with the offset and the flag that more parts follow.
    #[inline(always)]
    pub const fn of(word: u16, offset_mask: u16, more_follow: u16) -> Self {
        if word & (offset_mask | more_follow) == 0 {
            Self::Whole
        } else if word & offset_mask == 0 {
            Self::First
        } else {
            Self::Later
        }
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, at: usize) -> Result<Network, Unparsed> {
    let header: ipv4::Header = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
    let header_bytes = header.header_bytes();
    let bytes = header.total_bytes();
    if header.version_words >> 4 != 4 || header_bytes < ipv4::HEADER_BYTES || bytes < header_bytes {
        return Err(Unparsed::Fault(Reason::BadIpHeader));
    }
    let [high, low] = header.identification.to_ne_bytes();
    Ok(Network {
        source: ipv4::mapped_halves(header.source),
        target: ipv4::mapped_halves(header.target),
        network_at: at,
        transport_at: frame.settle(at + header_bytes, OFFSET_MASK),
        bytes,
        protocol: header.protocol,
        is_ipv6: 0,
        ttl: header.ttl,
        traffic_class: header.traffic_class,
        part: header.part(),
        identification: [0, 0, high, low],
    })
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, at: usize) -> Result<Network, Unparsed> {
    let header: ipv6::Header = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
    // Tables hold IPv4 addresses in this form, and no packet carries it (RFC 6890, section 2.2.3). One number for both, so that here is one branch.
    let is_mapped = ipv4::are_mapped_halves(header.source) | ipv4::are_mapped_halves(header.target);
    if header.version() != 6 || frame.settle(is_mapped as usize, 1) != 0 {
        return Err(Unparsed::Fault(Reason::BadIpHeader));
    }
    let (mut protocol, mut transport_at) = behind_extensions(frame, header.next, at + ipv6::HEADER_BYTES)?;
    let (mut part, mut identification) = (Part::Whole, [0; 4]);
    if protocol == ipv6::FRAGMENT {
        let fragment: ipv6::FragmentHeader =
            frame.read(transport_at).ok_or(Unparsed::Fault(Reason::Truncated))?;
        if ipv6::is_extension(fragment.next) || fragment.next == ipv6::FRAGMENT {
            return Err(Unparsed::Fault(Reason::BadIpHeader));
        }
        (protocol, part, identification) = (fragment.next, fragment.part(), fragment.identification);
        transport_at += ipv6::FRAGMENT_BYTES;
    }
    Ok(Network {
        source: header.source,
        target: header.target,
        network_at: at,
        transport_at: frame.settle(transport_at, OFFSET_MASK),
        bytes: header.total_bytes(),
        protocol,
        is_ipv6: 1,
        ttl: header.hops,
        traffic_class: header.traffic_class(),
        part,
        identification,
    })
}

/// What follows the extension headers, and where: a fragment header too.
///
/// # Errors
/// [`Unparsed::Fault`].
#[inline(always)]
pub fn behind_extensions<F: Frame>(frame: &F, first: u8, at: usize) -> Result<(u8, usize), Unparsed> {
    let (mut next, mut at) = (first, at);
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !ipv6::is_extension(next) {
            break;
        }
        let both: u16 = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
        let [follows, length] = both.to_ne_bytes();
        at = frame.settle(at + ipv6::extension_bytes(next, length), OFFSET_MASK);
        next = follows;
    }
    if ipv6::is_extension(next) { Err(Unparsed::Fault(Reason::BadIpHeader)) } else { Ok((next, at)) }
}

/// No offset that can be right is changed by it, and whatever is read there begins where the verifier allows it (below 64 KiB).
pub const OFFSET_MASK: usize = 0x7fff;

/// `is_first` is 1 where it is the first part of a datagram, whose length says more than the part holds; else 0.
#[inline(always)]
fn transport<F: Frame>(frame: &F, network: &Network, is_first: u8) -> Result<Packet, Unparsed> {
    // Here the ways of both IPs join, and below those of both transports (see `settle`).
    let (source, target) = (join(frame, network.source), join(frame, network.target));
    let is_ipv6 = frame.settle(network.is_ipv6 as usize, 1) as u8;
    let (network_at, transport_at) = (network.network_at, network.transport_at);
    let end = network_at + network.bytes;
    let (ports, flags, opens) = match network.protocol {
        tcp::PROTOCOL => tcp(frame, transport_at, end)?,
        udp::PROTOCOL => udp(frame, transport_at, end + ((is_first as usize) << 16))?,
        ICMP | ICMPV6 => return Err(Unparsed::Icmp),
        _ => return Err(Unparsed::Foreign),
    };
    let protocol = frame.settle(network.protocol as usize, 0xff) as u8;
    let flags = frame.settle(flags as usize, 0xff) as u8;
    let opens = frame.settle(opens as usize, 1) as u8;
    if !frame.holds(end) {
        return Err(Unparsed::Fault(Reason::Truncated));
    }
    Ok(Packet {
        key: key(frame, source, target, ports, protocol),
        network_at,
        transport_at,
        bytes: network.bytes,
        is_ipv6,
        flags,
        opens,
        ttl: network.ttl,
        traffic_class: network.traffic_class,
    })
}

/// The key, of whose last word the compiler must not know that its end is zero: it would write that in pieces, and the verifier does not
/// want pieces that are not aligned (LLVM 22: "misaligned stack access").
#[inline(always)]
pub fn key<F: Frame>(frame: &F, source: [u64; 2], target: [u64; 2], ports: u32, protocol: u8) -> FlowKey {
    let last = frame.settle(ports as usize | (protocol as usize) << 32, usize::MAX) as u64;
    FlowKey::of_words([source[0], source[1], target[0], target[1], last])
}

#[inline(always)]
fn join<F: Frame>(frame: &F, address: [u64; 2]) -> [u64; 2] {
    address.map(|half| frame.settle(half as usize, usize::MAX) as u64)
}

#[inline(always)]
fn tcp<F: Frame>(frame: &F, at: usize, end: usize) -> Result<(u32, u8, u8), Unparsed> {
    let header: tcp::Header = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
    let header_bytes = header.header_bytes();
    if header_bytes < tcp::HEADER_BYTES || at + header_bytes > end {
        return Err(Unparsed::Fault(Reason::BadTransportHeader));
    }
    if tcp::are_impossible(header.flags) {
        return Err(Unparsed::Fault(Reason::BadTcpFlags));
    }
    let flags = header.flags;
    Ok((header.ports, flags, flags >> 1 & !(flags >> 4) & 1))
}

#[inline(always)]
fn udp<F: Frame>(frame: &F, at: usize, end: usize) -> Result<(u32, u8, u8), Unparsed> {
    let header: udp::Header = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
    let bytes = header.total_bytes();
    if bytes < udp::HEADER_BYTES || at + bytes > end {
        return Err(Unparsed::Fault(Reason::BadTransportHeader));
    }
    Ok((header.ports, 0, 1))
}

#[cfg(test)]
mod tests;
