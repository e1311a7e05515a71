//! WebSockets and other upgrades.
#![expect(clippy::disallowed_types, reason = "tests play clients and backends")]
#![expect(clippy::disallowed_methods, reason = "a time-out is measured")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lb_common::backend::TrafficState;

use super::harness::*;

const ASK: &str = "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const GRANTED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// Accepts the upgrade and echoes bytes; with `early` bytes right after the head.
fn echo(early: &'static [u8]) -> Backend {
    Backend::start(move |_, mut stream| {
        let head = read_head(&mut stream);
        if !head.contains("upgrade: ") {
            return answer(&mut stream, "plain");
        }
        let mut reply =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".to_vec();
        reply.extend_from_slice(early);
        stream.write_all(&reply).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..bytes]).is_err() {
                return;
            }
        }
    })
}

fn open(worker: &Harness) -> TcpStream {
    let mut client = worker.client();
    let answer = client.ask(ASK);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    client.0
}

#[test]
fn bytes_pass_both_ways_and_the_end_too() {
    let backend = echo(b"");
    let worker = Harness::start(&[backend.address]);
    let mut client = open(&worker);
    for size in [1usize, 100, 5000, 200_000] {
        let frame = vec![7u8; size];
        let mut writer = client.try_clone().unwrap();
        let sent = frame.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut got = vec![0; size];
        client.read_exact(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == frame);
    }
    assert_eq!(worker.active(0), 1);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    wait_until("the tunnel is over", || worker.active(0) == 0);
}

#[test]
fn bytes_that_come_with_the_heads_are_not_lost() {
    let backend = echo(b"early");
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    client.0.write_all(format!("{ASK}first").as_bytes()).unwrap();
    assert_eq!(client.answer(false).status, 101);
    let mut got = [0; 10];
    client.0.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"earlyfirst");
}

#[test]
fn other_protocols_are_relayed_unread() {
    let backend = Backend::start(|_, mut stream| {
        let head = read_head(&mut stream);
        assert!(head.contains("upgrade: tcp\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n").unwrap();
        let mut got = [0; 18];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"GET / HTTP/1.1\r\n\r\n");
        stream.write_all(b"raw bytes").unwrap();
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    let ask = "POST /attach HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
    assert_eq!(client.ask(ask).status, 101);
    client.0.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut got = Vec::new();
    client.0.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"raw bytes");
}

#[test]
fn refused_upgrade_is_an_ordinary_answer() {
    let backend = Backend::echo("plain");
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    for _ in 0..3 {
        assert_eq!(client.ask(ASK).status, 200);
        assert_eq!(client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n").status, 200);
    }
}

#[test]
fn upgrade_that_nobody_asked_for_is_malformed() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(GRANTED);
    });
    let worker = Harness::start(&[backend.address]);
    assert_eq!(worker.get("/").reason(), "response_malformed");
}

#[test]
fn idle_websocket_of_a_draining_backend_is_closed_with_1001() {
    let backend = echo(b"");
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.upstreams[0].backends[0].drain_timeout_ms = 60_000;
    });
    let mut client = open(&worker);
    worker.set(0, 1, TrafficState::Draining);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut frame = [0; 4];
    client.read_exact(&mut frame).unwrap();
    assert_eq!(frame, [0x88, 2, 0x03, 0xe9]);
    wait_until("the tunnel is over", || worker.active(0) == 0);
}

#[test]
fn busy_websocket_of_a_draining_backend_is_closed_at_the_time_out() {
    let backend = echo(b"");
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.upstreams[0].backends[0].drain_timeout_ms = 1500;
    });
    let mut client = open(&worker);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    worker.set(0, 1, TrafficState::Draining);
    let start = Instant::now();
    loop {
        client.write_all(&[0x82, 0x81, 0, 0, 0, 0, 5]).unwrap();
        let mut head = [0; 2];
        client.read_exact(&mut head).unwrap();
        if head == [0x88, 2] {
            break;
        }
        let mut rest = [0; 5];
        client.read_exact(&mut rest).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(start.elapsed() > Duration::from_millis(800), "not before its time: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(2500), "in time: {:?}", start.elapsed());
}

#[test]
fn tunnel_of_a_draining_backend_ends_when_the_master_stops_waiting() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n").unwrap();
        // It closes nothing by itself.
        std::thread::sleep(PATIENCE);
    });
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.upstreams[0].backends[0].drain_timeout_ms = 400;
    });
    let mut client = worker.client();
    let ask = "GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
    assert_eq!(client.ask(ask).status, 101);
    worker.set(0, 1, TrafficState::Draining);
    let start = Instant::now();
    wait_until("the tunnel is over", || worker.active(0) == 0);
    assert!(start.elapsed() >= Duration::from_millis(250), "not before its time: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(800), "in time: {:?}", start.elapsed());
}

#[test]
fn websocket_that_is_asked_for_while_another_request_is_in_progress_opens() {
    let backend = Backend::start(|_, mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.contains("upgrade: ") {
                break;
            }
            std::thread::sleep(Duration::from_millis(30));
            answer(&mut stream, "plain");
        }
        stream.write_all(GRANTED).unwrap();
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    client.0.write_all(format!("GET / HTTP/1.1\r\nhost: h\r\n\r\n{ASK}").as_bytes()).unwrap();
    assert_eq!(client.answer(false).text(), "plain");
    assert_eq!(client.answer(false).status, 101);
    client.0.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    client.0.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
}

/// The reason with which the next record of the error log speaks of a tunnel.
fn logged_reason(worker: &Harness, what_happens: impl FnOnce()) -> String {
    let errors = tempfile::NamedTempFile::new().unwrap();
    worker.attach(crate::link::Attachment::ErrorLog, errors.reopen().unwrap().as_fd());
    worker.settle();
    what_happens();
    let logged = || std::io::read_to_string(errors.reopen().unwrap()).unwrap();
    wait_until("it is logged", || logged().contains("\"phase\":\"tunnel\""));
    let record: serde_json::Value = serde_json::from_str(logged().lines().next().unwrap()).unwrap();
    record["reason"].as_str().unwrap().to_owned()
}

#[test]
fn tunnel_whose_backend_reads_nothing_is_given_up() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        stream.write_all(GRANTED).unwrap();
        std::thread::sleep(PATIENCE);
    });
    let worker =
        Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].send_timeout_ms = 200);
    let mut client = open(&worker);
    let reason = logged_reason(&worker, || {
        std::thread::spawn(move || while client.write_all(&[7; 65_536]).is_ok() {});
    });
    assert_eq!(reason, "send_timeout");
}

#[test]
fn end_of_a_tunnel_is_blamed_on_who_broke_it() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        stream.write_all(GRANTED).unwrap();
        let mut asked = [0; 1];
        stream.read_exact(&mut asked).unwrap();
        if asked == *b"r" {
            reset(stream);
        } else {
            let _ = stream.read(&mut asked);
        }
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = open(&worker);
    assert_eq!(logged_reason(&worker, || client.write_all(b"r").unwrap()), "response_reset");
    let mut client = open(&worker);
    client.write_all(b"s").unwrap();
    assert_eq!(logged_reason(&worker, || reset(client)), "client_aborted");
}
