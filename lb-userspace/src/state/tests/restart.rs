//! The next master takes up the rows that a killed one left.

use super::desk::{Desk, seconds};
use crate::config::model::Model;
use crate::state::event::{Event, InstanceId, ProbeRole, Slot};
use crate::state::identity;
use crate::state::simulation::models::{backend, model, probe, upstream};
use lb_common::backend::{BackendRow, TrafficState};

fn pair() -> Model {
    let mut docs = upstream("docs");
    docs.backends = vec![backend(1), backend(2)];
    docs.probe = Some(probe(9, 2, 1));
    model(vec![docs], vec![])
}

fn left(slot: u32, port: u16, state: TrafficState, weight: u32) -> (Slot, BackendRow) {
    let identity = identity("docs", &backend(port).address);
    let row = BackendRow {
        instance: 500 + u64::from(slot),
        state: state as u32,
        weight,
        identity,
        ..Default::default()
    };
    (Slot(slot), row)
}

/// A master after a killed one, whose probes have said nothing yet.
fn successor(rows: &[(Slot, BackendRow)]) -> Desk {
    let mut desk = Desk::new();
    (desk.probes_pass, desk.idle) = (false, false);
    desk.state.take_up(rows);
    desk.apply(pair());
    desk
}

#[test]
fn configured_backend_keeps_row_instance_and_state_until_probes_say_otherwise() {
    let mut desk = successor(&[left(7, 1, TrafficState::In, 1), left(9, 2, TrafficState::Out, 1)]);
    assert_eq!((desk.slot("docs/10.0.0.1:1"), desk.slot("docs/10.0.0.1:2")), (Slot(7), Slot(9)));
    let took = desk.took();
    assert!(!took.iter().any(|effect| effect.contains("OUT") || effect.contains(" IN")), "{took:?}");
    let instance = desk.state.backends[&Slot(7)].instance;
    assert_eq!(instance.0, 507);
    let failed =
        Event::Probed { instance, role: ProbeRole::Readiness, result: Err("connection refused".into()) };
    desk.send(failed.clone());
    desk.send(failed);
    assert_eq!(desk.traffic("docs/10.0.0.1:1"), TrafficState::Out);
    let other = desk.state.backends[&Slot(9)].instance;
    desk.send(Event::Probed { instance: other, role: ProbeRole::Readiness, result: Ok(()) });
    assert_eq!(desk.traffic("docs/10.0.0.1:2"), TrafficState::In);
}

#[test]
fn drained_backend_stays_drained_and_one_that_was_being_given_up_does_not() {
    let desk = successor(&[left(7, 1, TrafficState::Draining, 1), left(9, 2, TrafficState::Draining, 0)]);
    assert!(desk.state.backends[&Slot(7)].drained);
    assert_eq!(desk.traffic("docs/10.0.0.1:2"), TrafficState::In);
}

#[test]
fn row_of_a_backend_that_is_not_configured_any_more_drains() {
    let mut desk = successor(&[left(7, 1, TrafficState::In, 1), left(9, 3, TrafficState::In, 1)]);
    assert_eq!(desk.slot("docs/10.0.0.1:1"), Slot(7));
    assert_eq!(desk.row(Slot(9)), (InstanceId(509), TrafficState::Draining, 0));
    desk.send(Event::Drained { slot: Slot(9) });
    assert_eq!(desk.row(Slot(9)), Default::default());
}

#[test]
fn backend_that_came_back_while_its_row_drained_has_the_newer_row_and_the_older_drains() {
    for (newer, older) in [(7, 5), (7, 9)] {
        let mut rows = [left(newer, 1, TrafficState::In, 1), left(older, 1, TrafficState::Draining, 0)];
        rows[0].1.instance = 600;
        rows.sort_by_key(|(slot, _)| *slot);
        let mut desk = successor(&rows);
        assert_eq!(desk.slot("docs/10.0.0.1:1"), Slot(newer));
        assert_eq!(desk.row(Slot(older)).1, TrafficState::Draining);
        desk.wait(seconds(3600));
        assert_eq!(desk.row(Slot(older)), Default::default(), "its time is over");
    }
}

#[test]
fn ids_are_never_used_again_though_the_clock_went_back() {
    let mut desk = successor(&[left(7, 1, TrafficState::In, 1)]);
    assert!(desk.state.new_instance_id().0 > 507);
}
