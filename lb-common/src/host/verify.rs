//! Reads a frame plainly, sums every checksum anew and compares every length: the judge of what the rewriting wrote.

use std::format;
use std::net::IpAddr;
use std::string::String;
use std::vec;
use std::vec::Vec;

use crate::host::packet::{internet_sum, pseudo_header_sum};

/// The layers of a frame, outermost first, when all lengths and checksums are right.
///
/// IP in IP and GUE (UDP port 6080, no checksum) are followed inwards. Fragments end at their IP header.
///
/// # Errors
/// A sentence about the first that is wrong.
pub fn verify(frame: &[u8]) -> Result<Vec<&'static str>, String> {
    let mut layers = vec!["ethernet"];
    let mut at = 14;
    let mut kind = word(frame, 12)?;
    while matches!(kind, 0x8100 | 0x88a8) {
        layers.push("vlan");
        kind = word(frame, at + 2)?;
        at += 4;
    }
    match kind {
        0x0800 => ipv4(without_padding(frame, at, usize::from(word(frame, at + 2)?))?, &mut layers)?,
        0x86dd => ipv6(without_padding(frame, at, 40 + usize::from(word(frame, at + 4)?))?, &mut layers)?,
        other => return Err(format!("type {other:#06x}")),
    }
    Ok(layers)
}

/// The IP packet at `at`: short ones are padded by the link, and what carries them further need not cut the padding off.
fn without_padding(frame: &[u8], at: usize, bytes: usize) -> Result<&[u8], String> {
    frame.get(at..at + bytes).ok_or_else(|| format!("an IP packet of {bytes} bytes in {}", frame.len() - at))
}

fn ipv4(packet: &[u8], layers: &mut Vec<&'static str>) -> Result<(), String> {
    layers.push("ipv4");
    let first = byte(packet, 0)?;
    let header_bytes = usize::from(first & 15) * 4;
    let total_bytes = usize::from(word(packet, 2)?);
    let (Some(header), Some(payload)) = (packet.get(..header_bytes), packet.get(header_bytes..total_bytes))
    else {
        return Err(format!(
            "IPv4 header of {header_bytes} bytes, total length {total_bytes} of {}",
            packet.len()
        ));
    };
    if first >> 4 != 4 || header_bytes < 20 {
        return Err(format!("IPv4 begins with {first:#04x}"));
    }
    if internet_sum(header, 0) != 0xffff {
        return Err(format!("IPv4 checksum: the header sums to {:#06x}", internet_sum(header, 0)));
    }
    if packet.len() != total_bytes {
        return Err(format!("{} bytes follow an IPv4 packet", packet.len() - total_bytes));
    }
    if word(header, 6)? & 0x3fff != 0 {
        return Ok(());
    }
    let address =
        |at| <[u8; 4]>::try_from(&header[at..at + 4]).map(IpAddr::from).expect("four bytes are four");
    transport(address(12), address(16), header[9], payload, layers)
}

fn ipv6(packet: &[u8], layers: &mut Vec<&'static str>) -> Result<(), String> {
    layers.push("ipv6");
    let payload_bytes = usize::from(word(packet, 4)?);
    if byte(packet, 0)? >> 4 != 6 || packet.len() < 40 || packet.len() != 40 + payload_bytes {
        return Err(format!("IPv6 payload length {payload_bytes} of {}", packet.len()));
    }
    let address =
        |at| <[u8; 16]>::try_from(&packet[at..at + 16]).map(IpAddr::from).expect("sixteen bytes are sixteen");
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 60) {
        let bytes = 8 + 8 * usize::from(byte(packet, at + 1)?);
        next = byte(packet, at)?;
        at += bytes;
    }
    if next == 44 {
        return Ok(());
    }
    let payload = packet.get(at..).ok_or("IPv6 extension headers exceed the packet")?;
    transport(address(8), address(24), next, payload, layers)
}

fn transport(
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    payload: &[u8],
    layers: &mut Vec<&'static str>,
) -> Result<(), String> {
    let pseudo = pseudo_header_sum(source, target, protocol, payload.len());
    match protocol {
        4 => ipv4(payload, layers),
        41 => ipv6(payload, layers),
        6 => {
            layers.push("tcp");
            let header_bytes = usize::from(byte(payload, 12)? >> 4) * 4;
            if header_bytes < 20 || header_bytes > payload.len() {
                return Err(format!("TCP header of {header_bytes} bytes"));
            }
            sums(payload, pseudo, "TCP")
        }
        17 => {
            layers.push("udp");
            if usize::from(word(payload, 4)?) != payload.len() {
                return Err(format!("UDP length {} of {}", word(payload, 4)?, payload.len()));
            }
            if word(payload, 6)? != 0 {
                sums(payload, pseudo, "UDP")?;
            }
            match inside_gue(payload) {
                Some(4) => ipv4(&payload[8..], layers),
                Some(6) => ipv6(&payload[8..], layers),
                _ => Ok(()),
            }
        }
        1 => {
            layers.push("icmp");
            sums(payload, 0, "ICMP")
        }
        58 => {
            layers.push("icmpv6");
            sums(payload, pseudo, "ICMPv6")
        }
        _ => Ok(()),
    }
}

/// The IP version in a datagram that is GUE: to its port, without a checksum, and as long as what is inside says. Others may have the port by chance.
fn inside_gue(datagram: &[u8]) -> Option<u8> {
    let inner = datagram.get(8..).filter(|_| word(datagram, 2) == Ok(6080) && word(datagram, 6) == Ok(0))?;
    let version = inner.first()? >> 4;
    let bytes = match version {
        4 => usize::from(word(inner, 2).ok()?),
        6 => 40 + usize::from(word(inner, 4).ok()?),
        _ => return None,
    };
    (bytes == inner.len()).then_some(version)
}

fn sums(bytes: &[u8], begin: u16, name: &str) -> Result<(), String> {
    match internet_sum(bytes, begin) {
        0xffff => Ok(()),
        sum => Err(format!("{name} checksum: all sums to {sum:#06x}")),
    }
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, String> {
    bytes.get(at).copied().ok_or_else(|| format!("ends before byte {at}"))
}

fn word(bytes: &[u8], at: usize) -> Result<u16, String> {
    Ok(u16::from_be_bytes([byte(bytes, at)?, byte(bytes, at + 1)?]))
}
