use std::net::SocketAddr;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::host::{Body, HostFrame, Packet as Written};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn segment(flags: u8) -> Written {
    Written::tcp(address("198.51.100.7:40000"), address("203.0.113.10:443"), flags, b"hello")
}

fn segment6() -> Written {
    Written::tcp(address("[2001:db8::7]:40000"), address("[2001:db8::1]:443"), 16, b"hello")
}

fn datagram() -> Written {
    Written::udp(address("198.51.100.7:40000"), address("203.0.113.10:443"), b"hello")
}

fn parsed(frame: &[u8]) -> Result<Packet, Unparsed> {
    parse(&HostFrame::new(frame, 1))
}

fn check(frame: &[u8], network_at: usize, transport_at: usize, bytes: usize) {
    let packet = parsed(frame).unwrap_or_else(|why| panic!("{why:?}: {frame:02x?}"));
    assert_eq!((packet.network_at, packet.transport_at, packet.bytes), (network_at, transport_at, bytes));
    assert_eq!(packet.key.source_port, 40000_u16.to_be_bytes());
    assert_eq!(packet.key.target_port, 443_u16.to_be_bytes());
}

#[test]
fn headers_are_found_behind_tags_options_and_extensions() {
    check(&segment(16).frame(), 14, 34, 45);
    check(&datagram().frame(), 14, 34, 33);
    check(&Written { vlans: vec![7], ..segment(16) }.frame(), 18, 38, 45);
    check(&Written { vlans: vec![7, 8], ..segment(16) }.frame(), 22, 42, 45);
    check(&Written { options: vec![1; 40], ..segment(16) }.frame(), 14, 74, 85);
    check(&segment6().frame(), 14, 54, 65);
    check(&Written { extensions: vec![(0, vec![1; 6])], ..segment6() }.frame(), 14, 62, 73);
    let many = vec![(0, vec![1; 6]), (60, vec![1; 14]), (43, vec![0; 6]), (60, vec![1; 6])];
    check(&Written { vlans: vec![7, 8], extensions: many, ..segment6() }.frame(), 22, 102, 105);
    let mut padded = segment(16).frame();
    padded.resize(padded.len() + 20, 0);
    check(&padded, 14, 34, 45);
}

#[test]
fn authentication_header_counts_its_length_in_words() {
    let mut frame = segment6().frame();
    frame.splice(54..54, [6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    frame[20] = 51;
    let payload = 25 + 24_u16;
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    check(&frame, 14, 78, 89);
}

#[test]
fn what_a_packet_says_is_read() {
    let packet = parsed(&Written { ttl: 9, service: 0x2e, ..segment(2) }.frame()).unwrap();
    assert_eq!((packet.ttl, packet.traffic_class, packet.is_ipv6), (9, 0x2e, 0));
    assert!(packet.is_tcp() && packet.is_bare_syn() && packet.opens == 1 && !packet.ends());
    assert_eq!(packet.key.source, ipv4::mapped(u32::from_ne_bytes([198, 51, 100, 7])));
    assert_eq!((packet.key.protocol, packet.key.zero), (6, [0; 3]));
    let packet = parsed(&Written { ttl: 9, service: 0x2e, ..segment6() }.frame()).unwrap();
    assert_eq!((packet.ttl, packet.traffic_class, packet.is_ipv6, packet.opens), (9, 0x2e, 1, 0));
    assert_eq!(packet.key.target, crate::host::address_bytes(address("[2001:db8::1]:0").ip()));
    assert_eq!(parsed(&datagram().frame()).unwrap().opens, 1);
    assert_eq!(parsed(&segment(2 | 16).frame()).unwrap().opens, 0);
}

fn refused(frame: &[u8], expect: Unparsed) {
    assert_eq!(parsed(frame), Err(expect), "{frame:02x?}");
}

/// The frame with one byte changed.
fn with(frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    let mut frame = frame;
    frame[at] = byte;
    frame
}

#[test]
fn malformed_headers_are_told_apart() {
    let fault = |frame: Vec<u8>, reason| refused(&frame, Unparsed::Fault(reason));
    fault(with(segment(16).frame(), 14, 0x55), Reason::BadIpHeader);
    fault(with(segment(16).frame(), 14, 0x44), Reason::BadIpHeader);
    fault(with(segment(16).frame(), 17, 19), Reason::BadIpHeader);
    fault(with(segment(16).frame(), 17, 46), Reason::Truncated);
    fault(with(segment(16).frame(), 46, 0x40), Reason::BadTransportHeader);
    fault(with(segment(16).frame(), 46, 0xf0), Reason::BadTransportHeader);
    fault(with(segment6().frame(), 14, 0x40), Reason::BadIpHeader);
    fault(with(segment6().frame(), 19, 26), Reason::Truncated);
    fault(with(datagram().frame(), 39, 7), Reason::BadTransportHeader);
    fault(with(datagram().frame(), 39, 14), Reason::BadTransportHeader);
    let many = vec![(60, vec![1; 6]); EXTENSION_HEADERS_MAX as usize + 1];
    fault(Written { extensions: many, ..segment6() }.frame(), Reason::BadIpHeader);
    for (frame, headers) in [(segment(16).frame(), 54), (segment6().frame(), 74), (datagram().frame(), 42)] {
        for bytes in 15..headers {
            fault(frame[..bytes].to_vec(), Reason::Truncated);
        }
    }
}

#[test]
fn flags_that_no_connection_has_are_refused() {
    use tcp::{ACK, FIN, RST, SYN};
    for flags in 0..=255 {
        let frame = segment(flags).frame();
        let opening = flags & SYN != 0;
        let sane = flags & (SYN | ACK | RST | FIN) != 0
            && !(opening && flags & (FIN | RST) != 0)
            && !(flags & RST != 0 && flags & FIN != 0)
            && !(flags & FIN != 0 && flags & ACK == 0);
        if sane {
            check(&frame, 14, 34, 45);
        } else {
            refused(&frame, Unparsed::Fault(Reason::BadTcpFlags));
        }
    }
}

#[test]
fn what_is_not_tcp_or_udp_is_for_others() {
    let (source, target) = (address("198.51.100.7:0").ip(), address("203.0.113.10:0").ip());
    refused(&Written::echo(source, target, b"hello").frame(), Unparsed::Icmp);
    refused(&Written::new(source, target, Body::Other(47, vec![0; 8])).frame(), Unparsed::Foreign);
    refused(&with(segment(16).frame(), 13, 6), Unparsed::Foreign);
    refused(&[0; 13], Unparsed::Foreign);
    for fragment in segment(16).fragments(8).iter().chain(&segment6().fragments(8)) {
        refused(fragment, Unparsed::Fragment);
    }
}

#[test]
fn addresses_are_read_whatever_else_is_wrong() {
    let frame = with(segment(16).frame(), 14, 0x41);
    let (at, source, target) = addresses(&HostFrame::new(&frame, 1)).unwrap();
    assert_eq!(at, 14);
    assert_eq!(source, ipv4::mapped(u32::from_ne_bytes([198, 51, 100, 7])));
    assert!(ipv4::is_mapped(&target) && ipv4::unmapped(&target) == u32::from_ne_bytes([203, 0, 113, 10]));
    let (_, source, _) = addresses(&HostFrame::new(&segment6().frame(), 1)).unwrap();
    assert!(!ipv4::is_mapped(&source));
    assert_eq!(addresses(&HostFrame::new(&[0; 60], 1)), None);
}
