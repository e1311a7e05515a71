use super::*;
use crate::steer::contents::address_bytes;
use crate::steer::plan::Plan;
use crate::steer::plan::tests::Node;

const NOW: u64 = 1_000_000_000_000;

/// What a test says that the kernel remembers.
#[derive(Default)]
struct Known {
    flows: Vec<(FlowKey, Flow)>,
    nat: Vec<(FlowKey, NatFlow, bool)>,
    kept: Vec<(SourceKey, Kept)>,
}

impl Remembered for Known {
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.iter().find(|(known, _)| known == key).map(|(_, flow)| *flow)
    }

    fn nat(&self, key: &FlowKey) -> Option<(NatFlow, bool)> {
        self.nat.iter().find(|(known, ..)| known == key).map(|(_, flow, half)| (*flow, *half))
    }

    fn kept(&self, key: &SourceKey) -> Option<Kept> {
        self.kept.iter().find(|(known, _)| known == key).map(|(_, kept)| *kept)
    }
}

/// A VIP with three backends on slots 10, 11 and 12, with instance = 100 + slot.
fn node(forward: &str, more: &str) -> Node {
    Node::new(&format!(
        r#"
[kernel]
lookup_rows = 251
[[vip]]
name = "web"
address = "203.0.113.10:80"
interface = "eth0"
upstream = "web"
forward = "{forward}"
{more}
[upstream.web]
backends = [{{ address = "192.0.2.10:80" }}, {{ address = "192.0.2.11:80" }}, {{ address = "192.0.2.12:80" }}]
"#
    ))
}

fn question(port: u16) -> Question {
    Question {
        client: ([198, 51, 100, 7], port).into(),
        vip: ([203, 0, 113, 10], 80).into(),
        transport: Transport::Tcp,
    }
}

fn ask(node: &Node, known: &Known, question: Question) -> FlowReport {
    let plan: Plan = node.plan(&Contents::default(), NOW);
    let rows = |slot: u32| {
        let backend = node.backends.iter().find(|backend| u32::from(backend.slot) == slot);
        backend.map_or_else(BackendRow::default, |backend| BackendRow {
            instance: backend.instance,
            state: backend.state as u32,
            weight: backend.weight,
            ..BackendRow::default()
        })
    };
    let names = |slot: u32| Some((format!("backend {slot}"), String::new()));
    let ground = Ground {
        contents: &plan.contents,
        vips: &plan.vips,
        rows: &rows,
        names: &names,
        remembered: known,
        now_ns: NOW,
    };
    look_up(question, &ground)
}

fn key(question: Question) -> FlowKey {
    FlowKey {
        source: address_bytes(question.client.ip()),
        target: address_bytes(question.vip.ip()),
        source_port: question.client.port().to_be_bytes(),
        target_port: question.vip.port().to_be_bytes(),
        protocol: 6,
        zero: [0; 3],
    }
}

fn slot(report: &FlowReport) -> Option<u32> {
    report.backend.as_ref().map(|backend| backend.slot)
}

#[test]
fn a_new_flow_goes_where_its_row_leads_in_each_mode() {
    for forward in ["nat", "l2dsr", "ipip", "gue"] {
        let node = node(forward, "");
        let mut slots = std::collections::BTreeSet::new();
        for port in 50_000..50_040 {
            let report = ask(&node, &Known::default(), question(port));
            let FlowFound::Row { now: Some(now), .. } = &report.found else { panic!("{report:#?}") };
            assert_eq!(slot(&report), Some(now.slot), "{report:#?}");
            assert_eq!(report.why, "the row of the lookup table leads to it");
            slots.insert(now.slot);
        }
        assert_eq!(slots.len(), 3, "{forward}: each gets some of 40 flows");
    }
}

#[test]
fn a_known_flow_stays_with_a_backend_that_drains_and_leaves_a_dead_one() {
    let mut node = node("ipip", "");
    let question = question(50_001);
    let begun = slot(&ask(&node, &Known::default(), question)).unwrap();
    let other = if begun == 10 { 11 } else { 10 };
    let flow = Flow {
        instance: 100 + u64::from(other),
        slot: other,
        seen_at_ns: NOW - 5_000_000,
        flags: Flow::mark_of(node.plan(&Contents::default(), NOW).contents.vip_rows[&0].identity),
        ..Flow::default()
    };
    let known = Known { flows: vec![(key(question), flow)], ..Known::default() };
    let report = ask(&node, &known, question);
    assert_eq!((slot(&report), report.why.as_str()), (Some(other), "the flow is known"));
    assert_eq!(report.found, FlowFound::Known { idle_ms: 5, flags: Vec::new() });
    for (state, expect) in [(TrafficState::Draining, true), (TrafficState::Out, false)] {
        node.backends.iter_mut().filter(|it| u32::from(it.slot) == other).for_each(|it| it.state = state);
        let report = ask(&node, &known, question);
        assert_eq!(slot(&report) == Some(other), expect, "{report:#?}");
        assert!(report.why.contains(if expect { "drains" } else { "has died" }), "{report:#?}");
    }
}

#[test]
fn a_translated_flow_tells_what_it_becomes() {
    let node = node("nat", "");
    let question = question(50_002);
    let nat = NatFlow {
        source: address_bytes("192.0.2.1".parse().unwrap()),
        target: address_bytes("192.0.2.12".parse().unwrap()),
        source_port: 40_001_u16.to_be_bytes(),
        target_port: 80_u16.to_be_bytes(),
        instance: 112,
        slot: 12,
        seen_at_ns: NOW,
        flags: NatFlow::ANSWERED,
        ..NatFlow::default()
    };
    let known = Known { nat: vec![(key(question), nat, false)], ..Known::default() };
    let report = ask(&node, &known, question);
    assert_eq!((slot(&report), report.why.as_str()), (Some(12), "the flow is known"), "{report:#?}");
    let FlowFound::Translated { source, target, flags, .. } = report.found else { panic!() };
    assert_eq!(
        (source.to_string().as_str(), target.to_string().as_str()),
        ("192.0.2.1:40001", "192.0.2.12:80")
    );
    assert_eq!(flags, ["answered"]);
}

#[test]
fn who_gets_nothing_is_told_why() {
    let denied = node("ipip", "").model.steering.guard.deny.len();
    assert_eq!(denied, 0);
    let mut node = node("ipip", "");
    node.model.steering.guard.deny = vec!["198.51.100.0/24".parse().unwrap()];
    let report = ask(&node, &Known::default(), question(50_003));
    assert_eq!(report.why, "dropped: the source is in the deny list, or not in the allow list");
    assert_eq!(slot(&report), None);
    node.model.steering.guard.deny.clear();
    node.backends.iter_mut().for_each(|it| it.state = TrafficState::Out);
    let report = ask(&node, &Known::default(), question(50_003));
    assert_eq!(report.why, "dropped: no backend of the VIP may get new flows");
    let elsewhere = Question { vip: ([203, 0, 113, 10], 81).into(), ..question(50_003) };
    let report = ask(&node, &Known::default(), elsewhere);
    assert_eq!((report.vip_name.as_ref(), &report.found), (None, &FlowFound::Nothing));
    assert!(report.why.starts_with("no VIP"), "{report:#?}");
    let mixed = Question { client: "[2001:db8::7]:5".parse().unwrap(), ..question(1) };
    assert!(ask(&node, &Known::default(), mixed).why.contains("family"));
}

#[test]
fn a_client_with_persistence_keeps_its_backend() {
    let node = node("ipip", "persistence = \"client\"");
    let question = question(50_004);
    let by_row = slot(&ask(&node, &Known::default(), question)).unwrap();
    let other = if by_row == 10 { 11 } else { 10 };
    let source = SourceKey { address: key(question).source, vip: 0 };
    let kept = Kept { instance: 100 + u64::from(other), seen_at_ns: NOW, slot: other, zero: 0 };
    let known = Known { kept: vec![(source, kept)], ..Known::default() };
    let report = ask(&node, &known, question);
    assert_eq!(
        (slot(&report), report.why.as_str()),
        (Some(other), "the client's address keeps this backend")
    );
}
