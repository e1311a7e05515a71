//! Requests while nobody is in rotation.

use std::io::Write;
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
    let mut worker = Harness::start(&[nobody()]);
    worker.set(0, 1, TrafficState::Out);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (503, "backend_starting"));
    assert!(answer.header("retry-after").is_some());
    // A configured backend does not start: it fails its probe.
    worker.table.identify(Slot(0), 77);
    assert_eq!(worker.get("/").reason(), "no_backend");
    worker.snapshot.upstreams[0].unplaced = 1;
    worker.publish();
    assert_eq!(worker.get("/").reason(), "backend_starting");
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

#[test]
fn nobody_is_waited_for_where_no_backend_is_expected() {
    let worker = Harness::start_with(&[], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 60_000);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (503, "no_backend"));
}

#[test]
fn backend_that_is_placed_later_gets_the_requests_that_wait() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start_with(&[], |snapshot| {
        snapshot.upstreams[0].hold_timeout_ms = 10_000;
        snapshot.upstreams[0].unplaced = 1;
    });
    let mut client = worker.client();
    let asking = std::thread::spawn(move || client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!asking.is_finished());
    worker.snapshot.upstreams[0].backends.push(served("docs:0", 0, backend.address));
    worker.snapshot.upstreams[0].unplaced = 0;
    worker.publish();
    worker.set(0, 1, TrafficState::In);
    let answer = asking.join().unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("one"));
}

#[test]
fn backend_that_moved_gets_the_requests_that_wait_for_it() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let mut worker =
        Harness::start_with(&[old.address], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 10_000);
    worker.set(0, 1, TrafficState::Out);
    let mut client = worker.client();
    let asking = std::thread::spawn(move || client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(50));
    worker.snapshot.upstreams[0].backends = vec![served("docs:0", 0, new.address)];
    worker.publish();
    worker.set(0, 2, TrafficState::In);
    assert!(asking.join().unwrap().text().starts_with("new"));
}

#[test]
fn upstream_that_is_served_no_more_keeps_the_requests_that_it_has() {
    let backend = Backend::echo("one");
    let mut worker =
        Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 10_000);
    worker.set(0, 1, TrafficState::Out);
    let mut client = worker.client();
    let asking = std::thread::spawn(move || client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n"));
    std::thread::sleep(Duration::from_millis(50));
    worker.snapshot.upstreams.clear();
    worker.snapshot.routes.clear();
    worker.publish();
    worker.set(0, 2, TrafficState::In);
    assert_eq!(asking.join().unwrap().status, 200);
}

#[test]
fn client_that_left_while_it_was_held_gives_up_its_place() {
    let worker = Harness::start_with(&[nobody()], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 60_000);
    worker.set(0, 1, TrafficState::Out);
    let metrics = worker.metrics();
    let held = |text: &str| metrics().contains(&format!("lbctl_requests_held{{upstream=\"docs\"}} {text}\n"));
    let mut client = worker.client();
    // The second request hides from hyper that the client has closed.
    let request = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";
    client.0.write_all(request.repeat(2).as_bytes()).unwrap();
    wait_until("it is held", || held("1.0"));
    drop(client);
    wait_until("its place is free", || held("0.0"));
}
