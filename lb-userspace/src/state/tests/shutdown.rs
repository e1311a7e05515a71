//! The end of everything.

use super::desk::{Desk, names, seconds};
use crate::config::model::{Dependency, DependencyCondition, Model};
use crate::control::protocol::{Answer, Command};
use crate::state::event::{Effect, Event};
use crate::state::simulation::models::{model, program, upstream};

fn web_on_db() -> Model {
    let mut web = program("web", Some("docs"), 1);
    web.depends_on =
        vec![Dependency::Program { name: "db".to_owned(), condition: DependencyCondition::Started }];
    model(vec![upstream("docs")], vec![web, program("db", None, 1)])
}

#[test]
fn programs_end_after_those_that_depend_on_them() {
    let mut desk = Desk::with(web_on_db());
    desk.idle = false;
    desk.send(Event::Terminate);
    assert_eq!(desk.took(), ["listen", "web:0 DRAINING", "watch", "publish"]);
    desk.send(Event::Drained { slot: desk.slot("web:0") });
    assert_eq!(desk.took(), ["web:0 OUT", "signal 15 web:0", "web:0 given up", "signal 15 db:0", "finish"]);
}

#[test]
fn listeners_are_closed_first() {
    let mut desk = Desk::with(web_on_db());
    desk.send(Event::Terminate);
    let closed = desk
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Listen(model) if model.listeners.is_empty()));
    assert!(closed);
}

#[test]
fn second_signal_kills_at_once() {
    let mut desk = Desk::with(web_on_db());
    (desk.idle, desk.obeys) = (false, false);
    desk.send(Event::Terminate);
    desk.took();
    desk.send(Event::Terminate);
    assert_eq!(desk.took(), ["kill db:0", "web:0 OUT", "kill web:0", "web:0 given up", "finish"]);
}

#[test]
fn process_that_comes_to_be_after_the_second_signal_is_killed() {
    let mut desk = Desk::new();
    desk.spawns = false;
    desk.apply(model(Vec::new(), vec![program("db", None, 1)]));
    desk.send(Event::Terminate);
    desk.send(Event::Terminate);
    assert!(!desk.took().contains(&"finish".to_owned()));
    desk.send(Event::Spawned { instance: desk.life("db:0"), pid: 4, address: None });
    assert_eq!(desk.took(), ["kill db:0", "finish"]);
}

#[test]
fn shutdown_command_is_answered_in_the_end_and_others_refused() {
    let mut desk = Desk::with(web_on_db());
    desk.idle = false;
    let shutdown = desk.command(Command::Shutdown);
    let start = desk.command(Command::Start { names: names(&["web"]) });
    assert!(matches!(&desk.answers[&start], Answer::Failed { message, .. } if message == "shutting down"));
    assert!(!desk.answers.contains_key(&shutdown));
    desk.wait(seconds(3));
    assert!(matches!(desk.answers[&shutdown], Answer::Done { .. }));
    assert_eq!(desk.took().last().map(String::as_str), Some("finish"));
}

#[test]
fn nothing_configured_ends_at_once() {
    let mut desk = Desk::new();
    desk.send(Event::Terminate);
    assert_eq!(desk.took(), ["finish"]);
}
