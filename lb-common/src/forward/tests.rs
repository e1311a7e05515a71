use std::net::SocketAddr;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::backend::TrafficState;
use crate::flow::QuicServerKey;
use crate::host::{HopKind, HostFrame, HostTables, Packet as Written, World};
use crate::lookup::NOBODY;
use crate::vip::{Forward, Guard, Settings, VipRow};

const ACK: u8 = Written::ACK;
const SYN: u8 = Written::SYN;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A node with one VIP of each transport on 203.0.113.10:443 and four backends, whose interfaces are 10 to 13.
struct Node {
    tables: HostTables,
}

const ALL: [u32; 4] = [0, 1, 2, 3];
const TCP_VIP: usize = 0;
const UDP_VIP: usize = 1;

impl Node {
    fn new() -> Self {
        let mut world = World::default();
        for slot in 0..4 {
            world.add_backend(HopKind::Plain.hop(10 + slot, address("10.0.0.9:80")));
        }
        let table = world.add_table(1021, &ALL);
        world.add_vip(address("203.0.113.10:443"), 6, Forward::L2Dsr, table);
        world.add_vip(address("203.0.113.10:443"), 17, Forward::L2Dsr, table);
        world.settings.straddle_ms = 5000;
        let mut tables = HostTables::new(world);
        tables.now_ns = 100 * SECOND;
        Self { tables }
    }

    fn vip(&mut self, vip: usize) -> &mut VipRow {
        &mut self.tables.world.vip_rows[vip]
    }

    fn verdict(&mut self, written: &Written) -> Verdict {
        self.tables.settle();
        forward(&mut HostFrame::new(&written.frame(), 1), &self.tables)
    }

    /// The backend that a segment from this port of the client goes to.
    fn tcp(&mut self, port: u16, flags: u8) -> u32 {
        slot(self.verdict(&segment(port, flags)))
    }

    fn udp(&mut self, port: u16) -> u32 {
        slot(self.verdict(&datagram(port, b"hello")))
    }

    /// The next generation of the lookup table.
    fn change(&mut self, slots: &[u32]) {
        let now_ns = self.tables.now_ns;
        self.tables.world.next_generation(0, slots, now_ns);
    }

    fn set(&mut self, slot: u32, state: TrafficState) {
        self.tables.world.set_state(slot, state);
    }

    fn wait(&mut self, ms: u64) {
        self.tables.now_ns += ms * MILLISECOND;
    }
}

fn segment(port: u16, flags: u8) -> Written {
    let client = SocketAddr::new(address("198.51.100.7:0").ip(), port);
    Written::tcp(client, address("203.0.113.10:443"), flags, b"")
}

fn datagram(port: u16, payload: &[u8]) -> Written {
    let client = SocketAddr::new(address("198.51.100.7:0").ip(), port);
    Written::udp(client, address("203.0.113.10:443"), payload)
}

fn slot(verdict: Verdict) -> u32 {
    let Verdict::Redirect(interface) = verdict else { panic!("{verdict:?}") };
    interface - 10
}

/// Ports of the client whose SYNs go to `wanted`.
fn ports_of(node: &mut Node, wanted: u32) -> Vec<u16> {
    let ports: Vec<u16> = (2000..2200).filter(|port| node.tcp(*port, SYN) == wanted).collect();
    assert!(ports.len() > 20, "{} of 200 for one of four", ports.len());
    ports
}

#[test]
fn flows_spread_evenly_and_stay() {
    let mut node = Node::new();
    let mut flows = [0_u32; 4];
    for port in 1000..5000 {
        let backend = node.tcp(port, SYN);
        flows[backend as usize] += 1;
        assert_eq!(node.tcp(port, ACK), backend);
        assert_eq!(node.tcp(port, ACK), backend);
    }
    assert!(flows.iter().all(|count| (900..1100).contains(count)), "{flows:?}");
    let counted = node.tables.vip_count(0);
    assert_eq!((counted.packets, counted.flows, counted.bytes), (12000, 4000, 12000 * 40));
    assert_eq!(node.tables.backend_count(0).flows, u64::from(flows[0]));
}

#[test]
fn syn_leaves_nothing_behind() {
    let mut node = Node::new();
    for port in 1000..2000 {
        node.tcp(port, SYN);
    }
    assert!(node.tables.flows.is_empty());
    node.tcp(1000, ACK);
    assert_eq!(node.tables.flows.len(), 1);
    for ending in [Written::RST, Written::FIN | ACK] {
        node.tcp(1001, ending);
    }
    assert_eq!(node.tables.flows.len(), 1, "what ends is not remembered");
}

#[test]
fn handshake_that_straddles_a_change_keeps_its_backend() {
    let mut node = Node::new();
    let ports = ports_of(&mut node, 0);
    node.set(0, TrafficState::Draining);
    node.change(&[1, 2, 3]);
    node.wait(4000);
    for port in ports {
        assert_eq!(node.tcp(port, ACK), 0, "port {port}");
        assert_eq!(node.tcp(port, ACK), 0, "and is remembered");
    }
}

#[test]
fn handshake_begun_after_a_change_follows_the_change() {
    let mut node = Node::new();
    let ports = ports_of(&mut node, 0);
    node.change(&[1, 2, 3]);
    node.wait(1000);
    for port in ports {
        let backend = node.tcp(port, SYN);
        assert_ne!(backend, 0);
        assert_eq!(node.tcp(port, ACK), backend, "port {port}");
    }
}

#[test]
fn generation_before_is_asked_for_some_time_only() {
    let mut node = Node::new();
    let ports = ports_of(&mut node, 0);
    node.change(&[1, 2, 3]);
    node.wait(5001);
    assert!(ports.iter().all(|port| node.tcp(*port, ACK) != 0));
}

#[test]
fn handshake_begun_while_its_backend_drained_survives_the_change_that_follows() {
    let mut node = Node::new();
    let ports = ports_of(&mut node, 0);
    node.set(0, TrafficState::Draining);
    let backends: Vec<u32> = ports.iter().map(|port| node.tcp(*port, SYN)).collect();
    assert!(backends.iter().all(|backend| *backend != 0), "a draining backend takes nobody new");
    let half = ports.len() / 2;
    for (port, backend) in ports.iter().zip(&backends).take(half) {
        assert_eq!(node.tcp(*port, ACK), *backend, "before the change");
    }
    node.change(&[3, 1, 2]);
    for (port, backend) in ports.iter().zip(&backends).skip(half) {
        assert_eq!(node.tcp(*port, ACK), *backend, "after it");
    }
}

#[test]
fn handshake_with_ports_used_before_is_not_led_by_what_was_noted_then() {
    let mut node = Node::new();
    let ports = ports_of(&mut node, 0);
    node.change(&[1, 2, 3]);
    let used: Vec<u16> = ports.into_iter().filter(|port| node.tcp(*port, SYN) == 1).collect();
    assert!(!used.is_empty());
    for port in &used {
        assert_eq!(node.tcp(*port, ACK), 1);
        node.tcp(*port, Written::FIN | ACK);
    }
    node.set(1, TrafficState::Draining);
    node.change(&[2, 3]);
    node.wait(5001);
    node.change(&[2, 3, 0]);
    for port in used {
        let backend = node.tcp(port, SYN);
        assert_ne!(backend, 1, "a draining backend takes nobody new");
        assert_eq!(node.tcp(port, ACK), backend, "port {port}");
    }
}

#[test]
fn handshakes_survive_changes_every_200_ms() {
    let mut node = Node::new();
    let sets: [&[u32]; 4] = [&[0, 1, 2, 3], &[1, 2, 3], &[3, 0, 1], &[2, 3, 1, 0]];
    for round in 0..40_u16 {
        let ports: Vec<u16> = (0..100).map(|port| 10_000 + round * 100 + port).collect();
        let backends: Vec<u32> = ports.iter().map(|port| node.tcp(*port, SYN)).collect();
        node.wait(200);
        node.change(sets[usize::from(round) % 4]);
        for (port, backend) in ports.iter().zip(&backends) {
            assert_eq!(node.tcp(*port, ACK), *backend, "round {round} port {port}");
        }
    }
    for port in 10_000..14_000 {
        let before = node.tables.flows.len();
        node.tcp(port, ACK);
        assert_eq!(node.tables.flows.len(), before, "port {port} was known");
    }
}

#[test]
fn flow_stays_while_its_backend_drains_and_moves_when_it_is_out() {
    let mut node = Node::new();
    let ports = ports_of(&mut node, 2);
    ports.iter().for_each(|port| assert_eq!(node.tcp(*port, ACK), 2));
    node.set(2, TrafficState::Draining);
    node.change(&[0, 1, 3]);
    node.wait(60_000);
    ports.iter().for_each(|port| assert_eq!(node.tcp(*port, ACK), 2));
    node.set(2, TrafficState::Out);
    let moved: Vec<u32> = ports.iter().map(|port| node.tcp(*port, ACK)).collect();
    assert!(moved.iter().all(|backend| *backend != 2));
    node.set(2, TrafficState::In);
    for (port, backend) in ports.iter().zip(moved) {
        assert_eq!(node.tcp(*port, ACK), backend, "a flow that moved does not move back");
    }
}

#[test]
fn slot_of_another_instance_is_another_backend() {
    let mut node = Node::new();
    let port = ports_of(&mut node, 1)[0];
    node.tcp(port, ACK);
    node.tables.world.backends[1].instance += 1;
    node.change(&[0, 2, 3]);
    node.wait(10_000);
    assert_ne!(node.tcp(port, ACK), 1);
}

#[test]
fn backend_that_died_is_passed_over_before_the_table_changes() {
    let mut node = Node::new();
    node.tables.world.backends[1].exited_instance = node.tables.world.backends[1].instance;
    for port in 1000..1500 {
        let backend = node.tcp(port, SYN);
        assert_ne!(backend, 1);
        assert_eq!(node.tcp(port, ACK), backend);
    }
}

#[test]
fn nobody_to_send_to_is_a_reason() {
    let mut node = Node::new();
    ALL.iter().for_each(|slot| node.set(*slot, TrafficState::Out));
    assert_eq!(node.verdict(&segment(1000, SYN)), Verdict::Drop(Reason::NoBackend));
    assert_eq!(node.verdict(&segment(1000, ACK)), Verdict::Drop(Reason::NoBackend));
    let mut node = Node::new();
    node.change(&[]);
    assert_eq!(node.tables.world.tables[0].1[0].now, NOBODY);
    assert_eq!(node.verdict(&segment(1000, SYN)), Verdict::Drop(Reason::NoBackend));
    let mut node = Node::new();
    node.tables.world.hops.iter_mut().for_each(|hop| hop.interface = 0);
    assert_eq!(node.verdict(&segment(1000, SYN)), Verdict::Drop(Reason::NoNextHop));
    assert_eq!(node.tables.reason_count(Reason::NoNextHop), 1);
    assert_eq!(node.tables.vip_count(0).dropped, 1);
}

#[test]
fn new_connection_of_the_same_ports_begins_anew() {
    let mut node = Node::new();
    let port = ports_of(&mut node, 3)[0];
    node.tcp(port, ACK);
    node.change(&[0, 1, 2]);
    node.wait(10_000);
    assert_eq!(node.tcp(port, ACK | Written::FIN), 3);
    assert_eq!(node.tcp(port, ACK), 3, "what still comes of the old one");
    assert_eq!(node.tcp(port, SYN), 3, "anybody can make up both packets");
    node.set(3, TrafficState::Draining);
    let backend = node.tcp(port, SYN);
    assert_ne!(backend, 3, "what drains gets nobody in place of who has ended");
    assert_eq!(node.tcp(port, ACK), backend, "nor do the packets that follow it");
}

#[test]
fn connection_that_its_client_has_forgotten_is_opened_where_it_was() {
    let mut node = Node::new();
    let port = ports_of(&mut node, 3)[0];
    node.tcp(port, ACK);
    node.change(&[0, 1, 2]);
    node.wait(10_000);
    assert_eq!(node.tcp(port, SYN), 3);
    assert_eq!(node.tcp(port, ACK), 3);
    node.set(3, TrafficState::Draining);
    assert_eq!(node.tcp(port, SYN), 3, "a SYN ends no flow that has not ended");
    assert_eq!(node.tcp(port, ACK), 3);
}

#[test]
fn flow_ends_with_its_vip() {
    let mut node = Node::new();
    let port = ports_of(&mut node, 3)[0];
    node.tcp(port, ACK);
    node.change(&[0, 1, 2]);
    node.wait(10_000);
    assert_eq!(node.tcp(port, ACK), 3);
    node.vip(TCP_VIP).identity += 1;
    assert_ne!(node.tcp(port, ACK), 3);
}

#[test]
fn udp_flow_stays_until_it_is_idle_or_its_backend_dies() {
    let mut node = Node::new();
    node.vip(UDP_VIP).idle_ms = 30_000;
    let port = (2000..2200).find(|port| node.udp(*port) == 0).expect("one of 200");
    node.change(&[1, 2, 3]);
    for _ in 0..5 {
        node.wait(29_000);
        assert_eq!(node.udp(port), 0, "each packet renews it");
    }
    node.wait(30_001);
    let backend = node.udp(port);
    assert_ne!(backend, 0);
    node.set(backend, TrafficState::Out);
    assert_ne!(node.udp(port), backend);
}

#[test]
fn client_keeps_its_backend_for_a_time() {
    let mut node = Node::new();
    node.vip(TCP_VIP).flags |= VipRow::AFFINITY;
    node.vip(TCP_VIP).affinity_ms = 60_000;
    let backend = node.tcp(1000, SYN);
    assert!(node.tables.affinity.is_empty(), "who only sends a SYN may be made up");
    assert_eq!(node.tcp(1000, ACK), backend);
    let others: Vec<u32> = ALL.into_iter().filter(|slot| *slot != backend).collect();
    node.change(&others);
    for port in 1001..1050 {
        node.wait(50_000);
        assert_eq!(node.tcp(port, SYN), backend);
        assert_eq!(node.tcp(port, ACK), backend);
    }
    node.set(backend, TrafficState::Draining);
    let next = node.tcp(1050, SYN);
    assert_ne!(next, backend, "what drains gets no new flows");
    assert_eq!(node.tcp(1050, ACK), next);
    node.set(backend, TrafficState::In);
    assert_eq!(node.tcp(1051, SYN), next);
    node.wait(60_001);
    node.change(&[backend]);
    assert_eq!(node.tcp(1052, SYN), backend, "forgotten, and placed anew");
}

/// A packet of QUIC with this destination connection id.
fn quic(id: &[u8], is_long: bool) -> Vec<u8> {
    let mut payload = if is_long { vec![0xc3, 0, 0, 0, 1, id.len() as u8] } else { vec![0x43] };
    payload.extend(id);
    payload.extend([0; 24]);
    payload
}

#[test]
fn quic_connection_id_names_the_backend_whatever_the_address() {
    let mut node = Node::new();
    node.vip(UDP_VIP).quic_id_bytes = 4;
    node.vip(UDP_VIP).quic_configuration = 2;
    let key = QuicServerKey { id: [0xa, 0xb, 0xc, 0xd, 0, 0, 0, 0], table: 0, zero: 0 };
    node.tables.world.quic_servers.push((key, 3));
    let id = [2 << 5 | 7, 0xa, 0xb, 0xc, 0xd, 9, 9, 9];
    let mut other_configuration = id;
    other_configuration[0] = 1 << 5 | 7;
    let mut elsewhere = [false; 4];
    for port in 1000..1100 {
        assert_eq!(slot(node.verdict(&datagram(port, &quic(&id, false)))), 3);
        assert_eq!(slot(node.verdict(&datagram(port + 1000, &quic(&id, true)))), 3);
        let placed = node.verdict(&datagram(port + 2000, &quic(&other_configuration, false)));
        elsewhere[slot(placed) as usize] = true;
        let short = node.verdict(&datagram(port + 3000, &quic(&id[..3], true)));
        elsewhere[slot(short) as usize] = true;
    }
    assert_eq!(elsewhere, [true; 4], "other ids are placed by hash");
    let other_id = [2 << 5 | 7, 1, 1, 1, 1, 9, 9, 9];
    let port = (3000..3100).find(|port| slot(node.verdict(&datagram(*port, &quic(&other_id, false)))) != 3);
    let port = port.expect("one of a hundred");
    assert_eq!(slot(node.verdict(&datagram(port, &quic(&id, false)))), 3, "another client has the port now");
    node.set(3, TrafficState::Out);
    assert_ne!(slot(node.verdict(&datagram(9000, &quic(&id, false)))), 3);
}

#[test]
fn guard_holds_for_vips_only() {
    let mut node = Node::new();
    let world = &mut node.tables.world;
    world.add_network(address("198.51.0.0:0").ip(), 16, Guard::Deny);
    let denied = Verdict::Drop(Reason::Denied);
    assert_eq!(node.verdict(&segment(1000, SYN)), denied);
    assert_eq!(node.verdict(&segment(1000, ACK)), denied);
    let other = Written::tcp(address("198.51.100.7:1000"), address("203.0.113.99:22"), SYN, b"");
    assert_eq!(node.verdict(&other), Verdict::Pass);
    node.tables.world.add_network(address("198.51.100.0:0").ip(), 24, Guard::Allow);
    node.tcp(1000, SYN);
    node.tables.world.networks.clear();
    node.tables.world.settings.flags |= Settings::ALLOW_ONLY;
    assert_eq!(node.verdict(&segment(1000, SYN)), denied);
}

#[test]
fn known_flow_of_who_is_denied_later_ends() {
    let mut node = Node::new();
    node.tcp(1000, ACK);
    node.tables.world.add_network(address("198.51.100.7:0").ip(), 32, Guard::Deny);
    assert_eq!(node.verdict(&segment(1000, ACK)), Verdict::Drop(Reason::Denied));
}

#[test]
fn source_opens_as_many_flows_as_it_may() {
    let mut node = Node::new();
    (node.vip(TCP_VIP).source_rate, node.vip(TCP_VIP).source_burst) = (10, 20);
    let refused = Verdict::Drop(Reason::SourceRate);
    let opened = |node: &mut Node, first: u16| {
        (first..first + 100).filter(|port| node.verdict(&segment(*port, SYN)) != refused).count()
    };
    assert_eq!(opened(&mut node, 1000), 20);
    assert_eq!(opened(&mut node, 1100), 0);
    node.wait(1000);
    assert_eq!(opened(&mut node, 1200), 10);
    node.wait(3_600_000);
    assert_eq!(opened(&mut node, 1300), 20);
    node.tcp(1400, ACK);
}

#[test]
fn exact_port_comes_before_every_port_before_prefixes() {
    let mut node = Node::new();
    let world = &mut node.tables.world;
    let tables: Vec<u32> = ALL.iter().map(|slot| world.add_table(7, &[*slot])).collect();
    world.add_vip(address("203.0.113.20:80"), 6, Forward::L2Dsr, tables[0]);
    world.add_vip(address("203.0.113.20:0"), 6, Forward::L2Dsr, tables[1]);
    let network = (address("203.0.113.0:0").ip(), 24);
    world.add_prefix_vip(network, (8000, 8999), 6, Forward::L2Dsr, tables[2]);
    let mut to =
        |target: &str| node.verdict(&Written::tcp(address("198.51.100.7:1000"), address(target), SYN, b""));
    assert_eq!(slot(to("203.0.113.20:80")), 0);
    assert_eq!(slot(to("203.0.113.20:81")), 1);
    assert_eq!(slot(to("203.0.113.21:8000")), 2);
    assert_eq!(slot(to("203.0.113.22:8999")), 2);
    for target in ["203.0.113.21:7999", "203.0.113.21:9000", "203.0.114.21:8000"] {
        assert_eq!(to(target), Verdict::Pass, "{target}");
    }
    let datagram = Written::udp(address("198.51.100.7:1000"), address("203.0.113.21:8000"), b"");
    assert_eq!(node.verdict(&datagram), Verdict::Pass);
}

#[test]
fn local_vip_goes_up_the_stack_unless_denied() {
    let mut node = Node::new();
    node.tables.world.add_vip(address("203.0.113.30:80"), 6, Forward::Local, 0);
    let to_local = Written::tcp(address("198.51.100.7:1000"), address("203.0.113.30:80"), SYN, b"");
    assert_eq!(node.verdict(&to_local), Verdict::Pass);
    node.tables.world.add_network(address("198.51.100.7:0").ip(), 32, Guard::Deny);
    assert_eq!(node.verdict(&to_local), Verdict::Drop(Reason::Denied));
}

#[test]
fn parts_and_echoes_of_who_is_denied_reach_no_local_vip() {
    let mut node = Node::new();
    node.tables.world.add_vip(address("203.0.113.30:80"), 17, Forward::Local, 0);
    let datagram = Written::udp(address("198.51.100.7:1000"), address("203.0.113.30:80"), &[7; 900]);
    let echo = Written::echo(address("198.51.100.7:0").ip(), address("203.0.113.30:0").ip(), b"");
    let run = |node: &Node, frame: &[u8]| forward(&mut HostFrame::new(frame, 1), &node.tables);
    for frame in datagram.fragments(512).iter().chain([&echo.frame()]) {
        assert_eq!(run(&node, frame), Verdict::Pass);
    }
    node.tables.world.add_network(address("198.51.100.7:0").ip(), 32, Guard::Deny);
    let parts = datagram.fragments(512);
    assert_eq!(run(&node, &parts[0]), Verdict::Drop(Reason::Denied));
    assert_eq!(run(&node, &parts[1]), Verdict::Pass, "nobody can do anything with it");
    assert_eq!(run(&node, &echo.frame()), Verdict::Drop(Reason::Denied));
}

#[test]
fn what_is_for_no_vip_of_an_address_of_this_host_goes_up_the_stack() {
    let mut node = Node::new();
    let (client, here) = (address("198.51.100.7:1000"), address("203.0.113.10:53"));
    let later = Written::udp(client, here, &[7; 900]).fragments(512)[1].clone();
    let quoted = Written::tcp(here, client, ACK, b"");
    let error = Written::icmp_error(client.ip(), here.ip(), [3, 4], 1400, &quoted).frame();
    let echo = Written::echo(client.ip(), here.ip(), b"").frame();
    let run = |node: &Node, frame: &[u8]| forward(&mut HostFrame::new(frame, 1), &node.tables);
    assert_eq!(run(&node, &later), Verdict::Drop(Reason::FragmentUnknown));
    assert_eq!(run(&node, &error), Verdict::Drop(Reason::IcmpUnknown));
    assert_eq!(run(&node, &echo), Verdict::Transmit);
    for vip in [TCP_VIP, UDP_VIP] {
        node.vip(vip).flags |= VipRow::OWN;
    }
    for frame in [later, error, echo] {
        assert_eq!(run(&node, &frame), Verdict::Pass);
    }
    node.tcp(1000, SYN);
}

#[test]
fn errors_of_routers_pass_where_only_some_clients_are_allowed() {
    let mut node = Node::new();
    node.tables.world.add_network(address("198.51.100.7:0").ip(), 32, Guard::Allow);
    node.tables.world.settings.flags |= Settings::ALLOW_ONLY;
    let backend = node.tcp(1000, ACK);
    let quoted = Written::tcp(address("203.0.113.10:443"), address("198.51.100.7:1000"), ACK, b"");
    let router = address("192.0.2.99:0").ip();
    let error = Written::icmp_error(router, address("203.0.113.10:0").ip(), [3, 4], 1400, &quoted);
    assert_eq!(slot(node.verdict(&error)), backend);
    node.tables.world.add_network(router, 32, Guard::Deny);
    assert_eq!(node.verdict(&error), Verdict::Drop(Reason::Denied));
}

#[test]
fn ipv4_address_in_an_ipv6_packet_is_nobody_s() {
    let mut node = Node::new();
    let mut packet = Written::tcp(address("[2001:db8::1]:1000"), address("[2001:db8::2]:443"), SYN, b"");
    let mapped = address("[::ffff:203.0.113.10]:443").ip();
    packet.target = mapped;
    assert_eq!(node.verdict(&packet), Verdict::Drop(Reason::BadIpHeader));
    let reverse = Written::tcp(address("[::ffff:198.51.100.7]:1000"), address("[2001:db8::2]:443"), SYN, b"");
    assert_eq!(node.verdict(&reverse), Verdict::Pass, "for no VIP");
}

#[test]
fn errors_are_sent_as_fast_as_the_bucket_of_a_cpu_fills() {
    let mut node = Node::new();
    let mut old = segment(1000, ACK);
    old.ttl = 1;
    let rate = crate::limits::ICMP_ERRORS_PER_SECOND;
    for (verdict, packets) in [(Verdict::Transmit, rate), (Verdict::Drop(Reason::TimeExceeded), 10)] {
        for number in 0..packets {
            assert_eq!(node.verdict(&old), verdict, "{number}");
        }
    }
    node.wait(10);
    assert_eq!(node.verdict(&old), Verdict::Transmit);
}

#[test]
fn nonsense_for_a_vip_is_dropped_and_for_others_passed() {
    let mut node = Node::new();
    let target = address("203.0.113.10:443");
    assert_eq!(node.verdict(&Written::tcp(target, target, SYN, b"")), Verdict::Drop(Reason::LandAttack));
    assert_eq!(node.verdict(&segment(1000, SYN | Written::FIN)), Verdict::Drop(Reason::BadTcpFlags));
    assert_eq!(node.verdict(&segment(1000, 0)), Verdict::Drop(Reason::BadTcpFlags));
    let mut frame = segment(1000, ACK).frame();
    frame[14] = 0x43;
    let verdict = forward(&mut HostFrame::new(&frame, 1), &node.tables);
    assert_eq!(verdict, Verdict::Drop(Reason::BadIpHeader));
    frame[33] = 99;
    assert_eq!(forward(&mut HostFrame::new(&frame, 1), &node.tables), Verdict::Pass);
    assert_eq!(node.tables.vip_count(0).dropped, 4);
}

#[test]
fn packet_leaves_by_the_interface_that_it_came_from_or_another() {
    let mut node = Node::new();
    let frame = segment(1000, SYN).frame();
    let Verdict::Redirect(interface) = forward(&mut HostFrame::new(&frame, 1), &node.tables) else {
        panic!("another interface")
    };
    let verdict = forward(&mut HostFrame::new(&frame, interface), &node.tables);
    assert_eq!(verdict, Verdict::Transmit);
    node.tables.settle();
}

#[test]
fn stages_have_their_own_numbers_and_programs() {
    for (index, stage) in Stage::ALL.into_iter().enumerate() {
        assert_eq!(stage as usize, index);
        assert!(stage.program().starts_with(ENTRY_PROGRAM));
    }
}
