use proptest::prelude::*;

use super::*;
use crate::config::model::steering::Vip;
use crate::steer::plan::tests::{Node, model};
use lb_common::backend::TrafficState;
use lb_common::vip::{Forward, VipRow};

/// VIPs of every mode, of which each node of a test has some.
pub(in crate::steer) const TEXT: &str = r#"
[kernel]
lookup_rows = 251
[guard]
deny = ["10.0.0.0/8", "2001:db8:bad::/48"]
allow = ["10.1.0.0/16"]
[[vip]]
address = "203.0.113.10:80"
interface = "eth0"
upstream = "a"
forward = "nat"
[[vip]]
address = "203.0.113.10"
interface = "eth0"
forward = "local"
[[vip]]
address = "203.0.113.10:8000-8999"
interface = "eth0"
upstream = "b"
forward = "ipip"
[[vip]]
address = "203.0.113.0/28:443"
interface = "eth0"
protocol = "udp"
upstream = "c"
forward = "gue"
quic = { server_id_bytes = 1 }
[[vip]]
address = "[2001:db8::1]:443"
interface = "eth0"
upstream = "d"
forward = "l2dsr"
[upstream.a]
backends = [{ address = "192.0.2.10:8080" }, { address = "192.0.2.11:8080", weight = 3 }]
[upstream.b]
backends = [{ address = "192.0.2.12:80" }, { address = "192.0.2.13:80", backup = true }]
[upstream.c]
backends = [{ address = "192.0.2.14:443", server_id = "01" }, { address = "192.0.2.15:443", server_id = "02" }]
[upstream.d]
backends = [{ address = "[2001:db8:1::10]:443" }]
"#;

/// Which VIPs there are, what guards them, and how the backends are: 0 is not there, else a state.
#[derive(Clone, Debug)]
pub(in crate::steer) struct Scene {
    vips: Vec<bool>,
    guard: u8,
    backends: Vec<u8>,
    shift: u16,
}

pub(in crate::steer) fn scenes() -> impl Strategy<Value = Scene> {
    let vips = prop::collection::vec(any::<bool>(), 5);
    let backends = prop::collection::vec(0..5u8, 7);
    (vips, 0..4u8, backends, 0..3u16).prop_map(|(vips, guard, backends, shift)| Scene {
        vips,
        guard,
        backends,
        shift,
    })
}

pub(in crate::steer) fn node(scene: &Scene) -> Node {
    let mut node = Node::new(TEXT);
    let chosen = model(TEXT).steering.vips.into_iter().zip(&scene.vips).filter(|(_, is_there)| **is_there);
    node.model.steering.vips = chosen.map(|(vip, _)| vip).collect::<Vec<Vip>>();
    let guard = &mut node.model.steering.guard;
    if scene.guard & 1 == 0 {
        guard.deny.clear();
    }
    if scene.guard & 2 == 0 {
        guard.allow.clear();
    }
    for (backend, state) in node.backends.iter_mut().zip(&scene.backends) {
        backend.state = TrafficState::from_raw(u32::from(*state));
        // Slots go from one backend to another between the scenes.
        backend.slot = 10 + (backend.slot - 10 + scene.shift) % 7;
        backend.instance += 1000 * u64::from(scene.shift);
    }
    let mut states = scene.backends.iter();
    node.backends.retain(|_| states.next() != Some(&0));
    node
}

/// Whatever a packet can find leads somewhere.
fn check_is_safe(contents: &Contents) -> Result<(), TestCaseError> {
    let flags = contents.settings.flags;
    let spans = contents.prefixes.values().flat_map(|spans| spans.spans).filter(|span| span.protocol != 0);
    let found = contents.vips.values().copied().chain(spans.map(|span| u32::from(span.vip)));
    for vip in found {
        let row = contents.vip_rows.get(&vip);
        prop_assert!(row.is_some_and(|row| row.flags & VipRow::PRESENT != 0), "VIP {} has no row", vip);
        let row = row.copied().unwrap_or_default();
        let needed = match Forward::from_raw(row.forward) {
            Forward::Local => 0,
            Forward::Nat => Settings::NAT,
            _ => Settings::DIRECT,
        };
        prop_assert!(flags & needed == needed, "settings do not know the mode of {:?}", row);
        if needed != 0 {
            prop_assert!(contents.tables.contains_key(&row.table), "no table {} for VIP {}", row.table, vip);
        }
    }
    for slot in contents.slots() {
        prop_assert!(contents.hops.contains_key(&slot), "a table leads to slot {slot}, which has no hop");
    }
    for hop in contents.hops.values().filter(|hop| hop.interface != 0) {
        prop_assert!(contents.ports.contains_key(&hop.interface), "nothing may leave by {}", hop.interface);
    }
    let allows = contents.networks.values().any(|guard| *guard == Guard::Allow);
    prop_assert!(flags & Settings::ALLOW_ONLY == 0 || allows, "all are denied");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_step_from_one_configuration_to_the_next_is_safe(scenes in prop::collection::vec(scenes(), 1..5)) {
        let mut applied = Contents::default();
        for (index, scene) in scenes.iter().enumerate() {
            let now_ns = 1_000_000_000 * (100 + 10 * index as u64);
            let desired = node(scene).plan(&applied, now_ns).contents;
            for change in changes(&applied, &desired) {
                applied.apply(change);
                check_is_safe(&applied)?;
            }
            prop_assert_eq!(&applied, &desired);
            prop_assert!(changes(&applied, &desired).is_empty());
        }
    }
}

#[test]
fn an_allow_list_is_there_before_others_are_denied_and_after() {
    let mut open = Node::new(TEXT);
    open.model.steering.guard.deny.clear();
    open.model.steering.guard.allow.clear();
    let mut closed = Node::new(TEXT);
    closed.model.steering.guard.deny.clear();
    let open = open.plan(&Contents::default(), 1).contents;
    let closed = closed.plan(&open, 2).contents;
    let order = |from: &Contents, to: &Contents| -> Vec<bool> {
        changes(from, to).iter().map(|change| matches!(change, Change::SetSettings(_))).collect()
    };
    assert_eq!(order(&open, &closed), [false, true]);
    assert_eq!(order(&closed, &open), [true, false]);
}

#[test]
fn a_list_that_is_shared_is_not_compared() {
    let node = Node::new(TEXT);
    let applied = node.plan(&Contents::default(), 1).contents;
    let mut desired = applied.clone();
    assert!(Arc::ptr_eq(&applied.networks, &desired.networks));
    Arc::make_mut(&mut desired.networks).clear();
    assert_eq!(changes(&applied, &desired).len(), 3);
}
