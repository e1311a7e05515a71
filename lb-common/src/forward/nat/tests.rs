//! Translated flows, frame by frame.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::vec::Vec;

use proptest::prelude::*;

use crate::backend::TrafficState;
use crate::flow::{FlowKey, NatFlow};
use crate::forward::forward;
use crate::host::{Body, HopKind, HostFrame, HostTables, Memory, Packet, World, address_bytes, verify};
use crate::verdict::{Reason, Verdict};
use crate::vip::{Forward, VipRow};

const OUTSIDE: u32 = 1;
const INSIDE: u32 = 2;
const SYN: u8 = Packet::SYN;
const ACK: u8 = Packet::ACK;
const FIN: u8 = Packet::FIN;
const RST: u8 = Packet::RST;

/// A node with one VIP for TCP and UDP, and the ends of its conversations.
struct Lab {
    tables: HostTables,
    client: SocketAddr,
    vip: SocketAddr,
    ours: SocketAddr,
    backends: Vec<SocketAddr>,
}

impl Lab {
    fn v4() -> Self {
        Self::new("192.0.2.1:5555", "203.0.113.10:443", "10.0.0.1:40000", ["10.0.0.7:8443", "10.0.0.8:8443"])
    }

    fn v6() -> Self {
        let backends = ["[fd00::7]:8443", "[fd00::8]:8443"];
        Self::new("[2001:db8::1]:5555", "[2001:db8:1::a]:443", "[fd00::1]:40000", backends)
    }

    fn new(client: &str, vip: &str, ours: &str, backends: [&str; 2]) -> Self {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (client, vip, ours) = (address(client), address(vip), address(ours));
        let backends = backends.map(address);
        let mut world = World::default();
        for backend in backends {
            let mut hop = HopKind::Plain.hop(INSIDE, backend);
            hop.nat_source = address_bytes(ours.ip());
            hop.nat_port_first = ours.port();
            hop.nat_ports = 1000;
            world.add_backend(hop);
        }
        let table = world.add_table(1, &[0]);
        world.add_vip(vip, 6, Forward::Nat, table);
        world.add_vip(vip, 17, Forward::Nat, table);
        let mut tables = HostTables::new(world);
        tables.now_ns = 1_000_000_000;
        Self { tables, client, vip, ours, backends: backends.to_vec() }
    }

    fn keep_client(mut self) -> Self {
        for row in &mut self.tables.world.vip_rows {
            row.flags |= VipRow::KEEP_CLIENT;
        }
        self
    }

    fn run(&mut self, frame: &[u8], ingress: u32) -> (Verdict, Vec<u8>) {
        self.tables.settle();
        let mut frame = HostFrame::new(frame, ingress);
        let verdict = forward(&mut frame, &self.tables);
        if matches!(verdict, Verdict::Transmit | Verdict::Redirect(_)) {
            verify(frame.as_slice()).unwrap_or_else(|fault| panic!("{fault}: {:02x?}", frame.as_slice()));
        }
        (verdict, frame.as_slice().to_vec())
    }

    fn client_sends(&mut self, flags: u8) -> (Verdict, Vec<u8>) {
        self.run(&Packet::tcp(self.client, self.vip, flags, b"").frame(), OUTSIDE)
    }

    fn datagram(&mut self) -> (Verdict, Vec<u8>) {
        self.run(&Packet::udp(self.client, self.vip, b"question").frame(), OUTSIDE)
    }

    /// From the backend to whoever wrote to it last.
    fn backend_sends(&mut self, port: u16, flags: u8) -> (Verdict, Vec<u8>) {
        let keeps = self.tables.world.vip_rows[0].flags & VipRow::KEEP_CLIENT != 0;
        let ours = if keeps { self.client } else { SocketAddr::new(self.ours.ip(), port) };
        self.run(&Packet::tcp(self.backends[0], ours, flags, b"").frame(), INSIDE)
    }

    /// A connection whose handshake is done; returns our port.
    fn connect(&mut self) -> u16 {
        let (verdict, frame) = self.client_sends(SYN);
        assert_eq!(verdict, Verdict::Redirect(INSIDE));
        let port = ports(&frame)[0];
        assert_eq!(self.backend_sends(port, SYN | ACK).0, Verdict::Redirect(OUTSIDE));
        assert_eq!(self.client_sends(ACK).0, Verdict::Redirect(INSIDE));
        port
    }

    fn client_acknowledges(&mut self, _: u16) {
        self.client_sends(ACK);
    }

    fn backend_acknowledges(&mut self, port: u16) {
        self.backend_sends(port, ACK);
    }

    fn client_entry(&self) -> Option<NatFlow> {
        self.tables.nat.get(&self.client_key(6)).copied()
    }

    fn client_key(&self, protocol: u8) -> FlowKey {
        key(self.client, self.vip, protocol)
    }
}

fn key(source: SocketAddr, target: SocketAddr, protocol: u8) -> FlowKey {
    FlowKey {
        source: address_bytes(source.ip()),
        target: address_bytes(target.ip()),
        source_port: source.port().to_be_bytes(),
        target_port: target.port().to_be_bytes(),
        protocol,
        zero: [0; 3],
    }
}

/// Ports of a frame without tags and options.
fn ports(frame: &[u8]) -> [u16; 2] {
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    [0, 2].map(|offset| u16::from_be_bytes([frame[at + offset], frame[at + offset + 1]]))
}

/// The frame that arrives when `packet` was rewritten to go between these ends over this link.
fn expected(packet: &Packet, source: SocketAddr, target: SocketAddr, link: &[u8]) -> Vec<u8> {
    let mut packet = packet.clone();
    (packet.source, packet.target) = (source.ip(), target.ip());
    match &mut packet.body {
        Body::Tcp { ports, .. } | Body::Udp { ports, .. } => *ports = [source.port(), target.port()],
        _ => panic!("no ports"),
    }
    packet.ttl -= 1;
    packet.vlans.clear();
    let mut frame = packet.frame();
    frame[..12].copy_from_slice(&link[..12]);
    frame
}

#[test]
fn packet_is_as_if_the_other_end_had_written_it() {
    for mut lab in [Lab::v4(), Lab::v6(), Lab::v4().keep_client(), Lab::v6().keep_client()] {
        let port = lab.connect();
        let keeps = port == lab.client.port();
        let ours = if keeps { lab.client } else { SocketAddr::new(lab.ours.ip(), port) };
        let hop = lab.tables.world.hops[0];
        let mut question = Packet::tcp(lab.client, lab.vip, ACK | Packet::PSH, b"a question");
        question.options = if lab.client.is_ipv4() { std::vec![1, 1, 1, 1] } else { std::vec![] };
        let (verdict, frame) = lab.run(&question.frame(), OUTSIDE);
        assert_eq!(verdict, Verdict::Redirect(INSIDE));
        assert_eq!(frame, expected(&question, ours, lab.backends[0], &hop.link));

        let answer = Packet::tcp(lab.backends[0], ours, ACK, b"an answer!!");
        let (verdict, frame) = lab.run(&answer.frame(), INSIDE);
        assert_eq!(verdict, Verdict::Redirect(OUTSIDE));
        let back: Vec<u8> = [question.link[1], question.link[0]].concat();
        assert_eq!(frame, expected(&answer, lab.vip, lab.client, &back));
        assert!(lab.tables.half_open.is_empty() && lab.tables.nat.len() == 2);
    }
}

#[test]
fn flow_is_half_open_until_the_client_acknowledges_an_answer() {
    let mut lab = Lab::v4();
    let port = ports(&lab.client_sends(SYN).1)[0];
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (2, 0));
    assert_eq!(ports(&lab.client_sends(SYN).1)[0], port, "a repeated SYN takes no second port");
    assert_eq!(lab.client_sends(ACK).0, Verdict::Drop(Reason::UnknownFlow), "the backend has not answered");
    assert_eq!(lab.backend_sends(port, SYN | ACK).0, Verdict::Redirect(OUTSIDE));
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (2, 0));
    assert_eq!(lab.client_sends(ACK).0, Verdict::Redirect(INSIDE));
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (0, 2));
    assert_eq!(lab.tables.vip_count(0).flows, 1);
}

#[test]
fn refused_handshake_leaves_nothing() {
    let mut lab = Lab::v4();
    let port = ports(&lab.client_sends(SYN).1)[0];
    assert_eq!(lab.backend_sends(port, RST | ACK).0, Verdict::Redirect(OUTSIDE));
    assert!(lab.tables.half_open.is_empty() && lab.tables.nat.is_empty());
    lab.client_sends(SYN);
    assert_eq!(lab.client_sends(RST).0, Verdict::Redirect(INSIDE));
    assert_eq!(lab.tables.half_open.len(), 2, "anybody can claim to be the client");
}

#[test]
fn packets_of_no_flow_are_dropped_at_a_vip_and_passed_elsewhere() {
    let mut lab = Lab::v4();
    for flags in [ACK, FIN | ACK, RST, SYN | ACK] {
        assert_eq!(lab.client_sends(flags).0, Verdict::Drop(Reason::UnknownFlow), "flags {flags}");
        assert_eq!(lab.backend_sends(40_001, flags).0, Verdict::Pass, "flags {flags}");
    }
    assert!(lab.tables.half_open.is_empty() && lab.tables.nat.is_empty());
}

#[test]
fn both_ends_or_a_reset_finish_a_flow_and_a_syn_begins_another() {
    let mut lab = Lab::v4();
    let port = lab.connect();
    lab.client_sends(FIN | ACK);
    assert_eq!(lab.client_sends(SYN).0, Verdict::Redirect(INSIDE));
    assert_eq!(lab.tables.nat.len(), 2, "one end has finished: the SYN is the backend's to refuse");
    lab.backend_sends(port, FIN | ACK);
    assert_eq!(lab.client_sends(ACK).0, Verdict::Redirect(INSIDE), "the last acknowledgement passes");
    let entry = lab.client_entry().expect("the flow is kept until it is idle");
    assert_eq!(entry.flags, NatFlow::CLIENT_FINISHED | NatFlow::BACKEND_FINISHED);
    assert_eq!(lab.client_sends(SYN).0, Verdict::Redirect(INSIDE));
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (2, 0), "a SYN begins anew");

    let port = lab.connect();
    lab.backend_sends(port, RST);
    let entry = lab.client_entry().expect("the flow is kept until it is idle");
    assert_eq!(entry.flags, NatFlow::RESET);
    lab.client_sends(SYN);
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (2, 0));
}

#[test]
fn dead_backend_ends_tcp_and_moves_udp() {
    let mut lab = Lab::v4();
    lab.connect();
    assert_eq!(lab.datagram().0, Verdict::Redirect(INSIDE));
    lab.tables.world.set_state(0, TrafficState::Draining);
    assert_eq!(lab.client_sends(ACK).0, Verdict::Redirect(INSIDE), "a draining backend keeps its flows");
    lab.tables.world.set_state(0, TrafficState::Out);
    let now_ns = lab.tables.now_ns;
    lab.tables.world.next_generation(0, &[1], now_ns);
    let (verdict, frame) = lab.client_sends(ACK);
    assert_eq!(verdict, Verdict::Transmit);
    assert_eq!(segment(&frame), ([443, 5555], 0x0102_0305, 0, RST));
    assert_eq!(lab.client_sends(ACK).0, Verdict::Drop(Reason::UnknownFlow));
    assert_eq!((lab.tables.nat.len(), lab.tables.half_open.len()), (0, 2), "the datagrams' entries are left");
    let (verdict, frame) = lab.datagram();
    assert_eq!(verdict, Verdict::Redirect(INSIDE));
    assert_eq!(frame[30..34], [10, 0, 0, 8]);
    assert_eq!((lab.tables.nat.len(), lab.tables.half_open.len()), (0, 2));
    assert_eq!(lab.client_sends(SYN).1[30..34], [10, 0, 0, 8], "so does what begins");
}

#[test]
fn connection_to_a_gone_backend_is_begun_anew_by_its_client() {
    let mut lab = Lab::v4();
    lab.connect();
    lab.tables.world.set_state(0, TrafficState::Out);
    let now_ns = lab.tables.now_ns;
    lab.tables.world.next_generation(0, &[1], now_ns);
    assert_eq!(lab.client_sends(SYN).1[30..34], [10, 0, 0, 8]);
    assert_eq!((lab.tables.nat.len(), lab.tables.half_open.len()), (0, 2));
}

#[test]
fn datagrams_are_remembered_for_good_once_their_client_goes_on() {
    let mut lab = Lab::v4();
    let port = ports(&lab.datagram().1)[0];
    let sizes = |lab: &Lab| (lab.tables.half_open.len(), lab.tables.nat.len());
    assert_eq!(ports(&lab.datagram().1)[0], port);
    assert_eq!(sizes(&lab), (2, 0), "nobody has answered");
    let answer = Packet::udp(lab.backends[0], SocketAddr::new(lab.ours.ip(), port), b"answer");
    for _ in 0..2 {
        let (verdict, frame) = lab.run(&answer.frame(), INSIDE);
        assert_eq!((verdict, ports(&frame)), (Verdict::Redirect(OUTSIDE), [443, 5555]));
    }
    assert_eq!(sizes(&lab), (2, 0), "whoever asked may be made up");
    assert_eq!(ports(&lab.datagram().1)[0], port);
    assert_eq!(sizes(&lab), (0, 2));
    assert_eq!(lab.run(&answer.frame(), INSIDE).0, Verdict::Redirect(OUTSIDE));
    assert_eq!(lab.tables.vip_count(1).flows, 1);
}

#[test]
fn handshake_is_finished_only_by_who_knows_the_backends_number() {
    let mut lab = Lab::v4();
    let port = ports(&lab.client_sends(SYN).1)[0];
    let (first, acknowledged) = (u32::MAX - 5, 0x0102_0305);
    let ours = SocketAddr::new(lab.ours.ip(), port);
    lab.run(&numbered(lab.backends[0], ours, SYN | ACK, [first, acknowledged], b"").frame(), INSIDE);
    let mut check = |number: u32, verdict: Verdict, entries: (usize, usize)| {
        let frame = numbered(lab.client, lab.vip, ACK, [acknowledged, number], b"").frame();
        assert_eq!(lab.run(&frame, OUTSIDE).0, verdict, "{number}");
        assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), entries, "{number}");
    };
    for wrong in [first.wrapping_sub(1), first, first.wrapping_add(1 + 65_536), acknowledged] {
        check(wrong, Verdict::Drop(Reason::UnknownFlow), (2, 0));
    }
    check(first.wrapping_add(1), Verdict::Redirect(INSIDE), (0, 2));
    let entry = lab.client_entry().expect("an entry");
    let replies = super::entry::other_key(&entry, 6);
    assert_eq!(lab.tables.nat.get(&replies).map(|entry| entry.sequence_delta), Some(0));
}

#[test]
fn what_a_client_is_said_to_have_reset_goes_on() {
    let mut lab = Lab::v4();
    let port = lab.connect();
    let flags = |lab: &Lab| lab.client_entry().map(|entry| entry.flags);
    assert_eq!(lab.client_sends(RST).0, Verdict::Redirect(INSIDE));
    assert_eq!(flags(&lab), Some(NatFlow::CLIENT_RESET));
    assert_eq!(lab.client_sends(SYN).0, Verdict::Redirect(INSIDE), "the same backend is asked");
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (0, 2));
    for go_on in [Lab::client_acknowledges, Lab::backend_acknowledges] {
        lab.client_sends(RST);
        assert_eq!(flags(&lab), Some(NatFlow::CLIENT_RESET));
        go_on(&mut lab, port);
        assert_eq!(flags(&lab), Some(0), "somebody goes on");
    }
    lab.client_sends(FIN | ACK);
    lab.client_sends(SYN);
    lab.backend_sends(port, SYN | ACK);
    assert_eq!(flags(&lab), Some(0), "the backend has taken a new connection");
}

#[test]
fn port_of_who_has_not_shaken_hands_goes_to_another_the_oldest_first() {
    for protocol in [6, 17] {
        let mut lab = Lab::v4();
        lab.tables.world.hops[0].nat_ports = 5;
        let open = |lab: &mut Lab, port: u16| {
            lab.client.set_port(port);
            lab.tables.now_ns += 1_000_000;
            let (verdict, frame) = if protocol == 6 { lab.client_sends(SYN) } else { lab.datagram() };
            assert_eq!(verdict, Verdict::Redirect(INSIDE));
            ports(&frame)[0]
        };
        let given: Vec<u16> = (1000..1005).map(|port| open(&mut lab, port)).collect();
        for (index, port) in (1005..1015).enumerate() {
            assert_eq!(open(&mut lab, port), given[index % 5]);
            assert_eq!(lab.tables.half_open.len(), 10);
        }
    }
}

#[test]
fn port_of_a_flow_that_has_ended_goes_to_another() {
    let mut lab = Lab::v4();
    lab.tables.world.hops[0].nat_ports = 1;
    let ends: [fn(&mut Lab, u16); 4] = [
        |lab, _| drop(lab.client_sends(RST)),
        |lab, port| drop(lab.backend_sends(port, RST)),
        |lab, port| drop((lab.client_sends(FIN | ACK), lab.backend_sends(port, FIN | ACK))),
        |lab, _| lab.tables.world.backends[0].instance += 1,
    ];
    for end in ends {
        lab.client.set_port(1000);
        let port = lab.connect();
        lab.client.set_port(1001);
        assert_eq!(lab.client_sends(SYN).0, Verdict::Drop(Reason::NatPortsExhausted));
        lab.client.set_port(1000);
        end(&mut lab, port);
        lab.client.set_port(1001);
        assert_eq!(ports(&lab.client_sends(SYN).1)[0], port);
        assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (2, 0));
    }
}

#[test]
fn half_open_flow_of_a_dead_backend_gets_another() {
    let mut lab = Lab::v4();
    lab.client_sends(SYN);
    lab.tables.world.set_state(0, TrafficState::Out);
    let now_ns = lab.tables.now_ns;
    lab.tables.world.next_generation(0, &[1], now_ns);
    assert_eq!(lab.client_sends(SYN).1[30..34], [10, 0, 0, 8]);
    assert_eq!(lab.tables.half_open.len(), 2);
}

#[test]
fn ports_of_established_flows_are_exhausted_cleanly_and_free_again_when_forgotten() {
    let mut lab = Lab::v4();
    lab.tables.world.hops[0].nat_ports = 5;
    let mut seen = HashSet::new();
    for port in 1000..1005 {
        lab.client.set_port(port);
        let given = lab.connect();
        assert!((40_000..40_005).contains(&given) && seen.insert(given), "port {given}");
    }
    lab.client.set_port(1005);
    assert_eq!(lab.client_sends(SYN).0, Verdict::Drop(Reason::NatPortsExhausted));
    assert_eq!((lab.tables.nat.len(), lab.tables.half_open.len()), (10, 0));

    lab.client.set_port(1002);
    let gone = lab.client_key(6);
    let other = super::entry::other_key(lab.tables.nat.get(&gone).expect("an entry"), 6);
    assert!(lab.tables.nat.remove(&gone) && lab.tables.nat.remove(&other));
    lab.client.set_port(1006);
    assert_eq!(lab.connect(), u16::from_be_bytes(other.target_port));
}

#[test]
fn full_table_refuses_and_keeps_no_half_of_a_flow() {
    for room in [0, 1, 2, 3] {
        let mut lab = Lab::v4();
        lab.tables.nat = Memory::refusing(room);
        for port in [5555, 5556] {
            lab.client.set_port(port);
            let ours = SocketAddr::new(lab.ours.ip(), ports(&lab.datagram().1)[0]);
            let answer = Packet::udp(lab.backends[0], ours, b"answer").frame();
            for _ in 0..2 {
                assert_eq!(lab.run(&answer, INSIDE).0, Verdict::Redirect(OUTSIDE), "with or without room");
                assert_eq!(lab.datagram().0, Verdict::Redirect(INSIDE));
            }
        }
        assert_eq!(lab.tables.nat.len() as u32, room / 2 * 2);

        let mut lab = Lab::v4();
        lab.tables.nat = Memory::refusing(room);
        let port = ports(&lab.client_sends(SYN).1)[0];
        lab.backend_sends(port, SYN | ACK);
        let fits = if room < 2 { Verdict::Drop(Reason::NatTableFull) } else { Verdict::Redirect(INSIDE) };
        assert_eq!(lab.client_sends(ACK).0, fits);
        assert_eq!(lab.tables.nat.len() as u32, room / 2 * 2);
    }
}

#[test]
fn evicted_half_of_a_handshake_is_no_flow() {
    let mut lab = Lab::v4();
    let port = ports(&lab.client_sends(SYN).1)[0];
    lab.backend_sends(port, SYN | ACK);
    let replies = key(lab.backends[0], SocketAddr::new(lab.ours.ip(), port), 6);
    let other = NatFlow { target_port: [9, 9], ..*lab.tables.half_open.get(&replies).expect("an entry") };
    assert!(lab.tables.half_open.set(&replies, other), "another client has the port by now");
    assert_eq!(lab.client_sends(ACK).0, Verdict::Drop(Reason::UnknownFlow));
    assert!(lab.tables.nat.is_empty());
    assert!(lab.tables.half_open.remove(&replies));
    assert_eq!(lab.client_sends(ACK).0, Verdict::Drop(Reason::UnknownFlow));
}

#[test]
fn replies_follow_the_client_to_another_link() {
    let mut lab = Lab::v4();
    let port = lab.connect();
    let mut moved = Packet::tcp(lab.client, lab.vip, ACK, b"");
    moved.link[1] = [2, 0, 0, 0, 0, 77];
    moved.vlans = std::vec![300];
    assert_eq!(lab.run(&moved.frame(), 9).0, Verdict::Redirect(INSIDE));
    let (verdict, frame) = lab.backend_sends(port, ACK);
    assert_eq!(verdict, Verdict::Redirect(9));
    assert_eq!(frame[..18], [2, 0, 0, 0, 0, 77, 2, 0, 0, 0, 0, 1, 0x81, 0, 1, 0x2c, 8, 0]);
}

#[test]
fn replies_have_the_tags_of_their_client() {
    for vlans in [std::vec![], std::vec![7], std::vec![100, 7]] {
        let mut lab = Lab::v4();
        let mut question = Packet::udp(lab.client, lab.vip, b"question");
        question.vlans = vlans.clone();
        let (verdict, frame) = lab.run(&question.frame(), OUTSIDE);
        assert_eq!(verdict, Verdict::Redirect(INSIDE));
        let ours = SocketAddr::new(lab.ours.ip(), ports(&frame)[0]);
        let mut answer = Packet::udp(lab.backends[0], ours, b"answer");
        answer.vlans = std::vec![9];
        let (verdict, frame) = lab.run(&answer.frame(), INSIDE);
        let mut expect = Packet::udp(lab.vip, lab.client, b"answer");
        (expect.vlans, expect.ttl) = (vlans, 63);
        expect.link = [question.link[1], question.link[0]];
        assert_eq!((verdict, frame), (Verdict::Redirect(OUTSIDE), expect.frame()));
    }
}

#[test]
fn reply_that_is_too_big_for_the_client_s_side_is_answered() {
    for mut lab in [Lab::v4(), Lab::v6()] {
        let port = ports(&lab.datagram().1)[0];
        let ours = SocketAddr::new(lab.ours.ip(), port);
        lab.tables.world.vip_rows[1].mtu = 1400;
        let answer = |bytes: usize| Packet::udp(lab.backends[0], ours, &std::vec![7; bytes]).frame();
        let header = if lab.vip.is_ipv4() { 28 } else { 48 };
        let (fits, exceeds) = (answer(1400 - header), answer(1401 - header));
        assert_eq!(lab.run(&fits, INSIDE).0, Verdict::Redirect(OUTSIDE));
        assert_eq!(lab.run(&exceeds, INSIDE).0, Verdict::Transmit);
        assert_eq!(lab.tables.reason_count(Reason::TooBigAnswered), 1);
    }
}

#[test]
fn client_that_is_kept_may_come_back_to_the_end_it_had() {
    let mut lab = Lab::v4().keep_client();
    lab.client_sends(SYN);
    let mine = lab.client_key(6);
    assert!(lab.tables.half_open.remove(&mine), "evicted; the entry of the replies is left");
    assert_eq!(lab.client_sends(SYN).0, Verdict::Redirect(INSIDE));
    assert_eq!(lab.tables.half_open.len(), 2);
}

#[test]
fn datagram_without_checksum_keeps_none() {
    let mut lab = Lab::v4();
    let mut question = Packet::udp(lab.client, lab.vip, b"question");
    let Body::Udp { has_checksum, .. } = &mut question.body else { panic!("a datagram") };
    *has_checksum = false;
    let (verdict, frame) = lab.run(&question.frame(), OUTSIDE);
    assert_eq!((verdict, &frame[40..42]), (Verdict::Redirect(INSIDE), &[0, 0][..]));
}

proptest! {
    #[test]
    fn translated_and_back_is_the_same(
        source: u16, address: [u8; 4], payload: Vec<u8>, is_tcp: bool, keeps: bool, is_v6: bool,
    ) {
        prop_assume!(source != 0 && payload.len() < 1000);
        let mut lab = if is_v6 { Lab::v6() } else { Lab::v4() };
        if keeps {
            lab = lab.keep_client();
        }
        let mut octets = address_bytes(lab.client.ip());
        octets[12..].copy_from_slice(&address);
        let ip = std::net::Ipv6Addr::from(octets);
        lab.client = SocketAddr::new(ip.to_ipv4_mapped().map_or(ip.into(), Into::into), source);
        prop_assume!(lab.client.ip() != lab.vip.ip());
        let packet = if is_tcp {
            lab.connect();
            Packet::tcp(lab.client, lab.vip, ACK, &payload)
        } else {
            Packet::udp(lab.client, lab.vip, &payload)
        };
        let (_, there) = lab.run(&packet.frame(), OUTSIDE);
        // The same bytes with the ends exchanged, as an echo of the backend: same checksum, so no need to sum anew.
        let mut echo = there.clone();
        let (network, length) = if is_v6 { (22, 16) } else { (26, 4) };
        for at in 0..length {
            echo.swap(network + at, network + length + at);
        }
        let transport = network + 2 * length;
        for at in 0..2 {
            echo.swap(transport + at, transport + 2 + at);
        }
        let (verdict, back) = lab.run(&echo, INSIDE);
        prop_assert_eq!(verdict, Verdict::Redirect(OUTSIDE));
        let mut twice_aged = packet.clone();
        twice_aged.ttl -= 2;
        (twice_aged.source, twice_aged.target) = (lab.vip.ip(), lab.client.ip());
        let (Body::Tcp { ports, .. } | Body::Udp { ports, .. }) = &mut twice_aged.body else { panic!("ports") };
        ports.swap(0, 1);
        twice_aged.link.swap(0, 1);
        prop_assert_eq!(back, twice_aged.frame());
    }

    #[test]
    fn no_two_flows_share_a_port(flows in prop::collection::hash_set((any::<u16>(), any::<bool>()), 1..300)) {
        let mut lab = Lab::v4();
        let mut taken = HashSet::new();
        for (port, is_tcp) in flows {
            lab.client.set_port(port);
            let (verdict, frame) = if is_tcp { lab.client_sends(SYN) } else { lab.datagram() };
            prop_assert_eq!(verdict, Verdict::Redirect(INSIDE));
            prop_assert!(taken.insert((is_tcp, ports(&frame)[0])), "port {} twice", ports(&frame)[0]);
        }
    }
}

/// Addresses, ports, numbers, flags of a TCP frame without tags, IP options and extensions.
fn segment(frame: &[u8]) -> ([u16; 2], u32, u32, u8) {
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
    (ports(frame), number(at + 4), number(at + 8), frame[at + 13])
}

/// A segment with these numbers.
fn numbered(source: SocketAddr, target: SocketAddr, flags: u8, at: [u32; 2], payload: &[u8]) -> Packet {
    let mut packet = Packet::tcp(source, target, flags, payload);
    let Body::Tcp { numbers, .. } = &mut packet.body else { panic!("TCP") };
    *numbers = at;
    packet
}

impl Lab {
    /// Its VIP gets more SYNs than it should from now on.
    fn flooded(mut self) -> Self {
        self.tables.world.vip_rows[0].syn_rate = 1;
        for port in 1..=2 {
            self.client.set_port(port);
            assert_eq!(self.client_sends(SYN).0, Verdict::Redirect(INSIDE), "twice the rate for a moment");
        }
        self.client.set_port(5555);
        self
    }

    /// A SYN answered with a cookie, which is returned.
    fn cookie(&mut self, isn: u32) -> u32 {
        let mut syn = numbered(self.client, self.vip, SYN, [isn, 0], b"");
        let Body::Tcp { options, .. } = &mut syn.body else { panic!("TCP") };
        *options = std::vec![1, 3, 3, 7, 2, 4, 5, 0xa0];
        let (verdict, frame) = self.run(&syn.frame(), OUTSIDE);
        assert_eq!(verdict, Verdict::Transmit);
        let (ends, cookie, acknowledged, flags) = segment(&frame);
        assert_eq!((ends, acknowledged, flags), ([443, 5555], isn.wrapping_add(1), SYN | ACK));
        assert_eq!(frame[..12], [syn.link[1], syn.link[0]].concat());
        assert_eq!(frame[frame.len() - 4..], [2, 4, 5, 0xa0]);
        cookie
    }
}

#[test]
fn handshake_by_cookie_ends_in_an_ordinary_flow() {
    for make in [Lab::v4, Lab::v6, || Lab::v4().keep_client()] {
        for lost in [0, 1] {
            handshake_by_cookie(make().flooded(), lost);
        }
    }
}

/// Where the client's acknowledgement is lost, the first that comes is a probe of our window, whose number is lower by one.
fn handshake_by_cookie(mut lab: Lab, lost: u32) {
    let (isn, backend_isn) = (0xffff_fffe_u32, 77_u32);
    let entries = lab.tables.half_open.len();
    let cookie = lab.cookie(isn);
    assert_eq!((lab.tables.half_open.len(), lab.tables.nat.len()), (entries, 0), "nothing is remembered");
    let after = [isn.wrapping_add(1), cookie.wrapping_add(1)];
    let (client, vip, backend) = (lab.client, lab.vip, lab.backends[0]);

    let acknowledgement = numbered(client, vip, ACK, [after[0].wrapping_sub(lost), after[1]], b"").frame();
    let (verdict, frame) = lab.run(&acknowledgement, OUTSIDE);
    assert_eq!(verdict, Verdict::Redirect(INSIDE));
    let (ends, sequence, _, flags) = segment(&frame);
    assert_eq!((ends[1], sequence, flags), (8443, isn, SYN));
    assert_eq!(frame[frame.len() - 4..], [2, 4, 5, 0xa0], "the client's size of segments");
    let (verdict, again) = lab.run(&acknowledgement, OUTSIDE);
    assert_eq!((verdict, again), (Verdict::Redirect(INSIDE), frame), "an impatient client");

    let keeps = ends[0] == client.port();
    let ours = if keeps { client } else { SocketAddr::new(lab.ours.ip(), ends[0]) };
    let answer = numbered(backend, ours, SYN | ACK, [backend_isn, after[0]], b"").frame();
    let (verdict, frame) = lab.run(&answer, INSIDE);
    assert_eq!(verdict, Verdict::Redirect(OUTSIDE));
    assert_eq!(segment(&frame), ([443, 5555], after[1], after[0], ACK));

    let (verdict, frame) = lab.run(&answer, INSIDE);
    assert_eq!(verdict, Verdict::Transmit, "an impatient backend");
    assert_eq!(segment(&frame), ([ends[0], 8443], after[0], backend_isn + 1, ACK));

    let question = numbered(client, vip, ACK, after, b"question");
    let (verdict, frame) = lab.run(&question.frame(), OUTSIDE);
    assert_eq!(verdict, Verdict::Redirect(INSIDE));
    assert_eq!(segment(&frame), (ends, after[0], backend_isn + 1, ACK));
    let reply = numbered(backend, ours, ACK, [backend_isn + 1, after[0].wrapping_add(8)], b"an answer");
    let (verdict, frame) = lab.run(&reply.frame(), INSIDE);
    assert_eq!(verdict, Verdict::Redirect(OUTSIDE));
    assert_eq!(segment(&frame), ([443, 5555], after[1], after[0].wrapping_add(8), ACK));
    assert_eq!(lab.tables.nat.len(), 2);
    assert_eq!(lab.tables.reason_count(Reason::CookieSent), 1);
}

#[test]
fn backend_that_remembers_an_earlier_connection_is_told_that_it_has_ended() {
    let mut lab = Lab::v4().flooded();
    let cookie = lab.cookie(100);
    let acknowledgement = numbered(lab.client, lab.vip, ACK, [101, cookie.wrapping_add(1)], b"").frame();
    let ours = SocketAddr::new(lab.ours.ip(), ports(&lab.run(&acknowledgement, OUTSIDE).1)[0]);
    let doubt = numbered(lab.backends[0], ours, ACK, [5000, 7000], b"").frame();
    let (verdict, frame) = lab.run(&doubt, INSIDE);
    assert_eq!((verdict, segment(&frame)), (Verdict::Transmit, ([ours.port(), 8443], 7000, 0, RST)));
    assert_eq!(lab.run(&acknowledgement, OUTSIDE).0, Verdict::Redirect(INSIDE), "the client asks again");
}

#[test]
fn acknowledgement_of_no_cookie_opens_nothing() {
    let mut lab = Lab::v4().flooded();
    let cookie = lab.cookie(100);
    let mut check = |sequence: u32, acknowledged: u32, seconds: u64, expect: Verdict| {
        lab.tables.now_ns = 1_000_000_000 * (1 + seconds);
        let frame = numbered(lab.client, lab.vip, ACK, [sequence, acknowledged], b"").frame();
        assert_eq!(lab.run(&frame, OUTSIDE).0, expect, "{sequence} {acknowledged} {seconds}");
    };
    check(101, cookie + 5, 0, Verdict::Drop(Reason::CookieInvalid));
    check(102, cookie + 1, 0, Verdict::Drop(Reason::CookieInvalid));
    check(97, cookie + 1, 0, Verdict::Drop(Reason::CookieInvalid));
    check(101, cookie + 1, 300, Verdict::Drop(Reason::CookieInvalid));
    check(101, cookie + 1, 1, Verdict::Redirect(INSIDE));
}

#[test]
fn backend_that_refuses_ends_what_a_cookie_began() {
    let mut lab = Lab::v4().flooded();
    let cookie = lab.cookie(100);
    let (client, vip, backend) = (lab.client, lab.vip, lab.backends[0]);
    let (_, syn) = lab.run(&numbered(client, vip, ACK, [101, cookie.wrapping_add(1)], b"").frame(), OUTSIDE);
    let ours = SocketAddr::new(lab.ours.ip(), ports(&syn)[0]);
    let foreign = numbered(backend, ours, RST | ACK, [0, 55], b"").frame();
    assert_eq!(
        lab.run(&foreign, INSIDE).0,
        Verdict::Drop(Reason::UnknownFlow),
        "a reset of another handshake"
    );
    let (verdict, frame) = lab.run(&numbered(backend, ours, RST | ACK, [0, 101], b"").frame(), INSIDE);
    assert_eq!(verdict, Verdict::Redirect(OUTSIDE));
    assert_eq!(segment(&frame), ([443, 5555], cookie.wrapping_add(1), 101, RST | ACK));
    assert!(lab.tables.nat.is_empty());
}

/// The error that `packet` becomes when its ends and those of what it quotes are these; the quotation is cut to `quoted_bytes`.
fn error(
    source: SocketAddr,
    target: SocketAddr,
    kind: [u8; 2],
    quoted: &Packet,
    quoted_bytes: usize,
) -> Packet {
    let mut error = Packet::icmp_error(source.ip(), target.ip(), kind, 1400, quoted);
    let Body::Icmp { payload, .. } = &mut error.body else { panic!("ICMP") };
    payload.truncate(quoted_bytes);
    error
}

#[test]
fn errors_about_a_flow_are_translated_with_what_they_quote() {
    for mut lab in [Lab::v4(), Lab::v6(), Lab::v4().keep_client(), Lab::v6().keep_client()] {
        let is_v4 = lab.client.is_ipv4();
        let port = lab.connect();
        let (_, datagram) = lab.datagram();
        let (client, vip, backend) = (lab.client, lab.vip, lab.backends[0]);
        let keeps = port == client.port();
        let router: SocketAddr =
            if is_v4 { "198.51.100.1:0" } else { "[2001:db8:9::1]:0" }.parse().expect("an address");
        let ours = |port: u16| if keeps { client } else { SocketAddr::new(lab.ours.ip(), port) };
        let (tcp_port, udp_port) = (ours(port), ours(ports(&datagram)[0]));
        let too_big = if is_v4 { [3, 4] } else { [2, 0] };
        let unreachable = if is_v4 { [3, 3] } else { [1, 4] };
        let hop_link = lab.tables.world.hops[0].link;
        let client_link: Vec<u8> = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]].concat();
        let header = if is_v4 { 20 } else { 40 };
        for quoted_bytes in [header + 8, header + 18, 1000] {
            for is_tcp in [true, false] {
                let ours = if is_tcp { tcp_port } else { udp_port };
                let make = |source, target| {
                    if is_tcp {
                        Packet::tcp(source, target, ACK, b"quoted bytes")
                    } else {
                        Packet::udp(source, target, b"quoted bytes")
                    }
                };
                let as_sent = |mut error: Packet, link: &[u8]| {
                    error.ttl -= 1;
                    let mut frame = error.frame();
                    frame[..12].copy_from_slice(&link[..12]);
                    frame
                };
                // From the client's side, about what went to the client.
                let came = error(router, vip, too_big, &make(vip, client), quoted_bytes);
                let (verdict, frame) = lab.run(&came.frame(), OUTSIDE);
                assert_eq!(verdict, Verdict::Redirect(INSIDE));
                let from = if keeps { router } else { ours };
                let sent = error(from, backend, too_big, &make(backend, ours), quoted_bytes);
                assert_eq!(frame, as_sent(sent, &hop_link));
                // From the backend, about what went to it.
                let came = error(backend, ours, unreachable, &make(ours, backend), quoted_bytes);
                let (verdict, frame) = lab.run(&came.frame(), INSIDE);
                assert_eq!(verdict, Verdict::Redirect(OUTSIDE));
                let sent = error(vip, client, unreachable, &make(client, vip), quoted_bytes);
                assert_eq!(frame, as_sent(sent, &client_link));
            }
        }
        let unknown = error(router, vip, too_big, &Packet::tcp(vip, router, ACK, b""), 1000);
        assert_eq!(lab.run(&unknown.frame(), OUTSIDE).0, Verdict::Drop(Reason::IcmpUnknown));
        let forged = error(router, vip, too_big, &Packet::tcp(client, vip, ACK, b""), 1000);
        assert_eq!(lab.run(&forged.frame(), OUTSIDE).0, Verdict::Drop(Reason::IcmpUnknown));
        let foreign = error(router, client, too_big, &Packet::tcp(client, router, ACK, b""), 1000);
        assert_eq!(lab.run(&foreign.frame(), OUTSIDE).0, Verdict::Pass);
    }
}

#[test]
fn parts_of_datagrams_follow_the_first_in_both_directions() {
    for mut lab in [Lab::v4(), Lab::v6()] {
        let hop_link = lab.tables.world.hops[0].link;
        let client_link: Vec<u8> = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]].concat();
        let payload: Vec<u8> = (0..3000).map(|byte| byte as u8).collect();
        let mut question = Packet::udp(lab.client, lab.vip, &payload);
        let late = question.fragments(1200).pop().expect("three parts");
        assert_eq!(lab.run(&late, OUTSIDE).0, Verdict::Drop(Reason::FragmentUnknown));

        let came = question.fragments(1200);
        let (verdict, first) = lab.run(&came[0], OUTSIDE);
        assert_eq!(verdict, Verdict::Redirect(INSIDE));
        let at = if lab.client.is_ipv4() { 34 } else { 62 };
        let ours = SocketAddr::new(lab.ours.ip(), u16::from_be_bytes([first[at], first[at + 1]]));
        question.ttl -= 1;
        (question.source, question.target) = (ours.ip(), lab.backends[0].ip());
        let Body::Udp { ports, .. } = &mut question.body else { panic!("UDP") };
        *ports = [ours.port(), 8443];
        for (came, mut sent) in came.iter().zip(question.fragments(1200)) {
            sent[..12].copy_from_slice(&hop_link[..12]);
            assert_eq!(lab.run(came, OUTSIDE), (Verdict::Redirect(INSIDE), sent));
        }

        let mut answer = Packet::udp(lab.backends[0], ours, &payload);
        answer.identification = 7;
        let came = answer.fragments(800);
        answer.ttl -= 1;
        (answer.source, answer.target) = (lab.vip.ip(), lab.client.ip());
        let Body::Udp { ports, .. } = &mut answer.body else { panic!("UDP") };
        *ports = [443, lab.client.port()];
        for (came, mut sent) in came.iter().zip(answer.fragments(800)) {
            sent[..12].copy_from_slice(&client_link);
            assert_eq!(lab.run(came, INSIDE), (Verdict::Redirect(OUTSIDE), sent));
        }
        lab.tables.now_ns += 31_000_000_000;
        assert_eq!(
            lab.run(&late, OUTSIDE).0,
            Verdict::Drop(Reason::FragmentUnknown),
            "of an earlier datagram"
        );
    }
}

#[test]
fn too_big_and_too_old_are_answered_from_the_vip() {
    let mut lab = Lab::v4();
    lab.connect();
    lab.tables.world.hops[0].mtu = 1000;
    let (verdict, frame) = lab.run(&Packet::tcp(lab.client, lab.vip, ACK, &[0; 1200]).frame(), OUTSIDE);
    assert_eq!((verdict, &frame[26..36]), (Verdict::Transmit, &[203, 0, 113, 10, 192, 0, 2, 1, 3, 4][..]));
    assert_eq!(frame[40..42], 1000_u16.to_be_bytes());
    let mut old = Packet::tcp(lab.client, lab.vip, ACK, b"");
    old.ttl = 1;
    let (verdict, frame) = lab.run(&old.frame(), OUTSIDE);
    assert_eq!((verdict, &frame[34..36]), (Verdict::Transmit, &[11, 0][..]));
    assert_eq!(lab.tables.reason_count(Reason::TooBigAnswered), 1);
    assert_eq!(lab.tables.reason_count(Reason::TimeExceededAnswered), 1);
}
