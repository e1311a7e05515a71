use lb_common::forward::forward;
use lb_common::host::{HostFrame, HostTables, Packet, World};
use lb_common::lookup::Head;
use lb_common::verdict::{Reason, Verdict};
use proptest::prelude::*;

use super::*;
use crate::steer::change::tests::{Scene, TEXT, node, scenes};
use crate::steer::plan::Backend;
use crate::steer::plan::tests::Node;

const NOW: u64 = 100_000_000_000;
const SLOTS: usize = 64;

/// What the master writes into `BACKENDS`.
fn rows(backends: &[Backend]) -> Vec<BackendRow> {
    let mut rows = vec![BackendRow::default(); SLOTS];
    for backend in backends {
        rows[usize::from(backend.slot)] = BackendRow {
            instance: backend.instance,
            state: backend.state as u32,
            weight: backend.weight,
            ..BackendRow::default()
        };
    }
    rows
}

/// A node of the host with these tables.
fn host(contents: &Contents, backends: &[BackendRow]) -> HostTables {
    let end = |last: Option<&u32>| last.map_or(0, |last| *last as usize + 1);
    let mut world = World {
        settings: contents.settings,
        vips: contents.vips.iter().map(|(key, vip)| (*key, *vip)).collect(),
        prefixes: contents
            .prefixes
            .iter()
            .map(|(prefix, spans)| (prefix.address, prefix.bits, *spans))
            .collect(),
        vip_rows: vec![VipRow::default(); end(contents.vip_rows.keys().last())],
        networks: contents
            .networks
            .iter()
            .map(|(prefix, guard)| (prefix.address, prefix.bits, *guard))
            .collect(),
        tables: vec![(Head::default(), Vec::new()); end(contents.tables.keys().last())],
        backends: backends.to_vec(),
        hops: vec![Default::default(); SLOTS],
        quic_servers: Vec::new(),
    };
    for (vip, row) in &contents.vip_rows {
        world.vip_rows[*vip as usize] = *row;
    }
    for (index, table) in &contents.tables {
        world.tables[*index as usize] = (table.head(), table.rows.to_vec());
    }
    for (slot, hop) in &contents.hops {
        world.hops[*slot as usize] = *hop;
    }
    let mut tables = HostTables::new(world);
    tables.now_ns = NOW + 1;
    tables
}

fn first_packet(asked: &Asked) -> Packet {
    if asked.protocol == 6 {
        Packet::tcp(asked.client, asked.vip, Packet::SYN, b"")
    } else {
        Packet::udp(asked.client, asked.vip, b"a datagram")
    }
}

fn clients_and_vips() -> impl Strategy<Value = Asked> {
    let hosts = prop::sample::select(vec!["203.0.113.10", "203.0.113.12", "203.0.113.77", "2001:db8::1"]);
    let ports = prop::sample::select(vec![80, 443, 8000, 8500, 8999, 9000]);
    let protocol = prop::sample::select(vec![6, 17]);
    (hosts, ports, protocol, any::<u32>(), 1024u16..).prop_map(
        |(host, port, protocol, client, client_port)| {
            let host: IpAddr = host.parse().unwrap();
            // Some of these are in the lists of the guard.
            let [_, b, c, _] = client.to_be_bytes();
            let [first, second] = [[10, 0], [10, 1], [198, 51], [100, 64]][client as usize % 4];
            let client = match host {
                IpAddr::V4(_) => IpAddr::from([first, second, b, c]),
                IpAddr::V6(_) => {
                    IpAddr::from([0x2001, 0xdb8, [0xbad, 7][client as usize % 2], 0, 0, 0, 0, client as u16])
                }
            };
            Asked { client: SocketAddr::new(client, client_port), vip: SocketAddr::new(host, port), protocol }
        },
    )
}

fn check_agreement(scene: &Scene, flows: &[Asked]) -> Result<(), TestCaseError> {
    let node = node(scene);
    let contents = node.plan(&Contents::default(), NOW).contents;
    let backends = rows(&node.backends);
    for asked in flows {
        let tables = host(&contents, &backends);
        let answer =
            lookup(&contents, |slot| backends.get(slot as usize).copied(), asked, &Left::default(), NOW + 1);
        let mut frame = HostFrame::new(&first_packet(asked).frame(), 2);
        let verdict = forward(&mut frame, &tables);
        let is_as_said = match answer.why {
            Why::NoVip | Why::Local => verdict == Verdict::Pass,
            Why::Denied | Why::NotAllowed => verdict == Verdict::Drop(Reason::Denied),
            Why::Nobody => verdict == Verdict::Drop(Reason::NoBackend),
            Why::NoWay => verdict == Verdict::Drop(Reason::NoNextHop),
            Why::Row | Why::FurtherRow(_) => {
                let slot = answer.slot.unwrap_or(u32::MAX);
                verdict == Verdict::Redirect(7) && tables.backend_count(slot).packets == 1
            }
            Why::Known | Why::Translated | Why::Kept => false,
        };
        prop_assert!(is_as_said, "{:?} for {:?}: {:?}", verdict, asked, answer);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_kernel_s_decision_is_what_is_said(
        scene in scenes(),
        flows in prop::collection::vec(clients_and_vips(), 1..20),
    ) {
        check_agreement(&scene, &flows)?;
    }
}

fn asked(client: &str, vip: &str) -> Asked {
    Asked { client: client.parse().unwrap(), vip: vip.parse().unwrap(), protocol: 6 }
}

#[test]
fn a_known_flow_stays_while_its_backend_is_not_out() {
    let mut node = Node::new(TEXT);
    node.model.steering.guard = Default::default();
    let contents = node.plan(&Contents::default(), NOW).contents;
    let asked = asked("198.51.100.7:5000", "203.0.113.10:8080");
    let why = |rows: &[BackendRow], left: Left| {
        let answer = lookup(&contents, |slot| rows.get(slot as usize).copied(), &asked, &left, NOW);
        (answer.slot, answer.why)
    };
    let mut backends = rows(&node.backends);
    let flow = Flow { instance: 113, slot: 13, ..Flow::default() };
    let known = Left { flow: Some(flow), ..Left::default() };
    assert_eq!(why(&backends, known), (Some(13), Why::Known));
    backends[13].state = 3;
    assert_eq!(why(&backends, known), (Some(13), Why::Known));
    backends[13].state = 0;
    assert_eq!(why(&backends, known), (Some(12), Why::Row));
    let other = Left { flow: Some(Flow { instance: 7, ..flow }), ..Left::default() };
    backends[13].state = 2;
    assert_eq!(why(&backends, other), (Some(12), Why::Row));
    let nat = NatFlow { instance: 112, slot: 12, ..NatFlow::default() };
    assert_eq!(why(&backends, Left { nat: Some(nat), ..Left::default() }), (Some(12), Why::Translated));
    backends[12].state = 0;
    assert_eq!(why(&backends, Left::default()), (None, Why::Nobody));
}

#[test]
fn an_address_keeps_its_backend_for_its_time() {
    let text = TEXT.replace(
        "forward = \"ipip\"",
        "forward = \"ipip\"\npersistence = \"client\"\npersistence_timeout = \"1m\"",
    );
    let mut node = Node::new(&text);
    node.model.steering.guard = Default::default();
    let contents = node.plan(&Contents::default(), NOW).contents;
    let rows = rows(&node.backends);
    let asked = asked("198.51.100.7:5000", "203.0.113.10:8080");
    let why = |seen_at_ns: u64| {
        let kept = Kept { instance: 113, slot: 13, seen_at_ns, zero: 0 };
        let left = Left { kept: Some(kept), ..Left::default() };
        lookup(&contents, |slot| rows.get(slot as usize).copied(), &asked, &left, NOW).why
    };
    assert_eq!(why(NOW - 60_000_000_000), Why::Kept);
    assert_eq!(why(NOW - 61_000_000_000), Why::Row);
}
