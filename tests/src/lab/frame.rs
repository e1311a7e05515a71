//! Ethernet frames of our own making.

use std::net::Ipv4Addr;

/// The two ends of an IPv4 packet.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Link-layer source.
    pub source_link: [u8; 6],
    /// Link-layer destination.
    pub target_link: [u8; 6],
    /// Source address and port.
    pub source: (Ipv4Addr, u16),
    /// Destination address and port.
    pub target: (Ipv4Addr, u16),
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A datagram in a frame of 64 bytes, the check sequence (4 bytes, which no driver sees) counted. Without a UDP checksum.
pub fn smallest_datagram(ends: &Ends) -> Vec<u8> {
    const PAYLOAD: usize = 60 - 14 - 20 - 8;
    let mut udp = ports(ends).to_vec();
    udp.extend_from_slice(&(8 + PAYLOAD as u16).to_be_bytes());
    udp.extend_from_slice(&[0; 2 + PAYLOAD]);
    frame(ends, UDP, &udp)
}

/// A TCP SYN with the option that every real one has, checksum right.
pub fn syn(ends: &Ends) -> Vec<u8> {
    let mut tcp = ports(ends).to_vec();
    // Sequence and acknowledgement, six words of header, SYN, window, checksum, urgent pointer, maximal segment size.
    tcp.extend_from_slice(&[1, 2, 3, 4, 0, 0, 0, 0, 6 << 4, 2, 0xFF, 0xFF, 0, 0, 0, 0, 2, 4, 5, 0xB4]);
    let mut pseudo: Vec<u8> = [ends.source.0.octets(), ends.target.0.octets()].concat();
    pseudo.extend_from_slice(&[0, TCP, 0, tcp.len() as u8]);
    pseudo.extend_from_slice(&tcp);
    let checksum = !sum(&pseudo);
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    frame(ends, TCP, &tcp)
}

/// The Internet checksum's sum of 16-bit words (RFC 1071), not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

fn ports(ends: &Ends) -> [u8; 4] {
    let ([a, b], [c, d]) = (ends.source.1.to_be_bytes(), ends.target.1.to_be_bytes());
    [a, b, c, d]
}

fn frame(ends: &Ends, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&(20 + transport.len() as u16).to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    ip.extend_from_slice(&ends.source.0.octets());
    ip.extend_from_slice(&ends.target.0.octets());
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&ends.target_link[..], &ends.source_link, &[8, 0], &ip, transport].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_complete_and_their_checksums_right() {
        let ends = Ends {
            source_link: [2; 6],
            target_link: [4; 6],
            source: (Ipv4Addr::new(10, 1, 0, 2), 1_000),
            target: (Ipv4Addr::new(203, 0, 113, 10), 80),
        };
        let datagram = smallest_datagram(&ends);
        assert_eq!(datagram.len(), 60);
        assert_eq!(sum(&datagram[14..34]), 0xFFFF);
        let syn = syn(&ends);
        let pseudo = [&syn[26..34], &[0, TCP, 0, 24], &syn[34..]].concat();
        assert_eq!(sum(&pseudo), 0xFFFF);
    }
}
