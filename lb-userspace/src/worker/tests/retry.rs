//! What happens when a backend fails: who is asked again, and who must not be.
#![expect(clippy::disallowed_types, reason = "tests play clients and backends")]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lb_common::backend::TrafficState;

use super::harness::*;
use crate::link::FromWorker;
use crate::reason::Reason;

/// How a backend fails a request that it has read.
#[derive(Clone, Copy)]
enum Fails {
    ByFin,
    ByReset,
    InTheHead,
    InTheBody,
}

impl Fails {
    fn perform(self, mut stream: TcpStream) {
        match self {
            Self::ByFin => drop(stream),
            Self::ByReset => reset(stream),
            Self::InTheHead => stream.write_all(b"HTTP/1.1 200 OK\r\ncont").unwrap(),
            Self::InTheBody => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").unwrap(),
        }
    }
}

/// Reads a request, counts it, and fails.
fn failing(fails: Fails) -> (Backend, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let backend = Backend::start(move |_, mut stream| {
        if !read_head(&mut stream).is_empty() {
            count.fetch_add(1, Ordering::SeqCst);
            fails.perform(stream);
        }
    });
    (backend, requests)
}

fn post() -> &'static str {
    "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
}

#[test]
fn get_that_breaks_off_is_asked_of_another_backend() {
    for fails in [Fails::ByFin, Fails::ByReset, Fails::InTheHead, Fails::InTheBody] {
        let (bad, requests) = failing(fails);
        let good = Backend::echo("good");
        let worker = Harness::start(&[bad.address, good.address]);
        for _ in 0..4 {
            let answer = worker.get("/");
            assert_eq!(answer.status, 200);
            assert!(answer.text().starts_with("good"));
        }
        assert!(requests.load(Ordering::SeqCst) >= 1);
        let failure = worker.wait_for(|message| matches!(message, FromWorker::Failure { .. }));
        assert_eq!(failure, FromWorker::Failure { slot: 0, instance: 1, reason: Reason::ResponseReset });
    }
}

#[test]
fn sent_post_is_never_executed_twice() {
    for fails in [Fails::ByFin, Fails::ByReset, Fails::InTheHead, Fails::InTheBody] {
        let (one, first) = failing(fails);
        let (two, second) = failing(fails);
        let worker = Harness::start(&[one.address, two.address]);
        let mut client = worker.client();
        client.0.write_all(post().as_bytes()).unwrap();
        let head = read_head(&mut client.0);
        // An answer that breaks off in its body may have begun to be relayed: then the client sees it break off.
        let begun = matches!(fails, Fails::InTheBody) && head.contains("content-length: 9");
        assert!(begun || head.contains("x-lb-reason: response_reset"), "{head}");
        assert_eq!(first.load(Ordering::SeqCst) + second.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn refused_connection_is_tried_elsewhere_whatever_the_method() {
    let good = Backend::echo("good");
    let worker = Harness::start(&[nobody(), good.address]);
    for _ in 0..4 {
        assert_eq!(worker.client().ask(post()).status, 200);
    }
    worker.wait_for(|message| {
        *message == FromWorker::Failure { slot: 0, instance: 1, reason: Reason::ConnectRefused }
    });
}

#[test]
fn success_is_reported_once_after_a_failure() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let backend = Backend::start(move |_, mut stream| {
        loop {
            if read_head(&mut stream).is_empty() {
                return;
            }
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                return;
            }
            answer(&mut stream, "ok");
        }
    });
    let worker = Harness::start(&[backend.address]);
    assert_eq!(worker.client().ask(post()).status, 502);
    for _ in 0..3 {
        assert_eq!(worker.client().ask(post()).status, 200);
    }
    worker.wait_for(|message| matches!(message, FromWorker::Failure { .. }));
    worker.wait_for(|message| *message == FromWorker::Success { slot: 0, instance: 1 });
    assert_eq!(worker.receive(std::time::Duration::from_millis(50)), None);
}

#[test]
fn all_backends_refusing_is_502_with_the_reason() {
    let worker = Harness::start(&[nobody(), nobody()]);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (502, "connect_refused"));
}

#[test]
fn silence_is_504_after_the_read_time_out() {
    let backend = Backend::start(|_, mut stream| while !read_head(&mut stream).is_empty() {});
    let worker =
        Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].read_timeout_ms = 50);
    let answer = worker.client().ask(post());
    assert_eq!((answer.status, answer.reason()), (504, "response_timeout"));
    worker.wait_for(|message| {
        *message == FromWorker::Failure { slot: 0, instance: 1, reason: Reason::ResponseTimeout }
    });
}

#[test]
fn nonsense_is_502_and_not_repeated() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    let worker = Harness::start(&[backend.address]);
    let answer = worker.get("/");
    assert_eq!((answer.status, answer.reason()), (502, "response_malformed"));
    assert_eq!(backend.accepted.load(Ordering::SeqCst), 1);
}

/// Answers the first request of each connection, then closes it when the second has been read.
fn closes_on_second(address: &mut Option<SocketAddr>, fails: Fails) -> (Backend, Arc<AtomicUsize>) {
    let executed = Arc::new(AtomicUsize::new(0));
    let count = executed.clone();
    let backend = Backend::start(move |_, mut stream| {
        read_head(&mut stream);
        count.fetch_add(1, Ordering::SeqCst);
        answer(&mut stream, "first");
        if !read_head(&mut stream).is_empty() {
            fails.perform(stream);
        }
    });
    *address = Some(backend.address);
    (backend, executed)
}

#[test]
fn stale_connection_costs_no_get_and_is_no_failure() {
    for fails in [Fails::ByFin, Fails::ByReset] {
        let mut address = None;
        let (_backend, _) = closes_on_second(&mut address, fails);
        let worker = Harness::start(&[address.unwrap()]);
        let mut client = worker.client();
        for _ in 0..10 {
            assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
        }
        assert_eq!(worker.receive(std::time::Duration::from_millis(50)), None, "no failure is reported");
    }
}

#[test]
fn post_on_a_stale_connection_is_502_and_no_failure() {
    for fails in [Fails::ByFin, Fails::ByReset] {
        let mut address = None;
        let (_backend, executed) = closes_on_second(&mut address, fails);
        let worker = Harness::start(&[address.unwrap()]);
        let mut client = worker.client();
        assert_eq!(client.ask(post()).status, 200);
        let answer = client.ask(post());
        assert_eq!((answer.status, answer.reason()), (502, "stale_connection"));
        assert_eq!(executed.load(Ordering::SeqCst), 1);
        assert_eq!(worker.receive(std::time::Duration::from_millis(50)), None);
    }
}

#[test]
fn post_is_not_sent_on_a_connection_that_the_backend_has_closed() {
    for by_reset in [false, true] {
        let backend = Backend::start(move |_, mut stream| {
            read_head(&mut stream);
            answer(&mut stream, "once");
            if by_reset {
                reset(stream);
            }
        });
        let worker = Harness::start(&[backend.address]);
        let mut client = worker.client();
        for _ in 0..20 {
            assert_eq!(client.ask(post()).status, 200);
            // The answer was written before the close: give the close the time to arrive that it needs.
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }
}

#[test]
fn small_body_is_sent_again_with_an_idempotent_method() {
    let (bad, _) = failing(Fails::ByFin);
    let good = Backend::start(|_, mut stream| {
        let head = read_head(&mut stream);
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut stream, &mut body).unwrap();
        answer(&mut stream, std::str::from_utf8(&body).unwrap());
    });
    let worker = Harness::start(&[bad.address, good.address]);
    for _ in 0..2 {
        let answer = worker.client().ask("PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello");
        assert_eq!(answer.text(), "hello");
    }
}

#[test]
fn get_on_an_instance_that_dies_is_held_for_the_next_one() {
    let backend = Backend::start(|number, mut stream| {
        read_head(&mut stream);
        if number > 0 {
            answer(&mut stream, "alive");
        }
        // The first instance reads the request and dies.
        if number == 0 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    let worker =
        Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].hold_timeout_ms = 5000);
    let mut client = worker.client();
    let asking = std::thread::spawn(move || client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n"));
    wait_until("the request is on the instance", || worker.active(0) == 1);
    worker.table.mark_exited(crate::state::event::Slot(0), crate::state::event::InstanceId(1), 1);
    wait_until("the request has left the instance", || worker.active(0) == 0);
    worker.set(0, 2, TrafficState::In);
    assert_eq!(asking.join().unwrap().text(), "alive");
}

#[test]
fn chunked_body_in_small_pieces_is_sent_again_whole_with_its_trailers() {
    let (bad, requests) = failing_after_body(true);
    let (good, _) = failing_after_body(false);
    let worker = Harness::start(&[bad.address, good.address]);
    for _ in 0..2 {
        let mut client = worker.client();
        let head = b"PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        client.0.write_all(head).unwrap();
        for number in 0..200 {
            client.0.write_all(format!("1\r\n{}\r\n", number % 10).as_bytes()).unwrap();
        }
        client.0.write_all(b"0\r\nx-sum: 200\r\n\r\n").unwrap();
        let answer = client.answer(false);
        assert_eq!(answer.text(), format!("{}x-sum: 200", "0123456789".repeat(20)));
    }
    assert!(requests.load(Ordering::SeqCst) >= 1);
}

/// Reads a chunked request with trailers; then closes, or answers with what it got.
fn failing_after_body(fails: bool) -> (Backend, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let backend = Backend::start(move |_, mut stream| {
        read_head(&mut stream);
        let mut body = String::new();
        loop {
            let size = usize::from_str_radix(read_line(&mut stream).trim(), 16).unwrap();
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            std::io::Read::read_exact(&mut stream, &mut chunk).unwrap();
            body.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        }
        body.push_str(read_head(&mut stream).trim());
        count.fetch_add(1, Ordering::SeqCst);
        if !fails {
            answer(&mut stream, &body);
        }
    });
    (backend, requests)
}

/// The rows of which failures are reported, until nothing more comes.
fn reported(worker: &Harness) -> Vec<u32> {
    let messages = std::iter::from_fn(|| worker.receive(std::time::Duration::from_millis(100)));
    let row = |message| match message {
        FromWorker::Failure { slot, .. } => Some(slot),
        _ => None,
    };
    messages.filter_map(row).collect()
}

#[test]
fn request_that_fails_everywhere_counts_against_one_backend_only() {
    for fails in [Fails::ByFin, Fails::ByReset, Fails::InTheHead] {
        let backends: Vec<_> = (0..3).map(|_| failing(fails)).collect();
        let addresses: Vec<_> = backends.iter().map(|(backend, _)| backend.address).collect();
        let worker = Harness::start(&addresses);
        assert_eq!(worker.get("/").reason(), "response_reset");
        let asked: usize = backends.iter().map(|(_, requests)| requests.load(Ordering::SeqCst)).sum();
        assert_eq!((asked, reported(&worker).len()), (3, 1));
    }
}

#[test]
fn all_that_failed_a_request_are_reported_when_another_backend_answers_it() {
    let (one, _) = failing(Fails::ByReset);
    let (two, _) = failing(Fails::ByFin);
    let good = Backend::echo("good");
    let worker = Harness::start_with(&[one.address, two.address, good.address], |snapshot| {
        snapshot.upstreams[0].backends[2].backup = true;
    });
    assert_eq!(worker.get("/").status, 200);
    let mut reported = reported(&worker);
    reported.sort_unstable();
    assert_eq!(reported, [0, 1]);
}

#[test]
fn backend_that_takes_no_request_is_reported_with_its_reason() {
    let backend = Backend::start(|_, stream| {
        std::thread::sleep(PATIENCE);
        drop(stream);
    });
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.routes[0].body_bytes_max = None;
        snapshot.upstreams[0].send_timeout_ms = 100;
    });
    let mut client = worker.client();
    let mut writer = client.0.try_clone().unwrap();
    std::thread::spawn(move || {
        let _ = write!(writer, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100000000\r\n\r\n");
        let _ = writer.write_all(&vec![b'x'; 100_000_000]);
    });
    assert_eq!(client.answer(false).reason(), "send_timeout");
    worker.wait_for(|message| {
        *message == FromWorker::Failure { slot: 0, instance: 1, reason: Reason::SendTimeout }
    });
}
