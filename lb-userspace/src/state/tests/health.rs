//! Readiness, listening sockets, passive ejection.

use super::desk::{Desk, names, seconds};
use crate::config::model::{Model, Upstream};
use crate::control::protocol::{Command, ProcessState};
use crate::reason::Reason;
use crate::state::event::{Event, ProbeRole};
use crate::state::simulation::models::{backend, model, probe, program, upstream};
use lb_common::backend::TrafficState;

fn docs() -> Model {
    let mut docs = program("docs", Some("docs"), 2);
    docs.liveness = Some(probe(5, 3, 1));
    model(vec![upstream("docs")], vec![docs])
}

fn fixed(change: impl FnOnce(&mut Upstream)) -> Model {
    let mut fixed = Upstream { backends: vec![backend(1), backend(2), backend(3)], ..upstream("docs") };
    change(&mut fixed);
    model(vec![fixed], Vec::new())
}

fn fail(desk: &mut Desk, name: &str, reason: Reason) {
    let slot = desk.slot(name);
    let instance = desk.row(slot).0;
    desk.send(Event::BackendFailed { slot, instance, reason });
}

#[test]
fn readiness_takes_out_after_the_stated_count_and_keeps_the_process() {
    let mut desk = Desk::with(docs());
    let life = desk.life("docs:0");
    desk.probe("docs:0", ProbeRole::Readiness, false);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
    desk.probe("docs:0", ProbeRole::Readiness, false);
    assert_eq!(desk.traffic("docs:0"), TrafficState::Out);
    assert_eq!(desk.reason("docs:0"), "readiness probe: no answer; failed 2 times in a row");
    assert_eq!(desk.process("docs:0"), ProcessState::Running);
    desk.probe("docs:0", ProbeRole::Readiness, true);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
    assert_eq!(desk.life("docs:0"), life);
}

#[test]
fn closed_listener_is_out_until_readiness_passes_again() {
    let mut desk = Desk::with(docs());
    let life = desk.life("docs:0");
    desk.send(Event::ListenClosed(life));
    assert_eq!(desk.took(), ["docs:0 OUT"]);
    assert_eq!(desk.reason("docs:0"), "listener closed");
    desk.send(Event::ListenOpened(life));
    assert_eq!(desk.took(), ["ask Readiness docs:0"]);
    assert_eq!(desk.traffic("docs:0"), TrafficState::Out);
    desk.probe("docs:0", ProbeRole::Readiness, true);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn listening_is_enough_where_readiness_is_not_probed() {
    let bare = Upstream { probe: None, ..upstream("docs") };
    let mut desk = Desk::with(model(vec![bare], vec![program("docs", Some("docs"), 1)]));
    let life = desk.life("docs:0");
    desk.send(Event::ListenClosed(life));
    assert_eq!(desk.traffic("docs:0"), TrafficState::Out);
    desk.send(Event::ListenOpened(life));
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn beginning_to_listen_asks_the_startup_probe_at_once() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(docs());
    desk.took();
    desk.send(Event::ListenOpened(desk.life("docs:1")));
    assert_eq!(desk.took(), ["ask Readiness docs:1"]);
}

#[test]
fn static_backend_is_in_at_once_or_when_its_probe_passes() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(fixed(|docs| docs.probe = None));
    assert_eq!(desk.traffic("docs/10.0.0.1:1"), TrafficState::In);
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(fixed(|_| {}));
    assert_eq!(desk.traffic("docs/10.0.0.1:1"), TrafficState::Out);
    desk.probe_static("docs/10.0.0.1:1", true);
    assert_eq!(desk.traffic("docs/10.0.0.1:1"), TrafficState::In);
}

#[test]
fn failures_eject_for_a_while_and_then_it_is_on_trial() {
    let mut desk = Desk::with(fixed(|_| {}));
    let name = "docs/10.0.0.1:1";
    fail(&mut desk, name, Reason::ConnectRefused);
    assert_eq!(desk.traffic(name), TrafficState::In);
    fail(&mut desk, name, Reason::ResponseTimeout);
    assert_eq!(desk.traffic(name), TrafficState::Out);
    desk.probe_static(name, true);
    assert_eq!(desk.traffic(name), TrafficState::Out, "a probe does not end it early");
    desk.wait(seconds(30));
    assert_eq!(desk.traffic(name), TrafficState::In);
    fail(&mut desk, name, Reason::ConnectReset);
    assert_eq!(desk.traffic(name), TrafficState::Out, "one failure is enough on trial");
}

#[test]
fn faults_of_others_do_not_eject() {
    let mut desk = Desk::with(fixed(|_| {}));
    for reason in [Reason::StaleConnection, Reason::ClientAborted, Reason::BodyTooLarge, Reason::NoBackend] {
        for _ in 0..9 {
            fail(&mut desk, "docs/10.0.0.1:1", reason);
        }
    }
    assert_eq!(desk.traffic("docs/10.0.0.1:1"), TrafficState::In);
}

#[test]
fn no_more_than_the_share_is_ejected_and_never_the_last() {
    let check = |share, expect| {
        let mut desk = Desk::with(fixed(|docs| docs.passive.max_ejected = share));
        let names = ["docs/10.0.0.1:1", "docs/10.0.0.1:2", "docs/10.0.0.1:3"];
        for name in names {
            fail(&mut desk, name, Reason::ConnectRefused);
            fail(&mut desk, name, Reason::ConnectRefused);
        }
        let out = names.iter().filter(|name| desk.traffic(name) == TrafficState::Out).count();
        assert_eq!(out, expect, "{share}");
    };
    check(0.0, 1);
    check(0.5, 1);
    check(0.7, 2);
    check(1.0, 2);
}

#[test]
fn last_one_in_is_not_ejected_when_the_others_are_out() {
    let mut desk = Desk::with(fixed(|_| {}));
    desk.command(Command::Drain { names: names(&["docs/10.0.0.1:2", "docs/10.0.0.1:3"]) });
    for _ in 0..5 {
        fail(&mut desk, "docs/10.0.0.1:1", Reason::ConnectRefused);
    }
    assert_eq!(desk.traffic("docs/10.0.0.1:1"), TrafficState::In);
}

#[test]
fn ejected_one_that_answers_probes_comes_back_when_nobody_else_is_in() {
    let mut desk = Desk::with(fixed(|_| {}));
    let name = "docs/10.0.0.1:1";
    fail(&mut desk, name, Reason::ConnectRefused);
    fail(&mut desk, name, Reason::ConnectRefused);
    desk.command(Command::Drain { names: names(&["docs/10.0.0.1:2", "docs/10.0.0.1:3"]) });
    assert_eq!(desk.traffic(name), TrafficState::Out);
    desk.probe_static(name, true);
    assert_eq!(desk.traffic(name), TrafficState::In);
}

#[test]
fn ejected_instance_is_asked_at_once_whether_it_lives() {
    let mut desk = Desk::with(docs());
    fail(&mut desk, "docs:0", Reason::ResponseTimeout);
    fail(&mut desk, "docs:0", Reason::ResponseTimeout);
    assert_eq!(desk.took(), ["docs:0 OUT", "ask Liveness docs:0"]);
}

#[test]
fn backend_that_comes_back_gets_its_share_step_by_step() {
    let mut desk = Desk::with(fixed(|docs| {
        docs.slow_start = seconds(18);
        docs.backends[0].weight = 3;
    }));
    let name = "docs/10.0.0.1:1";
    let row = |desk: &Desk| (desk.row(desk.slot(name)).1, desk.row(desk.slot(name)).2);
    desk.wait(seconds(20));
    assert_eq!(row(&desk), (TrafficState::In, 30));
    desk.probe_static(name, false);
    desk.probe_static(name, false);
    assert_eq!(row(&desk).0, TrafficState::Out);
    desk.probe_static(name, true);
    for step in 1..10 {
        assert_eq!(row(&desk), (TrafficState::Warming, 3 * step));
        desk.wait(seconds(2));
    }
    assert_eq!(row(&desk), (TrafficState::In, 30));
    desk.command(Command::Drain { names: names(&[name]) });
    desk.command(Command::Undrain { names: names(&[name]) });
    assert_eq!(row(&desk), (TrafficState::In, 30), "it was there all the time");

    desk.probe_static(name, false);
    desk.probe_static(name, false);
    desk.probe_static(name, true);
    desk.apply(fixed(|docs| docs.backends[0].weight = 3));
    assert_eq!(row(&desk), (TrafficState::In, 3), "slow start is no more");
}

#[test]
fn instance_warms_up_in_each_life() {
    let mut model = docs();
    model.upstreams.values_mut().for_each(|upstream| upstream.slow_start = seconds(9));
    let mut desk = Desk::with(model);
    desk.wait(seconds(9));
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
    desk.exit("docs:0", crate::state::event::Ending::Signal(9));
    assert_eq!(desk.traffic("docs:0"), TrafficState::Warming);
    desk.wait(seconds(9));
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn failure_of_an_earlier_life_does_not_count() {
    let mut desk = Desk::with(docs());
    let slot = desk.slot("docs:0");
    let old = desk.row(slot).0;
    desk.exit("docs:0", crate::state::event::Ending::Signal(9));
    for _ in 0..5 {
        desk.send(Event::BackendFailed { slot, instance: old, reason: Reason::ConnectRefused });
    }
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}
