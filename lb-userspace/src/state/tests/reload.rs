//! Another configuration: what changes, what stays, when it is answered.

use super::desk::{Desk, seconds};
use crate::config::model::{Model, Program, Upstream};
use crate::control::protocol::{Answer, ProcessState};
use crate::state::event::Event;
use crate::state::simulation::models::{backend, model, probe, program, upstream};
use lb_common::backend::TrafficState;

fn docs(instances: u32, change: impl FnOnce(&mut Program)) -> Model {
    let mut docs = program("docs", Some("docs"), instances);
    change(&mut docs);
    model(vec![upstream("docs")], vec![docs])
}

fn lines(desk: &Desk, request: u64) -> Vec<String> {
    match &desk.answers[&request] {
        Answer::Done { lines } => lines.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unchanged_program_keeps_its_process() {
    let mut desk = Desk::with(docs(2, |_| {}));
    let request = desk.apply(docs(2, |_| {}));
    assert_eq!(desk.took(), ["listen", "publish", format!("done {request}").as_str()]);
    assert_eq!(lines(&desk, request), ["program docs: unchanged"]);
}

#[test]
fn reload_is_answered_when_every_worker_serves_it() {
    let mut desk = Desk::with(docs(1, |_| {}));
    desk.acknowledges = false;
    let request = desk.apply(docs(1, |_| {}));
    let number = desk.state.published.number;
    desk.send(Event::Acknowledged { number: number - 1 });
    assert!(!desk.answers.contains_key(&request));
    desk.send(Event::Acknowledged { number });
    assert!(desk.answers.contains_key(&request));
}

#[test]
fn weight_and_probes_change_without_a_restart() {
    let mut desk = Desk::with(docs(1, |_| {}));
    let life = desk.life("docs:0");
    let mut other = docs(1, |docs| {
        docs.weight = 7;
        docs.liveness = Some(probe(9, 1, 1));
        docs.stop.drain_timeout = seconds(99);
    });
    other.upstreams.get_mut("docs").unwrap().probe = Some(probe(3, 1, 1));
    let request = desk.apply(other);
    assert_eq!(desk.life("docs:0"), life);
    assert_eq!(desk.row(desk.slot("docs:0")), (life, TrafficState::In, 7));
    assert_eq!(
        lines(&desk, request),
        ["upstream docs: settings changed", "program docs: settings changed, processes kept"]
    );
}

#[test]
fn new_readiness_probe_does_not_take_out_what_serves() {
    let bare = || Upstream { probe: None, ..upstream("docs") };
    let mut desk = Desk::with(model(vec![bare()], vec![program("docs", Some("docs"), 1)]));
    desk.probes_pass = false;
    desk.apply(docs(1, |_| {}));
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn changed_command_replaces_instances_one_by_one() {
    let mut desk = Desk::with(docs(2, |_| {}));
    desk.probes_pass = false;
    let request = desk.apply(docs(2, |docs| docs.command = vec!["/bin/new".to_owned()]));
    assert_eq!(lines(&desk, request), ["program docs: changed: replaced one instance after the other"]);
    assert_eq!(desk.process("docs:0"), ProcessState::Starting);
    assert_eq!(desk.traffic("docs:1"), TrafficState::In);
    let old = desk.life("docs:1");
    desk.probes_pass = true;
    desk.probe("docs:0", crate::state::event::ProbeRole::Readiness, true);
    assert!(desk.life("docs:1") > old);
    assert_eq!(desk.traffic("docs:1"), TrafficState::In);
}

#[test]
fn change_that_is_taken_back_in_time_replaces_nothing_more() {
    let mut desk = Desk::with(docs(2, |_| {}));
    desk.probes_pass = false;
    desk.apply(docs(2, |docs| docs.command = vec!["/bin/new".to_owned()]));
    let life = desk.life("docs:1");
    desk.probes_pass = true;
    desk.apply(docs(2, |_| {}));
    desk.wait(seconds(100));
    assert_eq!(desk.life("docs:1"), life);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn scaling_down_drains_stops_and_forgets_the_highest() {
    let mut desk = Desk::with(docs(3, |_| {}));
    desk.acknowledges = false;
    desk.apply(docs(2, |_| {}));
    assert_eq!(
        desk.took(),
        [
            "listen",
            "free DRAINING",
            "watch",
            "publish",
            "free OUT",
            "signal 15 old",
            "free given up",
            "forget",
            "publish"
        ]
    );
    assert!(desk.state.slots.in_use() == 3, "its row is not free before workers have forgotten it");
    desk.send(Event::Acknowledged { number: desk.state.published.number });
    assert_eq!(desk.state.slots.in_use(), 2);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn scaling_up_starts_more_and_touches_nobody() {
    let mut desk = Desk::with(docs(1, |_| {}));
    let life = desk.life("docs:0");
    let request = desk.apply(docs(2, |_| {}));
    assert_eq!(lines(&desk, request), ["program docs: instances 1 → 2"]);
    assert_eq!(desk.traffic("docs:1"), TrafficState::In);
    assert_eq!(desk.life("docs:0"), life);
}

#[test]
fn other_upstream_moves_the_backend_without_a_restart() {
    let both = || vec![upstream("docs"), upstream("more")];
    let mut desk = Desk::with(model(both(), vec![program("docs", Some("docs"), 1)]));
    let life = desk.life("docs:0");
    desk.apply(model(both(), vec![program("docs", Some("more"), 1)]));
    let served = desk.state.published.upstreams.iter().find(|each| each.name == "more").unwrap();
    assert_eq!(served.backends.len(), 1);
    assert_eq!(desk.life("docs:0"), life);
}

#[test]
fn removed_static_backend_is_free_when_drained_and_acknowledged() {
    let fixed = |ports: &[u16]| {
        let backends = ports.iter().map(|&port| backend(port)).collect();
        model(vec![Upstream { backends, ..upstream("docs") }], Vec::new())
    };
    let mut desk = Desk::with(fixed(&[1, 2]));
    desk.idle = false;
    let slot = desk.slot("docs/10.0.0.1:2");
    let request = desk.apply(fixed(&[1]));
    assert_eq!(lines(&desk, request), ["upstream docs: backend removed 10.0.0.1:2"]);
    assert_eq!(desk.row(slot).1, TrafficState::Draining);
    desk.send(Event::Drained { slot });
    assert_eq!(desk.row(slot).0.0, 0);
    assert_eq!(desk.state.slots.in_use(), 1);
}

#[test]
fn program_that_comes_back_while_it_leaves_stays() {
    let mut desk = Desk::with(docs(2, |_| {}));
    desk.idle = false;
    let life = desk.life("docs:1");
    desk.apply(docs(1, |_| {}));
    assert_eq!(desk.traffic("docs:1"), TrafficState::Draining);
    desk.apply(docs(2, |_| {}));
    assert_eq!(desk.traffic("docs:1"), TrafficState::In);
    assert_eq!(desk.life("docs:1"), life);
}

#[test]
fn program_without_autostart_waits_for_an_operator() {
    let desk = Desk::with(docs(1, |docs| docs.autostart = false));
    assert_eq!(desk.process("docs:0"), ProcessState::Stopped);
    assert_eq!(desk.reason("docs:0"), "not started");
}

#[test]
fn loop_is_woken_for_the_earliest_deadline_and_told_once() {
    let mut desk = Desk::with(docs(1, |_| {}));
    desk.idle = false;
    desk.command(crate::control::protocol::Command::Stop { names: Vec::new(), now: false });
    let wakes = |desk: &mut Desk| -> Vec<_> {
        let effects = std::mem::take(&mut desk.effects);
        effects
            .into_iter()
            .filter_map(|effect| match effect {
                crate::state::event::Effect::Wake { at } => Some(at),
                _ => None,
            })
            .collect()
    };
    let drained_by = desk.now + seconds(3);
    assert_eq!(wakes(&mut desk), [drained_by]);
    desk.send(Event::Acknowledged { number: 1 });
    assert_eq!(wakes(&mut desk), []);
    desk.send(Event::Tick);
    assert_eq!(wakes(&mut desk), [drained_by], "a timer that fired too early is set again");
}
