//! Rolling restarts, liveness, and the budget that both keep.

use super::desk::{Desk, names, seconds};
use crate::config::model::{Model, Upstream};
use crate::control::protocol::{Answer, Command, ProcessState};
use crate::state::event::{Ending, Event, ProbeRole};
use crate::state::simulation::models::{backend, model, probe, program, upstream};
use lb_common::backend::TrafficState;

fn docs(instances: u32) -> Model {
    let mut docs = program("docs", Some("docs"), instances);
    docs.liveness = Some(probe(5, 2, 1));
    model(vec![upstream("docs")], vec![docs])
}

fn restart(name: &str) -> Command {
    Command::Restart { names: names(&[name]), now: false }
}

#[test]
fn restart_takes_one_instance_after_the_other() {
    let mut desk = Desk::with(docs(3));
    let request = desk.command(restart("docs"));
    let one = |name: &str| {
        ["DRAINING", "watch", "OUT", "signal", "OUT", "spawn", "IN"].map(|what| match what {
            "watch" => what.to_owned(),
            "signal" => "signal 15 old".to_owned(),
            "spawn" => format!("spawn {name}"),
            state => format!("{name} {state}"),
        })
    };
    let mut expect: Vec<String> = ["docs:0", "docs:1", "docs:2"].into_iter().flat_map(one).collect();
    expect.push(format!("done {request}"));
    // The row of the next one is written in the step that brings the one before back IN.
    let took: Vec<String> = desk.took().into_iter().filter(|each| each != "publish").collect();
    assert_eq!(took, expect);
}

#[test]
fn single_instance_is_restarted_in_place() {
    let mut desk = Desk::with(docs(1));
    let before = desk.life("docs:0");
    let request = desk.command(restart("docs"));
    assert!(matches!(desk.answers[&request], Answer::Done { .. }));
    assert!(desk.life("docs:0") > before);
    assert_eq!(desk.status("docs:0").restarts, 0, "an operator asked");
}

#[test]
fn old_instances_stay_when_the_new_one_does_not_start() {
    let mut desk = Desk::with(docs(3));
    desk.probes_pass = false;
    let request = desk.command(restart("docs"));
    assert_eq!(desk.process("docs:0"), ProcessState::Starting);
    desk.exit("docs:0", Ending::Code(1));
    assert!(
        matches!(&desk.answers[&request], Answer::Failed { message, .. } if message.starts_with("docs:0: BACKOFF"))
    );
    desk.wait(seconds(600));
    assert_eq!(desk.traffic("docs:1"), TrafficState::In);
    assert_eq!(desk.traffic("docs:2"), TrafficState::In);
}

#[test]
fn restart_below_the_minimum_is_refused() {
    let upstream = Upstream { backends: vec![backend(80)], ..upstream("docs") };
    let mut desk = Desk::with(model(vec![upstream], vec![program("docs", Some("docs"), 1)]));
    for _ in 0..2 {
        desk.probe_static("docs/10.0.0.1:80", false);
    }
    let request = desk.command(restart("docs"));
    let Answer::Failed { message, .. } = &desk.answers[&request] else { panic!("not failed") };
    assert_eq!(message, "docs:0: upstream docs would have 0 backends IN, fewer than its min_in of 1");
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
    let now = desk.command(Command::Restart { names: names(&["docs"]), now: true });
    assert!(matches!(desk.answers[&now], Answer::Done { .. }), "--now asks nobody");
}

#[test]
fn everybody_who_asked_for_a_restart_that_is_refused_is_told() {
    let mut docs = docs(2);
    docs.programs.get_mut("docs").unwrap().start_retries = 1;
    let mut desk = Desk::with(docs);
    desk.probes_pass = false;
    desk.command(restart("docs:0"));
    let (first, second) = (desk.command(restart("docs:1")), desk.command(restart("docs:1")));
    assert!(
        !desk.answers.contains_key(&first) && !desk.answers.contains_key(&second),
        "both wait for docs:0"
    );
    desk.exit("docs:0", Ending::Code(1));
    desk.wait(seconds(5));
    desk.exit("docs:0", Ending::Code(1));
    assert_eq!(desk.process("docs:0"), ProcessState::Fatal);
    for request in [first, second] {
        assert!(
            matches!(&desk.answers[&request], Answer::Failed { message, .. } if message.contains("min_in"))
        );
    }
}

#[test]
fn refused_restart_takes_nothing_from_a_failed_liveness() {
    let upstream = Upstream { backends: vec![backend(80)], probe: Some(probe(9, 2, 1)), ..upstream("docs") };
    let mut docs = program("docs", Some("docs"), 1);
    docs.liveness = Some(probe(5, 2, 1));
    let mut desk = Desk::with(model(vec![upstream], vec![docs]));
    for _ in 0..2 {
        desk.probe_static("docs/10.0.0.1:80", false);
        desk.probe("docs:0", ProbeRole::Liveness, false);
    }
    let before = desk.life("docs:0");
    let request = desk.command(restart("docs"));
    assert!(matches!(desk.answers[&request], Answer::Failed { .. }));
    assert_eq!(desk.life("docs:0"), before, "nobody else is IN");
    desk.probe_static("docs/10.0.0.1:80", true);
    assert!(desk.life("docs:0") > before, "the frozen one stays");
}

#[test]
fn restart_starts_what_was_stopped() {
    let mut desk = Desk::with(docs(2));
    desk.command(Command::Stop { names: names(&["docs:1"]), now: false });
    let request = desk.command(restart("docs"));
    assert!(matches!(desk.answers[&request], Answer::Done { .. }));
    assert_eq!(desk.traffic("docs:1"), TrafficState::In);
}

#[test]
fn frozen_instance_is_drained_for_two_seconds_told_and_killed() {
    let mut desk = Desk::with(docs(2));
    (desk.idle, desk.obeys) = (false, false);
    desk.probe("docs:0", ProbeRole::Liveness, false);
    assert_eq!(desk.took(), Vec::<String>::new());
    desk.probe("docs:0", ProbeRole::Liveness, false);
    assert_eq!(desk.took(), ["docs:0 DRAINING", "watch"]);
    desk.wait(seconds(2));
    assert_eq!(desk.took(), ["docs:0 OUT", "signal 15 docs:0"]);
    assert!(desk.reason("docs:0").starts_with("liveness probe: no answer; failed 2 times"));
    desk.wait(seconds(2));
    assert_eq!(desk.took(), ["kill old", "docs:0 OUT", "spawn docs:0", "docs:0 IN"]);
    assert_eq!(desk.status("docs:0").restarts, 1);
}

#[test]
fn liveness_waits_for_the_budget_and_forgives_who_recovers() {
    let mut desk = Desk::with(docs(2));
    desk.probes_pass = false;
    let fail = |desk: &mut Desk, name: &str| {
        for _ in 0..2 {
            desk.probe(name, ProbeRole::Liveness, false);
        }
    };
    fail(&mut desk, "docs:0");
    assert_eq!(desk.process("docs:0"), ProcessState::Starting);
    fail(&mut desk, "docs:1");
    assert_eq!(desk.traffic("docs:1"), TrafficState::In, "the last one that is IN");
    desk.probe("docs:1", ProbeRole::Liveness, true);
    let life = desk.life("docs:1");
    desk.probe("docs:0", ProbeRole::Readiness, true);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
    assert_eq!(desk.life("docs:1"), life, "it lives again");
    fail(&mut desk, "docs:1");
    assert!(desk.life("docs:1") > life);
}

#[test]
fn old_version_leaves_only_when_the_new_one_is_in() {
    let mut desk = Desk::with(model(vec![upstream("docs")], vec![program("blue", Some("docs"), 1)]));
    desk.probes_pass = false;
    desk.apply(model(vec![upstream("docs")], vec![program("green", Some("docs"), 1)]));
    desk.exit("green:0", Ending::Code(1));
    desk.wait(seconds(30));
    assert_eq!(desk.traffic("blue:0"), TrafficState::In);
    assert_eq!(desk.process("green:0"), ProcessState::Starting);
    desk.took();
    desk.probe("green:0", ProbeRole::Readiness, true);
    assert_eq!(desk.traffic("green:0"), TrafficState::In);
    assert!(desk.took().contains(&"forget".to_owned()));
    assert!(desk.state.instances.values().all(|each| each.name.program == "green"));
}

#[test]
fn crash_of_the_old_version_does_not_make_it_stay() {
    let mut desk = Desk::with(model(vec![upstream("docs")], vec![program("blue", Some("docs"), 1)]));
    desk.probes_pass = false;
    desk.apply(model(vec![upstream("docs")], vec![program("green", Some("docs"), 1)]));
    desk.probes_pass = true;
    desk.exit("blue:0", Ending::Signal(9));
    assert_eq!(desk.traffic("blue:0"), TrafficState::In, "it serves while there is nobody else");
    desk.probe("green:0", ProbeRole::Readiness, true);
    assert!(desk.state.instances.values().all(|each| each.name.program == "green"));
}

#[test]
fn stale_event_of_an_old_life_is_ignored() {
    let mut desk = Desk::with(docs(1));
    let old = desk.life("docs:0");
    desk.exit("docs:0", Ending::Signal(9));
    desk.took();
    desk.send(Event::Exited { instance: old, ending: Ending::Code(1), last_line: None });
    desk.send(Event::ListenClosed(old));
    desk.send(Event::Probed { instance: old, role: ProbeRole::Readiness, result: Err("late".to_owned()) });
    assert_eq!(desk.took(), Vec::<String>::new());
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}
