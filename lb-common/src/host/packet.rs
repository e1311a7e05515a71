//! Describes a packet and writes its frame, with lengths and checksums that are right.

use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

/// A packet to be written. The constructors make an ordinary one; change fields for anything else.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Link-layer destination and source.
    pub link: [[u8; 6]; 2],
    /// VLAN tags, outermost first; the outer one of two is 802.1ad.
    pub vlans: Vec<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub target: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Type of service, or traffic class.
    pub service: u8,
    /// IPv4's identification.
    pub identification: u16,
    /// IPv4's flag.
    pub dont_fragment: bool,
    /// IPv4 options; padded to words.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number and what follows its first two bytes; padded to 8 bytes.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub body: Body,
}

/// What a packet carries.
#[derive(Clone, Debug)]
pub enum Body {
    /// TCP.
    Tcp {
        /// Source, then destination.
        ports: [u16; 2],
        /// Sequence number, then what is acknowledged.
        numbers: [u32; 2],
        /// As in the header's byte 13.
        flags: u8,
        /// Padded to words.
        options: Vec<u8>,
        /// What follows the header.
        payload: Vec<u8>,
    },
    /// UDP.
    Udp {
        /// Source, then destination.
        ports: [u16; 2],
        /// Whether the checksum is left out, as IPv4 allows.
        has_checksum: bool,
        /// What follows the header.
        payload: Vec<u8>,
    },
    /// ICMP or ICMPv6, by the family of the addresses.
    Icmp {
        /// Type and code.
        kind: [u8; 2],
        /// The four bytes after the checksum.
        word: u32,
        /// What follows them: the quoted packet of an error.
        payload: Vec<u8>,
    },
    /// Any other protocol: its number and bytes.
    Other(u8, Vec<u8>),
}

impl Packet {
    /// TCP flags.
    pub const FIN: u8 = 1;
    /// See [`Self::FIN`].
    pub const SYN: u8 = 2;
    /// See [`Self::FIN`].
    pub const RST: u8 = 4;
    /// See [`Self::FIN`].
    pub const PSH: u8 = 8;
    /// See [`Self::FIN`].
    pub const ACK: u8 = 16;

    /// A packet of these ends.
    pub fn new(source: IpAddr, target: IpAddr, body: Body) -> Self {
        Self {
            link: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            vlans: vec![],
            source,
            target,
            ttl: 64,
            service: 0,
            identification: 0x1234,
            dont_fragment: true,
            options: vec![],
            extensions: vec![],
            body,
        }
    }

    /// A TCP segment. All of them acknowledge what all of them begin with, so that some can be a handshake.
    pub fn tcp(source: SocketAddr, target: SocketAddr, flags: u8, payload: &[u8]) -> Self {
        let ports = [source.port(), target.port()];
        let (options, payload) = (vec![], payload.to_vec());
        let body = Body::Tcp { ports, numbers: [0x0102_0304, 0x0102_0305], flags, options, payload };
        Self::new(source.ip(), target.ip(), body)
    }

    /// A UDP datagram.
    pub fn udp(source: SocketAddr, target: SocketAddr, payload: &[u8]) -> Self {
        let ports = [source.port(), target.port()];
        Self::new(
            source.ip(),
            target.ip(),
            Body::Udp { ports, has_checksum: true, payload: payload.to_vec() },
        )
    }

    /// An echo request.
    pub fn echo(source: IpAddr, target: IpAddr, payload: &[u8]) -> Self {
        let kind = if target.is_ipv4() { [8, 0] } else { [128, 0] };
        Self::new(source, target, Body::Icmp { kind, word: 0x1234_0001, payload: payload.to_vec() })
    }

    /// An ICMP error from `source` to who sent `quoted`, whose link-layer header is not quoted.
    pub fn icmp_error(source: IpAddr, target: IpAddr, kind: [u8; 2], word: u32, quoted: &Self) -> Self {
        Self::new(source, target, Body::Icmp { kind, word, payload: quoted.ip_packet() })
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        self.framed(&self.ip_packet())
    }

    /// The frame, without the link-layer header.
    pub fn ip_packet(&self) -> Vec<u8> {
        let (protocol, payload) = self.transport();
        self.network(protocol, 0, false, &payload)
    }

    /// The frames of its fragments, each with at most `bytes` (a multiple of eight) of what the IP header is followed by.
    pub fn fragments(&self, bytes: usize) -> Vec<Vec<u8>> {
        let (protocol, payload) = self.transport();
        let count = payload.len().div_ceil(bytes);
        let fragment = |(index, part): (usize, &[u8])| {
            let offset = (index * bytes / 8) as u16;
            let has_more = index + 1 < count;
            if self.source.is_ipv4() {
                return self.framed(&self.network(protocol, offset, has_more, part));
            }
            let mut extended = vec![protocol, 0];
            extended.extend((offset << 3 | u16::from(has_more)).to_be_bytes());
            extended.extend(u32::from(self.identification).to_be_bytes());
            extended.extend(part);
            self.framed(&self.network(44, 0, false, &extended))
        };
        payload.chunks(bytes).enumerate().map(fragment).collect()
    }

    fn framed(&self, ip: &[u8]) -> Vec<u8> {
        let mut frame = self.link.concat();
        for (index, vlan) in self.vlans.iter().enumerate() {
            let is_service_tag = index == 0 && self.vlans.len() > 1;
            frame.extend(if is_service_tag { [0x88, 0xa8] } else { [0x81, 0] });
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if self.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        frame.extend(ip);
        frame
    }

    /// The IP packet; the offset in units of 8 bytes and whether more follow are IPv4's.
    fn network(&self, protocol: u8, offset: u16, has_more: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![];
        match (self.source, self.target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                let options = padded(&self.options, 4);
                let header_bytes = 20 + options.len();
                let is_fragment = has_more || offset > 0;
                let flags = u16::from(self.dont_fragment && !is_fragment) << 14 | u16::from(has_more) << 13;
                packet.extend([0x40 | (header_bytes / 4) as u8, self.service]);
                packet.extend(((header_bytes + payload.len()) as u16).to_be_bytes());
                packet.extend(self.identification.to_be_bytes());
                packet.extend((flags | offset).to_be_bytes());
                packet.extend([self.ttl, protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(target.octets());
                packet.extend(options);
                let checksum = !internet_sum(&packet, 0);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(target)) => {
                let numbers = self.extensions.iter().map(|(number, _)| *number).chain([protocol]);
                let numbers: Vec<u8> = numbers.collect();
                let mut extensions = vec![];
                for ((_, bytes), next) in self.extensions.iter().zip(&numbers[1..]) {
                    let mut extension = vec![*next, 0];
                    extension.extend(bytes);
                    let mut extension = padded(&extension, 8);
                    extension[1] = (extension.len() / 8 - 1) as u8;
                    extensions.extend(extension);
                }
                packet.extend([0x60 | self.service >> 4, self.service << 4, 0, 0]);
                packet.extend(((extensions.len() + payload.len()) as u16).to_be_bytes());
                packet.extend([numbers[0], self.ttl]);
                packet.extend(source.octets());
                packet.extend(target.octets());
                packet.extend(extensions);
            }
            (source, target) => panic!("a packet from {source} to {target}"),
        }
        packet.extend(payload);
        packet
    }

    /// Protocol number, and header and payload with their checksum.
    fn transport(&self) -> (u8, Vec<u8>) {
        match &self.body {
            Body::Tcp { ports, numbers, flags, options, payload } => {
                let options = padded(options, 4);
                let mut segment = ports.map(u16::to_be_bytes).concat();
                segment.extend(numbers.map(u32::to_be_bytes).concat());
                segment.extend([((20 + options.len()) * 4) as u8, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                segment.extend(options);
                segment.extend(payload);
                self.write_checksum(&mut segment, 6, 16);
                (6, segment)
            }
            Body::Udp { ports, has_checksum, payload } => {
                let mut datagram = ports.map(u16::to_be_bytes).concat();
                datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
                datagram.extend([0, 0]);
                datagram.extend(payload);
                if *has_checksum {
                    self.write_checksum(&mut datagram, 17, 6);
                    if datagram[6..8] == [0, 0] {
                        datagram[6..8].copy_from_slice(&[0xff, 0xff]);
                    }
                }
                (17, datagram)
            }
            Body::Icmp { kind, word, payload } => {
                let mut message = kind.to_vec();
                message.extend([0, 0]);
                message.extend(word.to_be_bytes());
                message.extend(payload);
                if self.source.is_ipv4() {
                    let checksum = !internet_sum(&message, 0);
                    message[2..4].copy_from_slice(&checksum.to_be_bytes());
                    (1, message)
                } else {
                    self.write_checksum(&mut message, 58, 2);
                    (58, message)
                }
            }
            Body::Other(protocol, bytes) => (*protocol, bytes.clone()),
        }
    }

    fn write_checksum(&self, segment: &mut [u8], protocol: u8, at: usize) {
        let pseudo = pseudo_header_sum(self.source, self.target, protocol, segment.len());
        let checksum = !internet_sum(segment, pseudo);
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The 16-byte form of an address: IPv4 as IPv4-mapped.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The sum of the 16-bit words of `bytes` and of `begin`, as RFC 1071 adds, not complemented.
pub fn internet_sum(bytes: &[u8], begin: u16) -> u16 {
    let mut sum = u32::from(begin);
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of what TCP, UDP and ICMPv6 add to their checksum.
pub(super) fn pseudo_header_sum(source: IpAddr, target: IpAddr, protocol: u8, bytes: usize) -> u16 {
    let mut header = vec![];
    for address in [source, target] {
        match address {
            IpAddr::V4(address) => header.extend(address.octets()),
            IpAddr::V6(address) => header.extend(address.octets()),
        }
    }
    header.extend((bytes as u32).to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    internet_sum(&header, 0)
}

fn padded(bytes: &[u8], unit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(unit), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::verify;

    fn check(packet: &Packet, layers: &[&str]) {
        assert_eq!(verify(&packet.frame()).as_deref(), Ok(layers), "{packet:?}");
        for fragment in packet.fragments(16) {
            verify(&fragment).expect("a fragment is right");
        }
    }

    #[test]
    fn what_is_written_is_right_to_who_reads_it_plainly() {
        let v4: [SocketAddr; 2] =
            ["192.0.2.1:1000", "203.0.113.1:443"].map(|text| text.parse().expect("an address"));
        let v6: [SocketAddr; 2] =
            ["[2001:db8::1]:1000", "[2001:db8::2]:443"].map(|text| text.parse().expect("an address"));
        for ([source, target], ip, icmp) in [(v4, "ipv4", "icmp"), (v6, "ipv6", "icmpv6")] {
            let mut segment = Packet::tcp(source, target, Packet::SYN, b"hello");
            check(&segment, &["ethernet", ip, "tcp"]);
            segment.vlans = vec![7, 8];
            segment.options = vec![1, 1, 1];
            segment.extensions = vec![(0, vec![1, 4, 0, 0, 0, 0]), (60, vec![1; 9])];
            check(&segment, &["ethernet", "vlan", "vlan", ip, "tcp"]);
            check(&Packet::udp(source, target, &[1; 40]), &["ethernet", ip, "udp"]);
            check(&Packet::echo(source.ip(), target.ip(), &[1; 40]), &["ethernet", ip, icmp]);
            let error = Packet::icmp_error(target.ip(), source.ip(), [3, 4], 1400, &segment);
            check(&error, &["ethernet", ip, icmp]);
        }
    }

    #[test]
    fn one_changed_byte_is_found() {
        let ends = ["192.0.2.1:1000", "203.0.113.1:443"].map(|text| text.parse().expect("an address"));
        let frame = Packet::tcp(ends[0], ends[1], Packet::ACK, b"hello").frame();
        for at in 14..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0x10;
            assert!(verify(&changed).is_err(), "byte {at}");
        }
    }
}
