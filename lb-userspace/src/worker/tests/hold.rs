//! Requests while nobody is in rotation.

use std::time::Duration;

use lb_common::backend::TrafficState;

use super::harness::*;
use crate::state::event::{InstanceId, Slot};

#[test]
fn request_is_held_until_a_backend_is_in() {
    let backend = Backend::echo("one");
    let worker =
        Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 10_000);
    worker.set(0, 1, TrafficState::Out);
    let mut client = worker.client();
    let asking = std::thread::spawn(move || client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!asking.is_finished());
    worker.set(0, 2, TrafficState::In);
    assert_eq!(asking.join().unwrap().status, 200);
}

#[test]
fn without_hold_the_answer_is_503_at_once() {
    let worker = Harness::start(&[nobody()]);
    worker.set(0, 1, TrafficState::Out);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (503, "no_backend"));
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn nobody_is_waited_for_where_all_backends_rest() {
    let worker = Harness::start_with(&[nobody()], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 60_000);
    worker.table.write(Slot(0), InstanceId(1), TrafficState::Out, 0, 1);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (503, "no_backend"));
}

#[test]
fn hold_ends_with_its_time_out() {
    let worker = Harness::start_with(&[nobody()], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 100);
    worker.set(0, 1, TrafficState::Out);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (503, "held_too_long"));
}
