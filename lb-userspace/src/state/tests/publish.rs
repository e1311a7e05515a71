//! What workers are told to expect.

use super::desk::{Desk, names, seconds};
use crate::config::model::{AutoRestart, Dependency, Model, Program};
use crate::control::protocol::{Command, ProcessState};
use crate::state::event::Event;
use crate::state::simulation::models::{backend, model, program, upstream};

fn docs(change: impl FnOnce(&mut Program)) -> Model {
    let mut docs = program("docs", Some("docs"), 1);
    change(&mut docs);
    model(vec![upstream("docs")], vec![docs])
}

/// Backends that workers know, and how many more they are told to expect.
fn check(desk: &Desk, placed: usize, unplaced: usize) {
    let served = &desk.state.published.upstreams[0];
    assert_eq!((served.backends.len(), served.unplaced), (placed, unplaced));
}

#[test]
fn instance_is_expected_until_it_has_an_address_or_rests() {
    let mut desk = Desk::new();
    desk.spawns = false;
    desk.apply(docs(|docs| docs.autorestart = AutoRestart::Never));
    check(&desk, 0, 1);
    let instance = desk.life("docs:0");
    desk.send(Event::SpawnFailed { instance, error: "no such file".to_owned() });
    assert_eq!(desk.process("docs:0"), ProcessState::Fatal);
    check(&desk, 0, 0);
    desk.spawns = true;
    desk.command(Command::Start { names: names(&["docs"]) });
    check(&desk, 1, 0);
}

#[test]
fn instance_that_nobody_has_started_is_not_expected() {
    let mut desk = Desk::with(docs(|docs| docs.autostart = false));
    check(&desk, 0, 0);
    desk.spawns = false;
    desk.command(Command::Start { names: names(&["docs"]) });
    check(&desk, 0, 1);
}

#[test]
fn instance_that_waits_for_a_dependency_is_expected() {
    let mut desk = Desk::new();
    desk.apply(docs(|docs| docs.depends_on = vec![Dependency::Tcp("127.0.0.1:1".parse().unwrap())]));
    check(&desk, 0, 1);
}

#[test]
fn tunnels_may_go_on_as_long_as_the_master_waits_for_their_backend() {
    let mut other = docs(|docs| docs.stop.drain_timeout = seconds(7));
    let upstream = other.upstreams.get_mut("docs").unwrap();
    upstream.drain_timeout = seconds(99);
    upstream.backends = vec![backend(80)];
    let desk = Desk::with(other);
    let backends = &desk.state.published.upstreams[0].backends;
    let timeouts: Vec<_> =
        backends.iter().map(|backend| (backend.name.as_str(), backend.drain_timeout_ms)).collect();
    assert_eq!(timeouts, [("10.0.0.1:80", 99_000), ("docs:0", 7_000)]);
}
