//! Start, proof of start, crash, back-off, dependencies.

use std::time::Duration;

use super::desk::{Desk, seconds};
use crate::config::model::{
    AutoRestart, Dependency, DependencyCondition, ProbeKind, Program, Startup, Upstream,
};
use crate::control::protocol::ProcessState;
use crate::state::event::{Effect, Ending, Event, ProbeRole};
use crate::state::simulation::models::{model, outside, program, upstream};
use lb_common::backend::TrafficState;
use lb_common::limits::BACKENDS_MAX;

fn startup() -> Startup {
    Startup { kind: ProbeKind::Tcp, every: Duration::from_millis(250), within: seconds(10) }
}

fn docs(change: impl FnOnce(&mut Program)) -> crate::config::model::Model {
    let mut docs = program("docs", Some("docs"), 1);
    change(&mut docs);
    model(vec![upstream("docs")], vec![docs])
}

fn job(change: impl FnOnce(&mut Program)) -> crate::config::model::Model {
    let mut job = program("job", None, 1);
    job.address = None;
    change(&mut job);
    model(Vec::new(), vec![job])
}

#[test]
fn instance_is_in_only_after_startup_and_readiness_passed() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(docs(|docs| docs.startup = Some(startup())));
    assert_eq!(desk.took(), ["listen", "docs:0 OUT", "spawn docs:0", "publish", "publish", "done 1"]);
    assert_eq!(desk.process("docs:0"), ProcessState::Starting);
    desk.probe("docs:0", ProbeRole::Startup, true);
    assert_eq!(desk.process("docs:0"), ProcessState::Running);
    assert_eq!(desk.traffic("docs:0"), TrafficState::Out);
    desk.probe("docs:0", ProbeRole::Readiness, true);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn startup_probe_comes_fast_at_first() {
    let mut desk = Desk::new();
    desk.apply(docs(|docs| docs.startup = Some(startup())));
    let first = desk.effects.iter().find_map(|effect| match effect {
        Effect::StartProbe { role: ProbeRole::Startup, first_ms, every_ms, .. } => {
            Some((*first_ms, *every_ms))
        }
        _ => None,
    });
    assert_eq!(first, Some((5, 250)));
}

#[test]
fn readiness_proves_the_start_where_no_startup_is_configured() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(docs(|_| {}));
    assert_eq!(desk.process("docs:0"), ProcessState::Starting);
    desk.wait(seconds(61));
    assert_eq!(desk.process("docs:0"), ProcessState::Running, "it is not killed for not being ready");
    assert_eq!(desk.traffic("docs:0"), TrafficState::Out);
    assert!(desk.reason("docs:0").starts_with("not ready within 60 s"));
    desk.probe("docs:0", ProbeRole::Readiness, true);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn connection_proves_the_start_where_nothing_is_configured() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    let bare = Upstream { probe: None, ..upstream("docs") };
    desk.apply(model(vec![bare], vec![program("docs", Some("docs"), 1)]));
    desk.probe("docs:0", ProbeRole::Startup, true);
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn process_that_listens_nowhere_has_started_after_a_second() {
    let mut desk = Desk::new();
    desk.apply(job(|_| {}));
    desk.wait(Duration::from_millis(999));
    assert_eq!(desk.process("job:0"), ProcessState::Starting);
    desk.wait(Duration::from_millis(1));
    assert_eq!(desk.process("job:0"), ProcessState::Running);
}

#[test]
fn startup_over_its_time_ends_in_back_off() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.obeys = false;
    desk.apply(docs(|docs| docs.startup = Some(startup())));
    desk.probe("docs:0", ProbeRole::Startup, false);
    desk.took();
    desk.wait(seconds(10));
    assert_eq!(desk.took(), ["signal 15 docs:0"]);
    desk.wait(seconds(2));
    assert_eq!(desk.took(), ["kill docs:0"]);
    assert_eq!(desk.process("docs:0"), ProcessState::Backoff);
    assert!(desk.reason("docs:0").starts_with("startup probe: no answer"), "{}", desk.reason("docs:0"));
}

#[test]
fn instance_that_served_well_is_spawned_again_at_once() {
    let mut desk = Desk::with(docs(|_| {}));
    let before = desk.life("docs:0");
    desk.exit("docs:0", Ending::Signal(9));
    let took = desk.took();
    assert_eq!(took, ["docs:0 OUT", "docs:0 OUT", "spawn docs:0", "docs:0 IN"]);
    assert!(desk.life("docs:0") > before);
    assert_eq!(desk.status("docs:0").restarts, 1);
    assert_eq!(desk.status("docs:0").ending, Some(Ending::Signal(9)));
    assert_eq!(desk.status("docs:0").last_line.as_deref(), Some("panic: oh"));
}

#[test]
fn address_is_kept_over_lives_and_nothing_published() {
    let mut desk = Desk::with(docs(|_| {}));
    let address = desk.status("docs:0").address;
    desk.exit("docs:0", Ending::Signal(9));
    assert_eq!(desk.status("docs:0").address, address);
    assert!(!desk.took().contains(&"publish".to_owned()));
}

#[test]
fn other_address_is_in_only_when_every_worker_knows_it() {
    let mut desk = Desk::with(docs(|_| {}));
    desk.spawns = false;
    desk.acknowledges = false;
    desk.exit("docs:0", Ending::Signal(9));
    let other = crate::config::model::Address::Unix("/run/other".into());
    desk.send(Event::Spawned { instance: desk.life("docs:0"), pid: 5, address: Some(other) });
    assert_eq!(desk.process("docs:0"), ProcessState::Running);
    assert_eq!(desk.traffic("docs:0"), TrafficState::Out);
    let number = desk.state.published.number;
    desk.send(Event::Acknowledged { number });
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn failed_starts_back_off_doubling_until_they_are_too_many() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(docs(|docs| docs.start_retries = 3));
    for step in [1.0, 2.0, 4.0] {
        desk.exit("docs:0", Ending::Code(1));
        assert_eq!(desk.process("docs:0"), ProcessState::Backoff);
        desk.wait(Duration::from_secs_f64(step * 0.89));
        assert_eq!(desk.process("docs:0"), ProcessState::Backoff);
        desk.wait(Duration::from_secs_f64(step * 0.22));
        assert_eq!(desk.process("docs:0"), ProcessState::Starting);
    }
    desk.exit("docs:0", Ending::Code(1));
    assert_eq!(desk.process("docs:0"), ProcessState::Fatal);
    assert_eq!(desk.reason("docs:0"), "exit code 1; 4 starts failed");
}

#[test]
fn nobody_waits_for_an_instance_that_rests() {
    let mut desk = Desk::new();
    desk.probes_pass = false;
    desk.apply(docs(|docs| docs.start_retries = 1));
    let weight = |desk: &Desk| desk.row(desk.slot("docs:0")).2;
    desk.exit("docs:0", Ending::Code(1));
    assert_eq!((desk.process("docs:0"), weight(&desk)), (ProcessState::Backoff, 1));
    desk.wait(Duration::from_secs(2));
    desk.exit("docs:0", Ending::Code(1));
    assert_eq!((desk.process("docs:0"), weight(&desk)), (ProcessState::Fatal, 0));
    desk.command(crate::control::protocol::Command::Start { names: super::desk::names(&["docs"]) });
    assert_eq!((desk.process("docs:0"), weight(&desk)), (ProcessState::Starting, 1));
}

#[test]
fn process_that_cannot_be_spawned_failed_to_start() {
    let mut desk = Desk::new();
    desk.spawns = false;
    desk.apply(docs(|_| {}));
    desk.send(Event::SpawnFailed { instance: desk.life("docs:0"), error: "spawn: no such file".to_owned() });
    assert_eq!(desk.process("docs:0"), ProcessState::Backoff);
    assert!(desk.reason("docs:0").starts_with("spawn: no such file; next start in"));
}

#[test]
fn lack_of_memory_is_named() {
    let mut desk = Desk::with(docs(|_| {}));
    desk.exit("docs:0", Ending::OutOfMemory);
    assert_eq!(desk.status("docs:0").ending, Some(Ending::OutOfMemory));
    let recorded = desk.effects.iter().any(|effect| {
        matches!(effect, Effect::Record(record) if record.what == "process exited" && record.cause == "out of memory")
    });
    assert!(recorded);
}

#[test]
fn restart_policy_decides_after_an_exit() {
    let check = |policy, ending, expect| {
        let mut desk = Desk::with(job(|job| job.autorestart = policy));
        desk.wait(seconds(2));
        desk.exit("job:0", ending);
        assert_eq!(desk.process("job:0"), expect, "{policy:?} {ending:?}");
    };
    check(AutoRestart::Always, Ending::Code(0), ProcessState::Starting);
    check(AutoRestart::OnFailure, Ending::Code(0), ProcessState::Exited);
    check(AutoRestart::OnFailure, Ending::Code(3), ProcessState::Starting);
    check(AutoRestart::OnFailure, Ending::Signal(9), ProcessState::Starting);
    check(AutoRestart::Never, Ending::Code(3), ProcessState::Exited);
}

#[test]
fn outside_dependency_is_asked_for_until_it_is_there() {
    let mut desk = Desk::new();
    desk.apply(docs(|docs| docs.depends_on = vec![Dependency::Tcp(outside())]));
    assert_eq!(desk.process("docs:0"), ProcessState::Stopped);
    let checked = |result| Event::DependencyChecked {
        program: "docs".to_owned(),
        dependency: Dependency::Tcp(outside()),
        result,
    };
    desk.send(checked(Err("connection refused".to_owned())));
    assert_eq!(desk.reason("docs:0"), "waiting for tcp:127.0.0.1:6379: connection refused");
    desk.took();
    desk.wait(Duration::from_millis(500));
    assert_eq!(desk.took(), ["check for docs"]);
    desk.send(checked(Ok(())));
    assert_eq!(desk.traffic("docs:0"), TrafficState::In);
}

#[test]
fn program_waits_for_another_to_be_as_asked() {
    let check = |condition, starts_running: bool, starts_ready: bool, starts_completed: bool| {
        let mut web = program("web", None, 1);
        web.depends_on = vec![Dependency::Program { name: "db".to_owned(), condition }];
        let mut db = program("db", Some("db"), 1);
        db.autorestart = AutoRestart::OnFailure;
        db.startup = Some(startup());
        let mut desk = Desk::new();
        desk.probes_pass = false;
        desk.apply(model(vec![upstream("db")], vec![web, db]));
        let has_started = |desk: &Desk| desk.process("web:0") == ProcessState::Starting;
        assert_eq!(has_started(&desk), starts_running, "{condition:?} STARTING");
        desk.probe("db:0", ProbeRole::Startup, true);
        desk.probe("db:0", ProbeRole::Readiness, true);
        assert_eq!(has_started(&desk), starts_ready, "{condition:?} ready");
        desk.exit("db:0", Ending::Code(0));
        assert_eq!(has_started(&desk), starts_completed, "{condition:?} completed");
    };
    check(DependencyCondition::Started, true, true, true);
    check(DependencyCondition::Healthy, false, true, true);
    check(DependencyCondition::Completed, false, false, true);
}

#[test]
fn full_table_makes_the_program_fatal_and_nothing_panics() {
    let many: Vec<_> =
        (0..=BACKENDS_MAX / 256).map(|number| program(&format!("p{number:02}"), Some("docs"), 256)).collect();
    let mut desk = Desk::new();
    desk.spawns = false;
    desk.apply(model(vec![upstream("docs")], many));
    assert_eq!(desk.process("p00:0"), ProcessState::Starting);
    assert_eq!(desk.process("p16:255"), ProcessState::Fatal);
    assert_eq!(desk.reason("p16:255"), "backend table is full");
}
