use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::host::{HopKind, HostFrame, Packet as Written, verify};
use crate::packet::parse::parse;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn segment() -> Written {
    Written::tcp(address("198.51.100.7:40000"), address("203.0.113.10:443"), 16, b"hi")
}

fn segment6() -> Written {
    Written::tcp(address("[2001:db8::7]:40000"), address("[2001:db8::1]:443"), 16, b"hi")
}

/// The frame after its time to live went down and it was sent the way of `hop`.
fn sent(written: &Written, hop: &HopRow) -> Vec<u8> {
    let mut frame = HostFrame::new(&written.frame(), 1);
    let packet = parse(&frame).expect("a whole packet");
    age(&mut frame, &packet).expect("there is a header");
    if hop.outer_bytes == 0 {
        redirect_link(&mut frame, packet.network_at, hop).expect("there is room");
    } else {
        encapsulate(&mut frame, &packet, hop, 0x1234_5678_9abc_def0).expect("there is room");
    }
    frame.as_slice().to_vec()
}

/// `hop` with VLAN 7 in its link header.
fn tagged(hop: HopRow) -> HopRow {
    let mut hop = hop;
    hop.link.copy_within(12..14, 16);
    hop.link[12..16].copy_from_slice(&[0x81, 0, 0, 7]);
    hop.link_bytes = 18;
    hop
}

const V4: [&str; 2] = ["10.0.0.1", "10.0.0.9"];
const V6: [&str; 2] = ["fd00::1", "fd00::9"];

fn ipip([from, to]: [&str; 2]) -> HopRow {
    HopKind::IpIp(ip(from), ip(to)).hop(3, SocketAddr::new(ip(to), 80))
}

fn gue([from, to]: [&str; 2]) -> HopRow {
    HopKind::Gue(ip(from), ip(to), 6080).hop(3, SocketAddr::new(ip(to), 80))
}

#[test]
fn four_in_four_to_the_byte() {
    let frame = sent(&Written { service: 3, ..segment() }, &ipip(V4));
    let inner = Written { service: 3, ttl: 63, ..segment() }.ip_packet();
    let mut expect = vec![2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    expect.extend([0x45, 3, 0, 62, 0, 0, 0, 0, 64, 4, 0x66, 0xb0, 10, 0, 0, 1, 10, 0, 0, 9]);
    expect.extend(&inner);
    assert_eq!(frame, expect);
}

#[test]
fn six_in_six_to_the_byte() {
    let frame = sent(&Written { service: 3, ..segment6() }, &ipip(V6));
    let mut expect = vec![2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    // The flow label is the upper 20 bits of the hash.
    expect.extend([0x60, 0x31, 0x23, 0x45, 0, 62, 41, 64]);
    expect.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    expect.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    expect.extend(Written { service: 3, ttl: 63, ..segment6() }.ip_packet());
    assert_eq!(frame, expect);
}

#[test]
fn gue_source_port_tells_flows_apart() {
    let frame = sent(&segment(), &gue(V4));
    // A dynamic port from the hash, GUE's, and the length.
    assert_eq!(frame[34..42], [0xd2, 0x34, 0x17, 0xc0, 0, 50, 0, 0]);
    assert_eq!(frame[42..], Written { ttl: 63, ..segment() }.ip_packet());
}

#[test]
fn every_outer_header_around_every_packet_is_right() {
    let tagged_twice = Written { vlans: vec![5, 6], ..segment() };
    let with_options = Written { options: vec![1; 12], service: 0xff, ..segment() };
    let extended = Written { vlans: vec![5], extensions: vec![(60, vec![1; 6])], ..segment6() };
    for written in [segment(), segment6(), tagged_twice, with_options, extended] {
        let bytes = written.ip_packet().len();
        let inner = if written.source.is_ipv4() { "ipv4" } else { "ipv6" };
        for (hop, outer) in [(ipip(V4), "ipv4"), (ipip(V6), "ipv6"), (gue(V4), "ipv4"), (gue(V6), "ipv6")] {
            for hop in [hop, tagged(hop)] {
                let frame = sent(&written, &hop);
                assert_eq!(frame.len(), hop.link_bytes as usize + overhead(&hop) + bytes);
                let layers = verify(&frame).unwrap_or_else(|why| panic!("{why}: {frame:02x?}"));
                let mut expect = vec!["ethernet"];
                expect.extend((hop.link_bytes == 18).then_some("vlan"));
                expect.push(outer);
                expect.extend((overhead(&hop) % 20 == 8).then_some("udp"));
                expect.extend([inner, "tcp"]);
                assert_eq!(layers, expect);
            }
        }
    }
}

#[test]
fn template_may_have_any_protocol_and_class() {
    let mut hop = ipip(V4);
    hop.outer[1] = 0xb8;
    hop.outer[9] = 0;
    let words: Vec<u32> = hop.outer[..20].chunks(2).map(|pair| checksum::word([pair[0], pair[1]])).collect();
    hop.outer_sum = checksum::fold(words.iter().sum());
    assert_eq!(sent(&segment(), &hop), sent(&segment(), &ipip(V4)));
}

#[test]
fn link_header_alone_is_replaced() {
    let plain = HopKind::Plain.hop(3, address("10.0.0.9:80"));
    for written in
        [segment(), Written { vlans: vec![5], ..segment() }, Written { vlans: vec![5, 6], ..segment() }]
    {
        let inner = Written { ttl: 63, ..written.clone() }.ip_packet();
        for hop in [plain, tagged(plain)] {
            let link = &hop.link[..hop.link_bytes as usize];
            assert_eq!(sent(&written, &hop), [link, &inner].concat());
        }
    }
}

#[test]
fn every_time_to_live_goes_down_with_a_right_checksum() {
    for ttl in 2..=255 {
        let frame = sent(&Written { ttl, ..segment() }, &HopKind::Plain.hop(3, address("10.0.0.9:80")));
        assert_eq!(frame[22], ttl - 1);
        verify(&frame).expect("the checksum is right");
    }
}
