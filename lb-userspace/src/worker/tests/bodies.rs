//! Bodies both ways.
#![expect(clippy::disallowed_types, reason = "tests play clients and backends")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::harness::*;

/// A backend that answers with what it got: head and de-chunked body.
fn mirror() -> Backend {
    Backend::start(|_, mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            let (body, trailers) = read_body(&mut stream, &head);
            answer(&mut stream, &format!("{head}{}{trailers}", String::from_utf8_lossy(&body)));
        }
    })
}

fn read_body(stream: &mut TcpStream, head: &str) -> (Vec<u8>, String) {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    if let Some(length) = length {
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        return (body, String::new());
    }
    let (mut body, mut trailers) = (Vec::new(), String::new());
    if head.contains("transfer-encoding: chunked") {
        loop {
            let size = usize::from_str_radix(read_line(stream).trim(), 16).unwrap();
            if size == 0 {
                break;
            }
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).unwrap();
            body.extend_from_slice(&chunk[..size]);
        }
        trailers = read_head(stream);
    }
    (body, trailers)
}

#[test]
fn body_with_length_is_relayed() {
    let worker = Harness::start(&[mirror().address]);
    let answer = worker.client().ask("POST /p HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello");
    assert!(answer.text().ends_with("\r\n\r\nhello"), "{}", answer.text());
}

#[test]
fn chunked_body_keeps_its_framing_and_trailers() {
    let worker = Harness::start(&[mirror().address]);
    let answer = worker.client().ask(
        "POST /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    assert!(answer.text().contains("transfer-encoding: chunked"), "{}", answer.text());
    assert!(answer.text().contains("\r\n\r\nabcdex-sum: 7\r\n"), "{}", answer.text());
}

#[test]
fn chunked_body_is_relayed_whatever_the_method() {
    let worker = Harness::start(&[mirror().address]);
    let mut client = worker.client();
    for method in ["GET", "DELETE", "OPTIONS", "PROPFIND", "GET"] {
        let head = format!("{method} /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
        let answer = client.ask(&format!("{head}5\r\nhello\r\n0\r\n\r\n"));
        assert!(answer.text().ends_with("\r\n\r\nhello\r\n"), "{}", answer.text());
    }
}

#[test]
fn continue_is_answered_only_for_requests_that_are_taken() {
    let worker = Harness::start(&[mirror().address]);
    let mut client = worker.client();
    client
        .0
        .write_all(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .unwrap();
    assert_eq!(client.answer(false).status, 100);
    client.0.write_all(b"hi").unwrap();
    let answer = client.answer(false);
    assert!(answer.text().ends_with("hi") && !answer.text().contains("expect"), "{}", answer.text());
    let refused = worker
        .client()
        .ask("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2000000\r\n\r\n");
    assert_eq!((refused.status, refused.reason()), (413, "body_too_large"));
    let refused =
        worker.client().ask("POST / HTTP/1.1\r\nhost: h\r\nexpect: coffee\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(refused.status, 417);
}

#[test]
fn body_that_grows_too_large_on_the_way_is_refused() {
    let backend = Backend::start(|_, mut stream| {
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink);
    });
    let worker = Harness::start_with(&[backend.address], |snapshot| {
        snapshot.routes[0].body_bytes_max = Some(1000);
    });
    let mut client = worker.client();
    client.0.write_all(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = format!("200\r\n{}\r\n", "x".repeat(0x200));
    client.0.write_all(chunk.repeat(2).as_bytes()).unwrap();
    let answer = client.answer(false);
    assert_eq!((answer.status, answer.reason()), (413, "body_too_large"));
}

#[test]
fn large_bodies_pass_unchanged_both_ways() {
    let backend = Backend::start(|_, mut stream| {
        let head = read_head(&mut stream);
        let (body, _) = read_body(&mut stream, &head);
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(&body).unwrap();
    });
    let worker = Harness::start_with(&[backend.address], |snapshot| snapshot.routes[0].body_bytes_max = None);
    let body: Vec<u8> = (0..8_000_000u32).map(|number| (number / 7) as u8).collect();
    let mut client = worker.client();
    write!(client.0, "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    let mut writer = client.0.try_clone().unwrap();
    let sent = body.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let answer = client.answer(false);
    writing.join().unwrap();
    assert!(answer.body == body);
}

#[test]
fn chunked_answer_arrives_piece_by_piece_with_trailers() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::start(move |_, mut stream| {
        read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n")
            .unwrap();
        wait.lock().unwrap().recv().unwrap();
        stream.write_all(b"2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n").unwrap();
        read_head(&mut stream);
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    client.0.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te\r\n\r\n").unwrap();
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = read_head(&mut client.0);
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut first = [0; 8];
    client.0.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"3\r\nabc\r\n");
    go.send(()).unwrap();
    let mut rest = [0; 22];
    client.0.read_exact(&mut rest).unwrap();
    assert_eq!(std::str::from_utf8(&rest).unwrap(), "2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n");
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let backend = Backend::start(|_, mut stream| {
        loop {
            let head = read_head(&mut stream);
            match head.split(' ').next() {
                Some("HEAD") => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n").unwrap(),
                Some("GET") => stream.write_all(b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n").unwrap(),
                Some("DELETE") => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(),
                _ => return,
            }
        }
    });
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    for (method, status) in [("HEAD", 200), ("GET", 304), ("DELETE", 204), ("HEAD", 200)] {
        let answer = client.ask(&format!("{method} / HTTP/1.1\r\nhost: h\r\n\r\n"));
        assert_eq!(answer.status, status, "{method}");
    }
    assert_eq!(backend.accepted.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn old_clients_get_no_chunks_and_are_closed() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let worker = Harness::start(&[backend.address]);
    let answer = worker.client().ask("GET / HTTP/1.0\r\nhost: h\r\n\r\n");
    assert_eq!((answer.status, answer.text()), (200, "abc"));
    assert!(answer.header("transfer-encoding").is_none(), "{}", answer.head);
}

/// Answers before it has read the request's body, and ends the answer when it has read so many bytes.
fn answers_early(bytes: usize) -> Backend {
    Backend::start(move |_, mut stream| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n").unwrap();
        if stream.read_exact(&mut vec![0; bytes]).is_ok() {
            stream.write_all(b"0\r\n\r\n").unwrap();
        }
    })
}

#[test]
fn client_that_pauses_while_its_answer_arrives_is_no_failure_of_the_backend() {
    let backend = answers_early(10);
    let worker =
        Harness::start_with(&[backend.address], |snapshot| snapshot.upstreams[0].read_timeout_ms = 100);
    let mut client = worker.client();
    client.0.write_all(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(read_head(&mut client.0).contains("200 OK"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.0.write_all(b"67890").unwrap();
    let mut rest = [0; 12];
    client.0.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"2\r\nab\r\n0\r\n\r\n");
    assert_eq!(worker.receive(std::time::Duration::from_millis(50)), None, "no failure is reported");
}

#[test]
fn connection_is_kept_where_answer_and_request_end_together() {
    let backend = answers_early(10);
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    for _ in 0..3 {
        client.0.write_all(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n12345").unwrap();
        client.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = read_head(&mut client.0);
        assert!(head.contains("200 OK") && !head.contains("connection"), "{head}");
        client.0.write_all(b"67890").unwrap();
        let mut rest = [0; 12];
        client.0.read_exact(&mut rest).unwrap();
    }
}

#[test]
fn request_that_breaks_while_its_answer_arrives_is_the_clients_fault() {
    let backend = answers_early(100);
    let worker = Harness::start(&[backend.address]);
    let errors = tempfile::NamedTempFile::new().unwrap();
    worker.attach(crate::link::Attachment::ErrorLog, errors.reopen().unwrap().as_fd());
    worker.settle();
    let mut client = worker.client();
    client
        .0
        .write_all(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n")
        .unwrap();
    client.0.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(read_head(&mut client.0).contains("200 OK"));
    client.0.write_all(b"nonsense\r\n").unwrap();
    let logged = || std::io::read_to_string(errors.reopen().unwrap()).unwrap();
    wait_until("it is logged", || logged().contains('\n'));
    assert!(logged().contains("\"reason\":\"bad_request\""), "{}", logged());
    assert_eq!(worker.receive(std::time::Duration::from_millis(50)), None, "no failure is reported");
}

#[test]
fn body_that_breaks_after_the_head_is_400_and_never_499() {
    for (rest, reason) in [("5\r\nhello\r\nzz\r\n", "bad_request"), ("5\r\nhe", "client_aborted")] {
        let backend = mirror();
        let worker = Harness::start(&[backend.address]);
        let mut client = worker.client();
        client.0.write_all(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        wait_until("the request is under way", || worker.active(0) == 1);
        client.0.write_all(rest.as_bytes()).unwrap();
        client.0.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = client.answer(false);
        assert_eq!((answer.status, answer.reason()), (400, reason));
    }
}
