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
    /// Of no use to anybody. Whether it was for a VIP, [`target`] tells.
    Fault(Reason),
}

/// Reads a frame.
///
/// # Errors
/// [`Unparsed`]: it is not a whole TCP or UDP packet.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Result<Packet, Unparsed> {
    let (network_at, kind) = ethernet::network(frame).ok_or(Unparsed::Foreign)?;
    let network = match kind {
        ethernet::IPV4 => ipv4(frame, network_at)?,
        ethernet::IPV6 => ipv6(frame, network_at)?,
        _ => return Err(Unparsed::Foreign),
    };
    transport(frame, network_at, &network)
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
struct Network {
    source: [u64; 2],
    target: [u64; 2],
    transport_at: usize,
    bytes: usize,
    protocol: u8,
    is_ipv6: bool,
    ttl: u8,
    traffic_class: u8,
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, at: usize) -> Result<Network, Unparsed> {
    let header: ipv4::Header = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
    let header_bytes = header.header_bytes();
    let bytes = header.total_bytes();
    if header.version_words >> 4 != 4 || header_bytes < ipv4::HEADER_BYTES || bytes < header_bytes {
        return Err(Unparsed::Fault(Reason::BadIpHeader));
    }
    if header.is_fragment() {
        return Err(Unparsed::Fragment);
    }
    Ok(Network {
        source: ipv4::mapped_halves(header.source),
        target: ipv4::mapped_halves(header.target),
        transport_at: at + header_bytes,
        bytes,
        protocol: header.protocol,
        is_ipv6: false,
        ttl: header.ttl,
        traffic_class: header.traffic_class,
    })
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, at: usize) -> Result<Network, Unparsed> {
    let header: ipv6::Header = frame.read(at).ok_or(Unparsed::Fault(Reason::Truncated))?;
    if header.version() != 6 {
        return Err(Unparsed::Fault(Reason::BadIpHeader));
    }
    let (protocol, transport_at) = behind_extensions(frame, header.next, at + ipv6::HEADER_BYTES)?;
    Ok(Network {
        source: header.source,
        target: header.target,
        transport_at,
        bytes: header.total_bytes(),
        protocol,
        is_ipv6: true,
        ttl: header.hops,
        traffic_class: header.traffic_class(),
    })
}

/// What follows the extension headers, and where.
#[inline(always)]
fn behind_extensions<F: Frame>(frame: &F, first: u8, at: usize) -> Result<(u8, usize), Unparsed> {
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
    match next {
        ipv6::FRAGMENT => Err(Unparsed::Fragment),
        _ if ipv6::is_extension(next) => Err(Unparsed::Fault(Reason::BadIpHeader)),
        _ => Ok((next, at)),
    }
}

/// No offset that can be right is changed by it, and whatever is read there begins where the verifier allows it (below 64 KiB).
pub const OFFSET_MASK: usize = 0x7fff;

#[inline(always)]
fn transport<F: Frame>(frame: &F, network_at: usize, network: &Network) -> Result<Packet, Unparsed> {
    // Here the ways of both IPs join, and below those of both transports (see `settle`).
    let (source, target) = (join(frame, network.source), join(frame, network.target));
    let is_ipv6 = frame.settle(network.is_ipv6 as usize, 1) as u8;
    let transport_at = frame.settle(network.transport_at, OFFSET_MASK);
    let end = network_at + network.bytes;
    let (ports, flags, opens) = match network.protocol {
        tcp::PROTOCOL => tcp(frame, transport_at, end)?,
        udp::PROTOCOL => udp(frame, transport_at, end)?,
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
        key: FlowKey::new(source, target, ports, protocol),
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
