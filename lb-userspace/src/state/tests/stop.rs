//! Drain before signal before kill; start and drain commands.

use super::desk::{Desk, names, seconds};
use crate::config::model::Model;
use crate::control::protocol::{Answer, Command, FailureKind, ProcessState};
use crate::state::event::{Ending, Event};
use crate::state::simulation::models::{backend, model, program, upstream};
use lb_common::backend::TrafficState;

fn docs() -> Model {
    model(vec![upstream("docs")], vec![program("docs", Some("docs"), 2)])
}

fn stop(now: bool) -> Command {
    Command::Stop { names: names(&["docs:0"]), now }
}

#[test]
fn stop_drains_then_signals_then_kills() {
    let mut desk = Desk::with(docs());
    desk.idle = false;
    desk.obeys = false;
    let request = desk.command(stop(false));
    assert_eq!(desk.took(), ["docs:0 DRAINING", "watch"]);
    assert_eq!(desk.process("docs:0"), ProcessState::Stopping);
    desk.send(Event::Drained { slot: desk.slot("docs:0") });
    assert_eq!(desk.took(), ["docs:0 OUT", "signal 15 docs:0"]);
    desk.wait(seconds(2));
    assert_eq!(desk.took(), ["kill docs:0", "docs:0 given up", format!("done {request}").as_str()]);
    assert_eq!(desk.process("docs:0"), ProcessState::Stopped);
}

#[test]
fn drain_deadline_ends_the_wait() {
    let mut desk = Desk::with(docs());
    desk.idle = false;
    desk.command(stop(false));
    desk.wait(std::time::Duration::from_millis(2_999));
    assert_eq!(desk.took(), ["docs:0 DRAINING", "watch"]);
    desk.wait(seconds(1));
    assert!(desk.took().contains(&"signal 15 docs:0".to_owned()));
}

#[test]
fn stop_now_does_not_drain() {
    let mut desk = Desk::with(docs());
    desk.idle = false;
    desk.command(stop(true));
    assert_eq!(desk.took(), ["docs:0 OUT", "signal 15 docs:0", "docs:0 given up", "done 2"]);
}

#[test]
fn stop_in_back_off_is_done_at_once() {
    let mut desk = Desk::with(docs());
    desk.probes_pass = false;
    desk.exit("docs:0", Ending::Signal(9));
    desk.exit("docs:0", Ending::Signal(9));
    assert_eq!(desk.process("docs:0"), ProcessState::Backoff);
    let request = desk.command(stop(false));
    assert!(matches!(desk.answers[&request], Answer::Done { .. }));
    desk.wait(seconds(100));
    assert_eq!(desk.process("docs:0"), ProcessState::Stopped);
}

#[test]
fn stop_before_the_process_is_there_signals_it_when_it_is() {
    let mut desk = Desk::new();
    desk.spawns = false;
    desk.apply(docs());
    desk.command(stop(false));
    assert!(!desk.took().contains(&"signal 15 docs:0".to_owned()));
    desk.send(Event::Spawned { instance: desk.life("docs:0"), pid: 3, address: None });
    assert!(desk.took().contains(&"signal 15 docs:0".to_owned()));
}

#[test]
fn stopped_instance_stays_stopped_over_a_reload_and_starts_on_command() {
    let mut desk = Desk::with(docs());
    desk.command(stop(false));
    desk.apply(docs());
    assert_eq!(desk.process("docs:0"), ProcessState::Stopped);
    let request = desk.command(Command::Start { names: names(&["docs"]) });
    assert!(
        matches!(&desk.answers[&request], Answer::Done { lines } if lines[1] == "docs:1: already running")
    );
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn start_takes_a_draining_instance_back() {
    let mut desk = Desk::with(docs());
    desk.idle = false;
    let stopped = desk.command(stop(false));
    let life = desk.life("docs:0");
    desk.command(Command::Start { names: names(&["docs:0"]) });
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
    assert_eq!(desk.life("docs:0"), life);
    desk.wait(seconds(300));
    assert!(matches!(desk.answers[&stopped], Answer::Failed { .. }), "the stop has failed");
}

#[test]
fn start_that_fails_is_answered_with_the_reason() {
    let mut desk = Desk::with(docs());
    desk.command(stop(false));
    desk.probes_pass = false;
    let request = desk.command(Command::Start { names: names(&["docs:0"]) });
    desk.exit("docs:0", Ending::Code(2));
    let Answer::Failed { message, .. } = &desk.answers[&request] else { panic!("not failed") };
    assert!(message.starts_with("docs:0: BACKOFF: exit code 2; next start in"), "{message}");
}

#[test]
fn drain_is_answered_when_workers_have_acknowledged_and_lasts_over_restarts() {
    let mut desk = Desk::with(docs());
    desk.acknowledges = false;
    let request = desk.command(Command::Drain { names: names(&["docs:0"]) });
    assert_eq!(desk.traffic("docs:0"), TrafficState::Draining);
    assert!(desk.reason("docs:0").starts_with("drained by "), "{}", desk.reason("docs:0"));
    assert!(!desk.answers.contains_key(&request));
    desk.send(Event::Acknowledged { number: desk.state.published.number });
    assert!(matches!(&desk.answers[&request], Answer::Done { lines } if *lines == ["docs:0: drained"]));
    desk.acknowledges = true;
    desk.exit("docs:0", Ending::Signal(9));
    assert_eq!(desk.process("docs:0"), ProcessState::Running);
    assert_eq!(desk.traffic("docs:0"), TrafficState::Draining);
    desk.command(Command::Undrain { names: names(&["docs"]) });
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn drain_that_workers_do_not_acknowledge_fails() {
    let mut desk = Desk::with(docs());
    desk.acknowledges = false;
    let request = desk.command(Command::Drain { names: Vec::new() });
    desk.wait(seconds(10));
    assert!(
        matches!(&desk.answers[&request], Answer::Failed { message, .. } if message.contains("acknowledged"))
    );
}

#[test]
fn static_backend_can_be_drained_but_not_stopped() {
    let mut fixed = upstream("docs");
    fixed.backends = vec![backend(8080)];
    let mut desk = Desk::with(model(vec![fixed], Vec::new()));
    assert_eq!(desk.traffic("docs/10.0.0.1:8080"), TrafficState::In);
    desk.command(Command::Drain { names: names(&["docs/10.0.0.1:8080"]) });
    assert_eq!(desk.traffic("docs/10.0.0.1:8080"), TrafficState::Draining);
    let request = desk.command(Command::Stop { names: names(&["docs/10.0.0.1:8080"]), now: false });
    let Answer::Failed { kind, message } = &desk.answers[&request] else { panic!("not failed") };
    assert_eq!(*kind, FailureKind::NoSuchName);
    assert!(message.contains("not supervised"));
}

#[test]
fn unknown_name_changes_nothing() {
    let mut desk = Desk::with(docs());
    let request = desk.command(Command::Stop { names: names(&["docs:0", "doks"]), now: false });
    let Answer::Failed { kind, message } = &desk.answers[&request] else { panic!("not failed") };
    assert_eq!((*kind, message.as_str()), (FailureKind::NoSuchName, "doks: no such program or instance"));
    assert_eq!(desk.process("docs:0"), ProcessState::Running);
}
