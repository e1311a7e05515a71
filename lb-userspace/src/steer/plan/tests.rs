use std::path::Path;

use lb_common::hop::HopRow;
use lb_common::lookup::{LookupRow, NOBODY};
use lb_common::vip::{Forward as ForwardWord, Span, VipKey, VipRow};

use super::*;
use crate::config::read_text;
use crate::steer::change::{Change, changes};
use crate::steer::contents::{Table, address_bytes};

const SECOND: u64 = 1_000_000_000;
const LATER: u64 = 100 * SECOND;

/// A node whose configuration and backends a test changes.
pub(in crate::steer) struct Node {
    pub model: Model,
    pub backends: Vec<Backend>,
    pub hops: BTreeMap<IpAddr, NextHop>,
    pub interfaces: BTreeMap<String, Port>,
    pub own: BTreeSet<IpAddr>,
    pub tables: BTreeMap<String, u32>,
    pub capture: Option<Capture>,
}

impl Node {
    /// With the backends of the file on slots from 10 on, all IN, with instance = 100 + slot and a way through interface 7.
    pub fn new(text: &str) -> Self {
        let model = model(text);
        let mut node = Self {
            backends: Vec::new(),
            hops: BTreeMap::new(),
            interfaces: [("eth0".to_owned(), Port { index: 2, mtu: 1500, members: Vec::new() })].into(),
            own: BTreeSet::new(),
            tables: BTreeMap::new(),
            capture: None,
            model,
        };
        let upstreams = node.model.upstreams.clone();
        for (upstream, backend) in upstreams.values().flat_map(|it| it.backends.iter().map(move |b| (it, b)))
        {
            if let crate::config::model::Address::Tcp(address) = backend.address {
                let slot = 10 + node.backends.len() as u16;
                node.add(&upstream.name, slot, address, backend.weight);
            }
        }
        node
    }

    pub fn add(&mut self, upstream: &str, slot: u16, address: SocketAddr, weight: u32) {
        let upstream = upstream.to_owned();
        let instance = 100 + u64::from(slot);
        self.backends.push(Backend { upstream, slot, instance, address, state: TrafficState::In, weight });
        self.hops.insert(address.ip(), way(address.ip()));
    }

    pub fn plan(&self, applied: &Contents, now_ns: u64) -> Plan {
        let networks = Arc::new(networks(&self.model.steering.guard));
        let inputs = Inputs {
            model: &self.model,
            networks: &networks,
            backends: &self.backends,
            hops: &self.hops,
            interfaces: &self.interfaces,
            own: &self.own,
            tables: &self.tables,
            capture: self.capture.as_ref(),
            now_ns,
        };
        plan(&inputs, applied)
    }

    fn first(&self) -> Contents {
        self.plan(&Contents::default(), LATER).contents
    }

    fn set(&mut self, slot: u16, state: TrafficState) {
        self.backends.iter_mut().filter(|backend| backend.slot == slot).for_each(|it| it.state = state);
    }
}

pub(in crate::steer) fn model(text: &str) -> Model {
    read_text("lb.toml", text, Path::new("/")).unwrap().model
}

fn way(target: IpAddr) -> NextHop {
    let source = if target.is_ipv4() { "192.0.2.1" } else { "2001:db8:2::1" };
    NextHop {
        interface: 7,
        vlan: None,
        source_link: [2, 0, 0, 0, 0, 1],
        target_link: [2, 0, 0, 0, 0, 9],
        source: source.parse().unwrap(),
        mtu: 1500,
    }
}

fn vip(text: &str) -> String {
    format!("[[vip]]\ninterface = \"eth0\"\n{text}\n")
}

fn upstream(name: &str, addresses: &[&str]) -> String {
    let backends: Vec<String> =
        addresses.iter().map(|address| format!("{{ address = \"{address}\" }}")).collect();
    format!("[upstream.{name}]\nbackends = [{}]\n", backends.join(", "))
}

/// One VIP with three backends by `forward`, and a table of 251 rows.
fn three(forward: &str) -> String {
    let web = vip(&format!("address = \"203.0.113.10:80\"\nupstream = \"web\"\nforward = \"{forward}\""));
    let backends = upstream("web", &["192.0.2.10:80", "192.0.2.11:80", "192.0.2.12:80"]);
    format!("[kernel]\nlookup_rows = 251\n{web}{backends}")
}

fn key(address: &str, port: u16, protocol: u8) -> VipKey {
    let address = address_bytes(address.parse().unwrap());
    VipKey { address, port: port.to_be_bytes(), protocol, zero: 0 }
}

fn seats(table: &Table) -> Vec<(u16, u32)> {
    table.seats.iter().map(|seat| (seat.slot, seat.weight)).collect()
}

fn only_table(contents: &Contents) -> &Table {
    assert_eq!(contents.tables.len(), 1);
    contents.tables.values().next().unwrap()
}

#[test]
fn a_vip_is_found_by_port_and_its_address_by_itself() {
    let contents = Node::new(&three("nat")).first();
    let keys = [key("203.0.113.10", 0, 0), key("203.0.113.10", 80, 6)];
    assert_eq!(contents.vips, keys.map(|key| (key, 0)).into());
    assert!(contents.prefixes.is_empty());
    let row = contents.vip_rows[&0];
    assert_eq!((row.forward, row.protocol, row.flags), (ForwardWord::Nat as u8, 6, VipRow::PRESENT));
}

#[test]
fn an_address_that_the_host_answers_for_speaks_by_its_local_vip() {
    let text = vip("address = \"203.0.113.10:80\"\nupstream = \"web\"\nforward = \"nat\"")
        + &vip("address = \"203.0.113.10:22\"\nforward = \"local\"")
        + &upstream("web", &["192.0.2.10:80"]);
    let contents = Node::new(&text).first();
    assert_eq!(contents.vips[&VipKey::of_address(address_bytes("203.0.113.10".parse().unwrap()))], 1);
    assert_eq!(contents.vip_rows[&1].forward, ForwardWord::Local as u8);
    assert_eq!(contents.tables.len(), 1);
}

#[test]
fn spans_are_those_of_the_nearest_network_first() {
    let forward = "upstream = \"web\"\nforward = \"ipip\"";
    let text = vip(&format!("address = \"203.0.113.0/24:1-65535\"\n{forward}"))
        + &vip(&format!("address = \"203.0.113.8/29\"\n{forward}"))
        + &vip(&format!("address = \"203.0.113.8/29:8000-8999\"\n{forward}"))
        + &vip(&format!("address = \"203.0.113.10\"\n{forward}"))
        + &vip(&format!("address = \"203.0.113.10:9000-9001\"\nprotocol = \"udp\"\n{forward}"))
        + &upstream("web", &["192.0.2.10:80"]);
    let contents = Node::new(&text).first();
    let rows = |network: &str| -> Vec<(u16, u16, u16, u8)> {
        let spans = contents.prefixes[&Prefix::from(network.parse::<ipnet::IpNet>().unwrap())].spans;
        let used = spans.into_iter().filter(|span| *span != Span::default());
        used.map(|span| (span.vip, span.first, span.last, span.protocol)).collect()
    };
    assert_eq!(rows("203.0.113.0/24"), [(0, 1, 65535, 6)]);
    assert_eq!(rows("203.0.113.8/29"), [(2, 8000, 8999, 6), (1, 0, 65535, 6), (0, 1, 65535, 6)]);
    let around = [(4, 9000, 9001, 17), (2, 8000, 8999, 6), (1, 0, 65535, 6), (0, 1, 65535, 6)];
    assert_eq!(rows("203.0.113.10/32"), around);
    // Every TCP port of the address: UDP's range is none that has to be looked at before.
    assert_eq!(contents.vips[&key("203.0.113.10", 0, 6)], 3);
    assert!(contents.settings.flags & Settings::PREFIXES != 0);
}

#[test]
fn every_port_waits_behind_a_range_of_its_address() {
    let forward = "upstream = \"web\"\nforward = \"ipip\"";
    let text = vip(&format!("address = \"203.0.113.10\"\n{forward}"))
        + &vip(&format!("address = \"203.0.113.10:8000-8999\"\n{forward}"))
        + &upstream("web", &["192.0.2.10:80"]);
    let contents = Node::new(&text).first();
    assert!(contents.vips.is_empty());
    let spans = contents.prefixes.values().next().unwrap().spans;
    assert_eq!([spans[0].vip, spans[1].vip, spans[2].protocol.into()], [1, 0, 0]);
}

#[test]
fn a_row_says_what_the_vip_asks_for() {
    let text = vip(
        "address = \"[2001:db8::1]:443\"\nprotocol = \"udp\"\nupstream = \"web\"\nforward = \"ipip\"\n\
         idle_timeout = \"30s\"\nquic = { server_id_bytes = 2, configuration = 3 }\npersistence = \"client\"\n\
         persistence_timeout = \"10m\"\nnew_flows = { per_source = 50 }",
    ) + "[upstream.web]\nbackends = [{ address = \"192.0.2.10:443\", server_id = \"0A0b\" }]\n";
    let contents = Node::new(&text).first();
    let row = contents.vip_rows[&0];
    assert_eq!((row.idle_ms, row.quic_id_bytes, row.quic_configuration), (30_000, 2, 3));
    assert_eq!((row.flags, row.affinity_ms), (VipRow::PRESENT | VipRow::AFFINITY, 600_000));
    assert_eq!((row.source_rate, row.source_burst, row.syn_rate), (50, 50, 0));
    assert_eq!(contents.quic_servers, [((0, [10, 11, 0, 0, 0, 0, 0, 0]), 10)].into());
    let text = vip(
        "address = \"203.0.113.1:443\"\nupstream = \"web\"\nforward = \"nat\"\nsource = \"client\"\nsyn_rate = 1000\n\
         new_flows = { per_source = 50, burst = 7 }",
    ) + &upstream("web", &["192.0.2.10:443"]);
    let row = Node::new(&text).first().vip_rows[&0];
    assert_eq!(row.flags, VipRow::PRESENT | VipRow::KEEP_CLIENT);
    assert_eq!((row.source_burst, row.syn_rate), (7, 1000));
}

#[test]
fn settings_say_what_has_to_be_looked_up() {
    let flags = |text: &str| Node::new(text).first().settings.flags;
    assert_eq!(flags(""), 0);
    assert_eq!(flags(&three("nat")), Settings::NAT);
    assert_eq!(flags(&three("gue")), Settings::DIRECT);
    let guarded = three("l2dsr") + "[guard]\ndeny = [\"10.0.0.0/8\"]\nallow = [\"10.1.0.0/16\"]\n";
    assert_eq!(flags(&guarded), Settings::DIRECT | Settings::GUARD);
    let allowed = three("l2dsr") + "[guard]\nallow = [\"10.1.0.0/16\"]\n";
    assert_eq!(flags(&allowed), Settings::DIRECT | Settings::GUARD | Settings::ALLOW_ONLY);
    let mut node = Node::new(&three("nat"));
    node.capture = Some(Capture { vip: "203.0.113.10:80".to_owned(), mask: 15 });
    let settings = node.first().settings;
    assert_eq!((settings.captured_vip, settings.capture_mask), (1, 15));
}

#[test]
fn a_vip_keeps_its_row_and_a_new_one_takes_none_that_was_in_use() {
    let vips = |ports: &[u16]| {
        let vips = ports.iter().map(|port| {
            vip(&format!("address = \"203.0.113.10:{port}\"\nupstream = \"u{port}\"\nforward = \"nat\""))
                + &upstream(&format!("u{port}"), &[&format!("192.0.2.10:{port}")])
        });
        vips.collect::<String>()
    };
    let before = Node::new(&vips(&[80, 81, 82])).first();
    let plan = Node::new(&vips(&[90, 82, 81])).plan(&before, LATER);
    assert_eq!(plan.vips["203.0.113.10:82"], 2);
    assert_eq!(plan.vips["203.0.113.10:81"], 1);
    assert_eq!(plan.vips["203.0.113.10:90"], 3);
    assert_eq!((plan.tables["u82"], plan.tables["u81"], plan.tables["u90"]), (2, 1, 3));
}

#[test]
fn in_and_warming_have_seats_by_weight() {
    let mut node = Node::new(&three("nat"));
    node.backends[0].weight = 3;
    node.set(11, TrafficState::Warming);
    node.set(12, TrafficState::Draining);
    let contents = node.first();
    assert_eq!(seats(only_table(&contents)), [(10, 3), (11, 1)]);
    assert_eq!(only_table(&contents).shares(), [(10, 188), (11, 63)].into());
    for state in [TrafficState::Out, TrafficState::Held, TrafficState::Draining] {
        node.set(11, state);
        assert_eq!(seats(only_table(&node.first())), [(10, 3)]);
    }
    node.backends[0].weight = 0;
    let contents = node.first();
    assert!(only_table(&contents).rows.iter().all(|row| row.now == NOBODY && row.before == NOBODY));
}

#[test]
fn backups_have_seats_only_where_nobody_else_may() {
    let text = three("nat").replace("192.0.2.12:80\"", "192.0.2.12:80\", backup = true");
    let mut node = Node::new(&text);
    assert_eq!(seats(only_table(&node.first())), [(10, 1), (11, 1)]);
    node.set(10, TrafficState::Out);
    node.set(11, TrafficState::Warming);
    assert_eq!(seats(only_table(&node.first())), [(11, 1)]);
    node.set(11, TrafficState::Draining);
    assert_eq!(seats(only_table(&node.first())), [(12, 1)]);
}

#[test]
fn whom_no_way_leads_to_has_no_seat_while_others_have_one() {
    let mut node = Node::new(&three("nat"));
    node.hops.remove(&node.backends[1].address.ip());
    let contents = node.first();
    assert_eq!(seats(only_table(&contents)), [(10, 1), (12, 1)]);
    let address = contents.hops[&10].address.map(|byte| if byte == 10 { 11 } else { byte });
    assert_eq!(contents.hops[&11], HopRow { address, ..HopRow::default() }, "whose it is stays known");
    node.hops.clear();
    assert_eq!(seats(only_table(&node.first())).len(), 3);
}

/// Two upstreams, and the VIPs of ports 80 and 81 that forward to them.
fn two_upstreams(of_80: &str, of_81: &str) -> Model {
    let vips = [(80, of_80), (81, of_81)].map(|(port, of)| {
        let [a, b] = ["blue", "green"].map(|name| name == of);
        assert!(a || b, "{of}");
        vip(&format!("address = \"203.0.113.10:{port}\"\nupstream = \"{of}\"\nforward = \"nat\""))
    });
    let upstreams = [upstream("blue", &["192.0.2.10:80"]), upstream("green", &["192.0.2.11:80"])];
    model(&format!("[kernel]\nlookup_rows = 251\n{}{}", vips.concat(), upstreams.concat()))
}

#[test]
fn a_table_in_use_is_not_given_to_another_upstream() {
    let mut node = Node::new("");
    node.model = two_upstreams("blue", "blue");
    node.add("blue", 10, "192.0.2.10:80".parse().unwrap(), 1);
    node.add("green", 11, "192.0.2.11:80".parse().unwrap(), 1);
    let first = node.plan(&Contents::default(), LATER);
    for knows_names in [true, false] {
        node.model = two_upstreams("green", "blue");
        node.tables = if knows_names { first.tables.clone() } else { BTreeMap::new() };
        let second = node.plan(&first.contents, LATER + SECOND);
        assert_ne!(second.tables["green"], first.tables["blue"]);
        for change in changes(&first.contents, &second.contents) {
            if let Change::SetTable { index, table } = change {
                let is_blue = table.seats.iter().any(|seat| seat.slot == 10);
                assert!(
                    is_blue || index != first.tables["blue"],
                    "the VIP that stays would be green's for a while"
                );
            }
        }
        if knows_names {
            assert_eq!(second.tables["blue"], first.tables["blue"]);
        }
    }
    node.model = two_upstreams("green", "green");
    node.tables = BTreeMap::new();
    let renamed = node.plan(&first.contents, LATER + SECOND);
    assert_eq!(renamed.tables["green"], first.tables["blue"], "all its VIPs used it");
}

#[test]
fn flows_to_an_upstream_that_no_vip_names_any_more_have_a_way() {
    let mut node = Node::new("");
    node.model = two_upstreams("blue", "blue");
    node.add("blue", 10, "192.0.2.10:80".parse().unwrap(), 1);
    node.add("green", 11, "192.0.2.11:80".parse().unwrap(), 1);
    let first = node.first();
    assert_eq!(first.hops.keys().copied().collect::<Vec<_>>(), [10]);
    node.model = two_upstreams("green", "green");
    let second = node.plan(&first, LATER + SECOND).contents;
    assert_eq!(second.hops[&10], first.hops[&10]);
    node.hops.values_mut().for_each(|way| way.target_link[5] = 77);
    let third = node.plan(&second, LATER + SECOND).contents;
    assert_eq!(third.hops[&10].link[5], 77, "its neighbour is followed");
    assert_eq!(third.hops[&10].nat_ports, first.hops[&10].nat_ports);
    node.backends.retain(|backend| backend.slot != 10);
    assert!(!node.plan(&third, LATER + SECOND).contents.hops.contains_key(&10));
}

#[test]
fn a_vip_knows_its_interface_and_whether_its_address_is_the_host_s_own() {
    let mut node = Node::new(&three("nat"));
    assert_eq!(node.first().vip_rows[&0].mtu, 1500);
    node.own = ["203.0.113.10".parse().unwrap()].into();
    assert_eq!(node.first().vip_rows[&0].flags, VipRow::PRESENT | VipRow::OWN);
}

#[test]
fn a_new_generation_knows_the_one_before() {
    let mut node = Node::new(&three("ipip"));
    let first = node.first();
    let first = only_table(&first);
    assert!(first.rows.iter().all(|row| row.now == row.before));
    assert_eq!((first.generation, first.since_ns), (1, LATER));
    let applied = node.first();
    node.set(12, TrafficState::Draining);
    let second = node.plan(&applied, LATER + 5 * SECOND);
    let second = only_table(&second.contents);
    assert_eq!((second.generation, second.since_ns), (2, LATER + 5 * SECOND));
    for (row, was) in second.rows.iter().zip(first.rows.iter()) {
        assert_eq!(row.before, was.now);
        assert!(row.now != 12);
    }
    assert_eq!(second.instances, [(10, 110), (11, 111), (12, 112)].into());
}

#[test]
fn a_row_that_stays_goes_on_straddling_its_last_change() {
    let mut node = Node::new(&three("ipip"));
    let first = node.first();
    node.set(12, TrafficState::Draining);
    let second = node.plan(&first, LATER + 10 * SECOND).contents;
    node.add("web", 20, "192.0.2.20:80".parse().unwrap(), 1);
    for (seconds, is_recent) in [(11, true), (14, false)] {
        let third = node.plan(&second, LATER + seconds * SECOND).contents;
        let rows = [&first, &second, &third].map(|contents| only_table(contents).rows.clone());
        let triples = rows[0].iter().zip(rows[1].iter()).zip(rows[2].iter());
        let mut stayed = triples.filter(|((_, second), third)| second.now == third.now);
        assert!(stayed.clone().any(|((first, _), _)| first.now == 12));
        assert!(
            stayed.all(
                |((first, second), third)| third.before == if is_recent { first.now } else { second.now }
            )
        );
    }
}

#[test]
fn nothing_new_is_no_change() {
    let node = Node::new(&three("ipip"));
    let applied = node.first();
    let plan = node.plan(&applied, LATER + 60 * SECOND);
    assert!(changes(&applied, &plan.contents).is_empty());
    assert_eq!(plan.due_at_ns, None);
}

#[test]
fn changes_that_follow_fast_are_one() {
    let mut node = Node::new(&three("ipip"));
    for slot in 20..40 {
        node.add("web", slot, SocketAddr::from(([192, 0, 2, slot as u8], 80)), 1);
    }
    let applied = node.first();
    node.backends[5].weight = 2;
    let plan = node.plan(&applied, LATER + SECOND / 5);
    assert_eq!(plan.contents.tables, applied.tables);
    assert_eq!(plan.due_at_ns, Some(LATER + SECOND / 4));
    let plan = node.plan(&applied, LATER + SECOND / 4);
    assert_eq!((only_table(&plan.contents).generation, plan.due_at_ns), (2, None));
}

#[test]
fn a_change_does_not_wait_where_many_cannot_take_flows() {
    let mut node = Node::new(&three("ipip"));
    let applied = node.first();
    node.set(12, TrafficState::Out);
    let plan = node.plan(&applied, LATER + 1);
    assert_eq!((only_table(&plan.contents).generation, plan.due_at_ns), (2, None));
    assert_eq!(seats(only_table(&plan.contents)), [(10, 1), (11, 1)]);
}

#[test]
fn a_table_stays_while_nobody_may_get_flows() {
    let mut node = Node::new(&three("ipip"));
    let applied = node.first();
    for slot in 10..13 {
        node.set(slot, TrafficState::Out);
    }
    let plan = node.plan(&applied, LATER + 60 * SECOND);
    assert_eq!(plan.contents.tables, applied.tables);
}

#[test]
fn a_slot_that_is_another_s_leaves_the_table_at_once() {
    let mut node = Node::new(&three("ipip"));
    for slot in 20..40 {
        node.add("web", slot, SocketAddr::from(([192, 0, 2, slot as u8], 80)), 1);
    }
    let applied = node.first();
    let stranger = node.backends.iter_mut().find(|backend| backend.slot == 20).unwrap();
    *stranger = Backend { instance: 999, address: "192.0.2.99:80".parse().unwrap(), ..stranger.clone() };
    let plan = node.plan(&applied, LATER + 1);
    let table = only_table(&plan.contents);
    assert_eq!(table.generation, 2);
    assert!(table.rows.iter().all(|row| row.before != 20));
    node.backends.retain(|backend| backend.slot != 21);
    let plan = node.plan(&plan.contents, LATER + 2);
    assert!(only_table(&plan.contents).rows.iter().all(|row| ![row.now, row.before].contains(&21)));
}

#[test]
fn a_table_whose_backends_are_all_gone_leads_to_nobody() {
    let mut node = Node::new(&three("ipip"));
    let applied = node.first();
    node.backends.clear();
    let plan = node.plan(&applied, LATER + 1);
    assert!(only_table(&plan.contents).rows.iter().all(|row| [row.now, row.before] == [NOBODY; 2]));
}

#[test]
fn a_table_of_another_size_begins_anew() {
    let node = Node::new(&three("ipip"));
    let applied = node.first();
    let larger = Node::new(&three("ipip").replace("251", "257"));
    let plan = larger.plan(&applied, LATER + 1);
    let table = only_table(&plan.contents);
    assert_eq!((table.rows.len(), table.generation), (257, 2));
    assert!(table.rows.iter().all(|row| row.now == row.before));
}

#[test]
fn what_was_left_in_the_kernel_is_taken_up_without_a_write() {
    let node = Node::new(&three("ipip"));
    let mut left = node.first();
    for table in left.tables.values_mut() {
        *table = Table::found(table.head(), &table.lines());
    }
    let plan = node.plan(&left, LATER + 60 * SECOND);
    let changes = changes(&left, &plan.contents);
    assert!(matches!(&changes[..], [Change::KnowTable { index: 0, .. }]), "{changes:?}");
    assert_eq!(seats(only_table(&plan.contents)).len(), 3);
}

#[test]
fn nat_goes_to_the_port_of_the_backend_and_ranges_keep_theirs() {
    let text = three("nat").replace(":80\" }", ":8080\" }");
    let hop = Node::new(&text).first().hops[&10];
    assert_eq!(hop.port, 8080u16.to_be_bytes());
    assert_eq!((hop.nat_port_first, hop.nat_ports), (10240, 22528));
    assert_eq!(hop.nat_source, address_bytes("192.0.2.1".parse().unwrap()));
    assert_eq!((hop.interface, hop.mtu, hop.outer_bytes), (7, 1500, 0));
    assert_eq!(hop.link[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
    let hop = Node::new(&text.replace("203.0.113.10:80", "203.0.113.10:80-90")).first().hops[&10];
    assert_eq!(hop.port, [0, 0]);
}

#[test]
fn outer_headers_are_ready_but_for_lengths() {
    let hop = Node::new(&three("ipip")).first().hops[&10];
    let expect = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 4, 0, 0, 192, 0, 2, 1, 192, 0, 2, 10];
    assert_eq!((hop.outer_bytes, &hop.outer[..20]), (20, &expect[..]));
    let words = expect.chunks(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]])));
    assert_eq!(hop.outer_sum, lb_common::checksum::fold(words.sum()));
    let gue = three("gue").replace("forward", "tunnel_source = \"192.0.2.99\"\nforward");
    let hop = Node::new(&gue).first().hops[&10];
    assert_eq!((hop.outer[9], &hop.outer[12..16]), (17, &[192, 0, 2, 99][..]));
    assert_eq!(hop.gue_port, 6080u16.to_be_bytes());
    let v6 = three("ipip").replace("192.0.2.1", "[2001:db8:1::1").replace(":80\" }", "]:80\" }");
    let hop = Node::new(&v6).first().hops[&10];
    assert_eq!((hop.outer_bytes, hop.outer[0], hop.outer[7]), (40, 0x60, 64));
    assert_eq!(hop.link[12..14], [0x86, 0xdd]);
    assert_eq!(hop.outer[24..40], address_bytes("2001:db8:1::10".parse().unwrap()));
}

#[test]
fn a_vlan_is_written_into_the_link_header() {
    let mut node = Node::new(&three("l2dsr"));
    node.hops.values_mut().for_each(|way| way.vlan = Some(0x123));
    let hop = node.first().hops[&11];
    assert_eq!((hop.link_bytes, &hop.link[12..18]), (18, &[0x81, 0, 0x01, 0x23, 8, 0][..]));
    assert_eq!(hop.port, [0, 0]);
}

#[test]
fn who_leaves_keeps_its_way_until_it_is_gone() {
    let mut node = Node::new(&three("ipip"));
    let applied = node.first();
    node.model.upstreams.get_mut("web").unwrap().backends.pop();
    node.set(12, TrafficState::Draining);
    let plan = node.plan(&applied, LATER + 5 * SECOND);
    assert_eq!(plan.contents.hops[&12], applied.hops[&12]);
    node.backends.pop();
    let after = node.plan(&plan.contents, LATER + 6 * SECOND);
    assert!(!after.contents.hops.contains_key(&12));
    assert!(only_table(&after.contents).rows.iter().all(|row: &LookupRow| row.before != 12));
}

#[test]
fn packets_may_leave_where_vips_come_in_and_backends_are() {
    let mut node = Node::new(&three("nat"));
    assert_eq!(node.first().ports, [(2, 2), (7, 7)].into());
    node.interfaces.values_mut().for_each(|port| port.members = vec![3, 4]);
    assert_eq!(node.first().ports, [(2, 2), (3, 2), (4, 2), (7, 7)].into());
}
