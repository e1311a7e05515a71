//! Snapshots, logs, `/metrics` and the end of a worker.
#![expect(clippy::disallowed_types, reason = "tests play clients and backends")]
#![expect(clippy::disallowed_methods, reason = "tests read what was logged")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::harness::*;
use crate::control::protocol::StatusReport;
use crate::limits::METRICS_PAGES_MAX;
use crate::link::{Attachment, FromWorker, ToWorker};
use crate::snapshot::{ServedListener, ServedUpstream};
use crate::table::shared_memory;

#[test]
fn kept_connections_follow_the_next_snapshot() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let mut worker = Harness::start(&[old.address]);
    let mut client = worker.client();
    assert!(client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text().starts_with("old"));
    worker.snapshot.upstreams[0].backends[0].address = crate::config::model::Address::Tcp(new.address);
    worker.snapshot.upstreams[0].backends[0].slot = 1;
    worker.set(1, 5, lb_common::backend::TrafficState::In);
    worker.publish();
    assert!(client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").text().starts_with("new"));
}

/// Attaches another listener, for the next snapshot to have: its address, and a client that waits in its queue already.
fn second_listener(worker: &mut Harness) -> (SocketAddr, TcpStream) {
    let address = nobody();
    let second = TcpListener::bind(address).unwrap();
    let early = TcpStream::connect(address).unwrap();
    worker.attach(Attachment::Listener { id: 2, thread: 0 }, second.as_fd());
    worker.snapshot.listeners.push(ServedListener { id: 2, name: "web".into(), address });
    (address, early)
}

#[test]
fn listeners_come_and_go_with_snapshots() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let (address, early) = second_listener(&mut worker);
    worker.publish();
    assert_eq!(Client(early).ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
    worker.snapshot.listeners.truncate(1);
    worker.publish();
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(worker.get("/").status, 200);
}

#[test]
fn listener_that_is_called_something_else_serves_under_its_new_name() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let mut kept = worker.client();
    assert_eq!(kept.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
    worker.snapshot.listeners[0].name = "front".into();
    worker.snapshot.routes[0].listener = "front".into();
    worker.publish();
    assert_eq!(kept.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
    assert_eq!(worker.get("/").status, 200);
}

#[test]
fn host_without_a_route_is_404() {
    let backend = Backend::echo("one");
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.routes[0].host = Some(crate::config::model::HostPattern::Exact("docs.example".into()));
    });
    assert_eq!(worker.get("/").reason(), "no_route");
    assert_eq!(worker.client().ask("GET / HTTP/1.1\r\nhost: docs.example:80\r\n\r\n").status, 200);
}

#[test]
fn ambiguous_request_is_400_and_the_connection_ends() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nhost: h\n\n",
    ] {
        let mut client = worker.client();
        let answer = client.ask(request);
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{request:?}");
        assert!(client.is_closed());
    }
    assert_eq!(worker.client().ask("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n").status, 405);
}

#[test]
fn draining_worker_finishes_requests_and_closes_idle_connections() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |_, mut stream| {
        if read_head(&mut stream).contains("/first") {
            return answer(&mut stream, "first");
        }
        wait.lock().unwrap().recv().unwrap();
        answer(&mut stream, "late");
    });
    let worker = Harness::start(&[backend.address]);
    let (mut idle, mut busy) = (worker.client(), worker.client());
    assert_eq!(idle.ask("GET /first HTTP/1.1\r\nhost: h\r\n\r\n").text(), "first");
    std::io::Write::write_all(&mut busy.0, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    wait_until("the request is under way", || worker.active(0) == 1);
    worker.send(&ToWorker::Drain { within_ms: 10_000 }, None);
    assert!(idle.is_closed());
    go.send(()).unwrap();
    let answer = busy.answer(false);
    assert_eq!((answer.text(), answer.header("connection")), ("late", Some("close")));
    worker.wait_for(|message| *message == FromWorker::Drained);
    worker.join();
}

#[test]
fn draining_worker_answers_the_first_request_of_a_connection_just_made() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let mut fresh = worker.client();
    // The one thread accepts in order: once a later connection is answered, this one was accepted.
    assert_eq!(worker.get("/").status, 200);
    worker.send(&ToWorker::Drain { within_ms: 10_000 }, None);
    let answer = fresh.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    worker.wait_for(|message| *message == FromWorker::Drained);
    worker.join();
}

#[test]
fn draining_worker_takes_what_waits_in_its_accept_queue() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let (_, early) = second_listener(&mut worker);
    // The thread is told to drain before it has come to accept.
    worker.send_snapshot();
    worker.send(&ToWorker::Drain { within_ms: 10_000 }, None);
    assert_eq!(Client(early).ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
    worker.wait_for(|message| *message == FromWorker::Drained);
    worker.join();
}

#[test]
fn draining_worker_follows_snapshots_and_acknowledges_them() {
    let (old, new) = (Backend::echo("old"), Backend::echo("new"));
    let mut worker =
        Harness::start_with(&[old.address], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 10_000);
    worker.set(0, 1, lb_common::backend::TrafficState::Out);
    let mut client = worker.client();
    std::io::Write::write_all(&mut client.0, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let metrics = worker.metrics();
    wait_until("it is held", || metrics().contains("lbctl_requests_held{upstream=\"docs\"} 1.0\n"));
    worker.send(&ToWorker::Drain { within_ms: 10_000 }, None);
    worker.snapshot.upstreams[0].backends = vec![served("docs:0", 1, new.address)];
    worker.publish();
    worker.set(1, 2, lb_common::backend::TrafficState::In);
    assert!(client.answer(false).text().starts_with("new"));
    worker.wait_for(|message| *message == FromWorker::Drained);
    worker.join();
}

#[test]
fn pings_are_answered_while_requests_are_finished_too() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |_, mut stream| {
        read_head(&mut stream);
        wait.lock().unwrap().recv().unwrap();
        answer(&mut stream, "late");
    });
    let worker = Harness::start(&[backend.address]);
    worker.send(&ToWorker::Ping, None);
    worker.wait_for(|message| *message == FromWorker::Pong);
    let mut busy = worker.client();
    std::io::Write::write_all(&mut busy.0, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    wait_until("the request is under way", || worker.active(0) == 1);
    worker.send(&ToWorker::Drain { within_ms: 10_000 }, None);
    worker.send(&ToWorker::Ping, None);
    worker.wait_for(|message| *message == FromWorker::Pong);
    go.send(()).unwrap();
    assert_eq!(busy.answer(false).text(), "late");
    worker.wait_for(|message| *message == FromWorker::Drained);
    worker.join();
}

#[test]
fn metrics_hold_what_the_master_knows_when_they_are_asked_for() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    worker.attach(Attachment::Metrics, metrics.as_fd());
    let mut scraper = Client(TcpStream::connect(metrics.local_addr().unwrap()).unwrap());
    std::io::Write::write_all(&mut scraper.0, b"GET /metrics HTTP/1.1\r\nhost: m\r\n\r\n").unwrap();
    worker.wait_for(|message| *message == FromWorker::StatusWanted);
    let report = StatusReport { node: "edge-9".into(), ..StatusReport::default() };
    let memory = shared_memory("status", 0).unwrap();
    let mut file = std::fs::File::from(memory);
    std::io::Write::write_all(&mut file, &serde_json::to_vec(&report).unwrap()).unwrap();
    worker.send(&ToWorker::Status, Some(file.as_fd()));
    let page = scraper.answer(false);
    assert!(page.text().contains("lbctl_node{node=\"edge-9\"}"), "{}", page.text());
}

#[test]
fn health_is_told_while_readers_of_metrics_take_their_time() {
    let backend = Backend::echo("one");
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        // A page that no socket buffer holds.
        let one = snapshot.upstreams[0].clone();
        let many =
            (0..3000).map(|number| ServedUpstream { name: format!("upstream-{number}"), ..one.clone() });
        snapshot.upstreams.extend(many);
    });
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    worker.attach(Attachment::Metrics, metrics.as_fd());
    let address = metrics.local_addr().unwrap();
    let ask = |path: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        std::io::Write::write_all(&mut stream, format!("GET {path} HTTP/1.1\r\nhost: m\r\n\r\n").as_bytes())
            .unwrap();
        Client(stream)
    };
    let _slow: Vec<Client> = (0..METRICS_PAGES_MAX).map(|_| ask("/metrics")).collect();
    wait_until("no more pages", || ask("/metrics").answer(true).status == 503);
    assert_eq!(ask("/healthz").answer(false).status, 200);
}

#[test]
fn requests_are_logged_and_counted() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let folder = tempfile::tempdir().unwrap();
    let (access, errors) = (folder.path().join("access"), folder.path().join("errors"));
    worker.attach(Attachment::AccessLog, std::fs::File::create(&access).unwrap().as_fd());
    worker.attach(Attachment::ErrorLog, std::fs::File::create(&errors).unwrap().as_fd());
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    worker.attach(Attachment::Metrics, metrics.as_fd());
    worker.publish();
    let address = metrics.local_addr().unwrap();
    let scrape = |path: &str| {
        let mut scraper = Client(TcpStream::connect(address).unwrap());
        scraper.ask(&format!("GET {path} HTTP/1.1\r\nhost: m\r\n\r\n"))
    };
    assert_eq!(scrape("/readyz").status, 200);
    worker.get("/seen");
    worker.set(0, 1, lb_common::backend::TrafficState::Out);
    worker.get("/refused");
    let holds = |path: &std::path::Path, text: &str| std::fs::read_to_string(path).unwrap().contains(text);
    wait_until("both are in the access log", || holds(&access, "/seen") && holds(&access, "/refused"));
    wait_until("one is in the error log", || holds(&errors, "\"reason\":\"backend_starting\""));
    assert!(!holds(&errors, "/seen"));
    let counts = scrape("/metrics");
    assert!(counts.text().contains("backend_starting"), "{}", counts.text());
    assert_eq!(scrape("/readyz").status, 503);
    assert_eq!(scrape("/healthz").status, 200);
}

#[test]
fn logs_and_metrics_that_are_switched_off_end() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let folder = tempfile::tempdir().unwrap();
    let (access, errors) = (folder.path().join("access"), folder.path().join("errors"));
    worker.attach(Attachment::AccessLog, std::fs::File::create(&access).unwrap().as_fd());
    worker.attach(Attachment::ErrorLog, std::fs::File::create(&errors).unwrap().as_fd());
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = metrics.local_addr().unwrap();
    worker.attach(Attachment::Metrics, metrics.as_fd());
    drop(metrics);
    worker.publish();
    assert_eq!(worker.get("/before").status, 200);
    assert_eq!(worker.client().ask("GET / HTTP/1.1\r\n\r\n").status, 400);
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap().lines().count();
    wait_until("both are logged", || lines(&access) == 2 && lines(&errors) == 1);
    worker.snapshot.access_format = None;
    worker.snapshot.error_file = false;
    worker.snapshot.metrics = false;
    worker.publish();
    assert_eq!(worker.get("/after").status, 200);
    assert_eq!(worker.client().ask("GET / HTTP/1.1\r\n\r\n").status, 400);
    wait_until("nobody listens", || TcpStream::connect(address).is_err());
    assert_eq!((lines(&access), lines(&errors)), (2, 1));
    // And on again.
    worker.attach(Attachment::AccessLog, std::fs::File::create(&access).unwrap().as_fd());
    worker.snapshot.access_format = Some(crate::config::model::AccessFormat::Json);
    worker.publish();
    assert_eq!(worker.get("/again").status, 200);
    wait_until("it is logged", || lines(&access) == 1);
}

#[test]
fn lost_descriptors_cost_no_connection() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    worker.send(&ToWorker::Status, None);
    worker.send(&ToWorker::Snapshot { number: 7 }, None);
    worker.wait_for(|message| *message == FromWorker::SnapshotLost { number: 7 });
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
    worker.publish();
    assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
}

#[test]
fn worker_serves_on_when_the_master_is_gone() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    worker.lose_master();
    for _ in 0..3 {
        assert_eq!(worker.get("/").status, 200);
    }
}
