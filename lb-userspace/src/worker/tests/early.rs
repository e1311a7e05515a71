//! Answers that come before the request was read: they must reach a client that is still sending.

use std::io::{Read, Write};

use super::harness::*;

/// Writes all of it without looking whether there is an answer, then reads one.
fn ask_blindly(worker: &Harness, head: &str, body: &[u8]) -> Answer {
    let mut client = worker.client();
    client.0.write_all(head.as_bytes()).unwrap();
    client.0.write_all(body).expect("everything is taken");
    client.answer(false)
}

fn upload(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n")
}

#[test]
fn client_that_sends_all_before_it_looks_reads_its_413() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let body = vec![b'x'; 50_000_000];
    for _ in 0..10 {
        let answer = ask_blindly(&worker, &upload(body.len()), &body);
        assert_eq!((answer.status, answer.reason()), (413, "body_too_large"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
}

#[test]
fn early_answers_of_all_kinds_are_read() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").unwrap();
        // It closes in good order: what it has not read would otherwise reset its answer.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.routes[0].body_bytes_max = None;
        snapshot.routes[0].host = Some(crate::config::model::HostPattern::Exact("h".into()));
    });
    let body = vec![b'x'; 10_000_000];
    let chunked = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    for _ in 0..10 {
        for (head, status) in [
            (upload(body.len()), 401),
            (upload(body.len()).replace("host: h", "host: other"), 404),
            (upload(body.len()).replace("host: h", "host: h\r\nhost: i"), 400),
            (upload(body.len()).replace("host: h", "host: h\r\nexpect: coffee"), 417),
            (chunked.to_owned(), 400),
        ] {
            let answer = ask_blindly(&worker, &head, &body);
            assert_eq!(answer.status, status, "{head}");
            assert_eq!(answer.header("connection"), Some("close"), "{head}");
        }
    }
}

#[test]
fn connection_is_kept_where_the_body_has_come() {
    let worker = Harness::start(&[nobody()]);
    let mut client = worker.client();
    for request in [
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
    ] {
        let answer = client.ask(request);
        assert_eq!((answer.status, answer.header("connection")), (502, None), "{request}");
    }
}

#[test]
fn body_that_waits_to_be_asked_for_is_not_asked_for_in_vain() {
    let worker = Harness::start(&[nobody()]);
    let mut client = worker.client();
    let head = "POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let answer = client.ask(head);
    assert_eq!((answer.status, answer.header("connection")), (502, Some("close")));
}

#[test]
fn connection_ends_in_good_order_with_its_last_answer() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    for _ in 0..20 {
        let mut client = worker.client();
        let request = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        client.0.write_all(request.repeat(50).as_bytes()).unwrap();
        let mut heard = String::new();
        client.0.read_to_string(&mut heard).expect("no reset");
        assert_eq!(heard.matches("HTTP/1.1 200").count(), 1);
    }
}
