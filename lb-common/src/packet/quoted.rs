//! The packet that an ICMP error quotes: its IP header and at least eight bytes of what follows (RFC 792, RFC 4443).

use super::parse::{self, Network, OFFSET_MASK, Part, behind_extensions};
use super::{Frame, icmp, ipv4, ipv6, tcp, udp};
use crate::flow::FlowKey;

/// What is read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Addresses, ports, protocol, as it carries them.
    pub key: FlowKey,
    /// Where its IP header begins.
    pub network_at: usize,
    /// Where its TCP or UDP header begins; eight bytes of it are there.
    pub transport_at: usize,
    /// Where the quotation ends.
    pub end: usize,
}

/// Reads what the ICMP error in `network` quotes. `None`: no TCP or UDP packet, or not its beginning.
#[inline(always)]
pub fn quoted<F: Frame>(frame: &F, network: &Network) -> Option<Quoted> {
    let network_at = frame.settle(network.transport_at + icmp::HEADER_BYTES, OFFSET_MASK);
    let end = network.network_at + network.bytes;
    let (source, target, protocol, transport_at) =
        if frame.is_set(network.is_ipv6) { ipv6(frame, network_at)? } else { ipv4(frame, network_at)? };
    if protocol != tcp::PROTOCOL && protocol != udp::PROTOCOL {
        return None;
    }
    let transport_at = frame.settle(transport_at, OFFSET_MASK);
    if transport_at + 8 > end {
        return None;
    }
    let key = parse::key(frame, source, target, frame.read(transport_at)?, protocol);
    Some(Quoted { key, network_at, transport_at, end })
}

/// Addresses, protocol, and where the transport's header begins.
type Ends = ([u64; 2], [u64; 2], u8, usize);

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, at: usize) -> Option<Ends> {
    let header: ipv4::Header = frame.read(at)?;
    let header_bytes = header.header_bytes();
    let is_beginning = !matches!(header.part(), Part::Later);
    if header.version_words >> 4 != 4 || header_bytes < ipv4::HEADER_BYTES || !is_beginning {
        return None;
    }
    Some((
        ipv4::mapped_halves(header.source),
        ipv4::mapped_halves(header.target),
        header.protocol,
        at + header_bytes,
    ))
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, at: usize) -> Option<Ends> {
    let header: ipv6::Header = frame.read(at)?;
    if header.version() != 6 {
        return None;
    }
    let (protocol, transport_at) = behind_extensions(frame, header.next, at + ipv6::HEADER_BYTES).ok()?;
    if protocol != ipv6::FRAGMENT {
        return Some((header.source, header.target, protocol, transport_at));
    }
    let fragment: ipv6::FragmentHeader = frame.read(transport_at)?;
    let is_beginning = !matches!(fragment.part(), Part::Later);
    is_beginning.then_some((header.source, header.target, fragment.next, transport_at + ipv6::FRAGMENT_BYTES))
}
