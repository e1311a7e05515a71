//! Answers of backends: read strictly, and passed on with one length.
#![expect(clippy::disallowed_types, reason = "tests play clients and backends")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::harness::*;

/// Sends `head`, then, after a moment where `in_pieces`, `rest`; keeps the connection open.
fn says(head: &'static str, rest: &'static str, in_pieces: bool) -> Backend {
    Backend::start(move |_, mut stream| {
        while !read_head(&mut stream).is_empty() {
            stream.write_all(head.as_bytes()).unwrap();
            if in_pieces {
                std::thread::sleep(Duration::from_millis(30));
            }
            let _ = stream.write_all(rest.as_bytes());
        }
    })
}

/// Everything that the worker says to two requests on one connection.
fn hear(worker: &Harness, method: &str) -> String {
    let mut client = worker.client();
    let request = format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n");
    client.0.write_all(request.as_bytes()).unwrap();
    let _ = client.answer(false);
    client.0.write_all(b"GET /last HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    let mut heard = String::new();
    client.0.read_to_string(&mut heard).unwrap();
    heard
}

#[test]
fn answer_with_two_framings_is_malformed_and_nothing_of_its_body_is_an_answer() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nevil!";
    let size = format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len());
    let rest: &'static str = size.leak();
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
    ] {
        for in_pieces in [false, true] {
            let backend = says(head, rest, in_pieces);
            let worker = Harness::start(&[backend.address]);
            for method in ["GET", "POST"] {
                let mut client = worker.client();
                let answer = client.ask(&format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n"));
                assert_eq!((answer.status, answer.reason()), (502, "response_malformed"), "{method} {head}");
                let heard = hear(&worker, method);
                assert!(!heard.contains("evil"), "{method} {head}: {heard}");
            }
        }
    }
}

#[test]
fn same_length_said_twice_is_one() {
    for in_pieces in [false, true] {
        let backend = says("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", "hello", in_pieces);
        let worker = Harness::start(&[backend.address]);
        let mut client = worker.client();
        for method in ["GET", "POST"] {
            let answer = client.ask(&format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n"));
            assert_eq!((answer.header("content-length"), answer.text()), (Some("5"), "hello"));
        }
    }
}

#[test]
fn length_in_answers_to_head_and_in_304_is_kept() {
    let backend = Backend::start(|_, mut stream: TcpStream| {
        loop {
            let head = read_head(&mut stream);
            match head.split(' ').next() {
                Some("HEAD") => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n").unwrap(),
                Some("GET") => {
                    stream.write_all(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 78\r\n\r\n").unwrap()
                }
                _ => return,
            }
        }
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    for _ in 0..2 {
        let head = client.ask("HEAD / HTTP/1.1\r\nhost: h\r\n\r\n");
        assert_eq!((head.status, head.header("content-length")), (200, Some("77")));
        let not_modified = client.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
        assert_eq!((not_modified.status, not_modified.header("content-length")), (304, Some("78")));
    }
}

#[test]
fn answer_in_small_pieces_is_passed_on_whole() {
    let backend = Backend::start(|_, mut stream| {
        let idempotent = read_head(&mut stream).starts_with("GET");
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n").unwrap();
        for number in 0..500 {
            write!(stream, "{}", number % 10).unwrap();
            if !idempotent && number == 250 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let worker = Harness::start(&[backend.address]);
    for method in ["GET", "POST"] {
        let answer = worker.client().ask(&format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n"));
        assert_eq!(answer.text(), "0123456789".repeat(50), "{method}");
    }
}

#[test]
fn what_a_backend_says_unasked_is_nobodys_answer() {
    let backend = Backend::start(|_, mut stream| {
        while !read_head(&mut stream).is_empty() {
            answer(&mut stream, "asked");
            std::thread::sleep(Duration::from_millis(1));
            answer(&mut stream, "unasked");
        }
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    for method in ["GET", "POST"].repeat(5) {
        let answer = client.ask(&format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n"));
        assert_eq!(answer.text(), "asked", "{method}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const EARLY_HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";

#[test]
fn interim_answers_are_read_over_and_bounded() {
    let hints = |count: usize, pause: Duration| {
        Backend::start(move |_, mut stream| {
            while !read_head(&mut stream).is_empty() {
                for _ in 0..count {
                    if stream.write_all(EARLY_HINTS.as_bytes()).is_err() {
                        return;
                    }
                    std::thread::sleep(pause);
                }
                answer(&mut stream, "ok");
            }
        })
    };
    let ask = |backend: &Backend| {
        let worker =
            Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].read_timeout_ms = 50);
        worker.client().ask("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")
    };
    assert_eq!(ask(&hints(10, Duration::from_millis(20))).text(), "ok");
    assert_eq!(ask(&hints(usize::MAX, Duration::from_millis(20))).reason(), "response_timeout");
    assert_eq!(ask(&hints(usize::MAX, Duration::ZERO)).reason(), "response_malformed");
}

#[test]
fn head_of_an_answer_is_as_large_as_that_of_a_request_may_be() {
    for (bytes, expect) in [(30 * 1024, 200), (33 * 1024, 502)] {
        let backend = Backend::start(move |_, mut stream| {
            read_head(&mut stream);
            write!(stream, "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(bytes))
                .unwrap();
            read_head(&mut stream);
        });
        let worker = Harness::start(&[backend.address]);
        assert_eq!(worker.get("/").status, expect);
    }
}
