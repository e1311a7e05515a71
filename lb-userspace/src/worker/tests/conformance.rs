//! Small rules of HTTP that have no place of their own.

use std::io::Write;
use std::os::fd::AsFd;

use super::harness::*;
use crate::link::Attachment;

#[test]
fn options_for_the_whole_host_takes_the_route_of_its_root() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let answer = worker.client().ask("OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n");
    assert!(answer.text().starts_with("one\nOPTIONS * HTTP/1.1\r\n"), "{}", answer.text());
}

#[test]
fn max_forwards_is_counted_down_and_answered_at_its_end() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    let ask = |left: &str| format!("OPTIONS /x HTTP/1.1\r\nhost: h\r\nmax-forwards: {left}\r\n\r\n");
    assert!(client.ask(&ask("3")).text().contains("max-forwards: 2\r\n"));
    let last = client.ask(&ask("0"));
    assert_eq!((last.status, last.text()), (200, ""));
    assert!(last.header("allow").is_some_and(|allow| allow.contains("get")), "{}", last.head);
    assert!(client.ask(&ask("3").replace("OPTIONS", "GET")).text().contains("max-forwards: 3\r\n"));
}

#[test]
fn refused_method_is_told_which_are_allowed() {
    let worker = Harness::start(&[nobody()]);
    let answer = worker.client().ask("TRACE / HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!((answer.status, answer.header("allow").is_some()), (405, true));
}

#[test]
fn expectations_are_one_or_none() {
    let worker = Harness::start(&[nobody()]);
    for expect in [
        "expect: 100-continue\r\nexpect: 100-continue\r\n",
        "expect: 100-continue, x\r\n",
        "expect:\r\n",
        "expect: coffee\r\n",
    ] {
        let answer = worker.client().ask(&format!("GET / HTTP/1.1\r\nhost: h\r\n{expect}\r\n"));
        assert_eq!((answer.status, answer.reason()), (417, "expectation_failed"), "{expect}");
    }
}

#[test]
fn other_versions_are_505() {
    let worker = Harness::start(&[nobody()]);
    for line in ["GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "PRI * HTTP/2.0"] {
        let answer = worker.client().ask(&format!("{line}\r\nhost: h\r\n\r\n"));
        assert_eq!((answer.status, answer.reason()), (505, "version_not_supported"), "{line}");
    }
    for line in ["GET / HTTP/11", "GET / http/1.1", "GET / HTTP/1.1x", "GET / SIP/2.0"] {
        let answer = worker.client().ask(&format!("{line}\r\nhost: h\r\n\r\n"));
        assert_eq!(answer.status, 400, "{line}");
    }
}

#[test]
fn request_id_is_passed_on_where_it_can_stand_anywhere() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let passed = |lines: &str| {
        let answer = worker.client().ask(&format!("GET / HTTP/1.1\r\nhost: h\r\n{lines}\r\n"));
        let ids: Vec<String> = answer
            .text()
            .lines()
            .filter_map(|line| Some(line.strip_prefix("x-request-id: ")?.to_owned()))
            .collect();
        assert_eq!(ids.len(), 1, "{lines}: {ids:?}");
        ids[0].clone()
    };
    assert_eq!(passed("x-request-id: a-1/b=\r\n"), "a-1/b=");
    assert_eq!(passed(&format!("x-request-id: {}\r\n", "x".repeat(128))), "x".repeat(128));
    for bad in [
        "x-request-id: a\r\nx-request-id: b\r\n".to_owned(),
        "x-request-id:\r\n".to_owned(),
        "x-request-id: a b\r\n".to_owned(),
        "x-request-id: \u{e9}\r\n".to_owned(),
        format!("x-request-id: {}\r\n", "x".repeat(129)),
    ] {
        assert_eq!(passed(&bad).len(), 20, "{bad}");
    }
}

#[test]
fn reason_is_ours_to_tell_and_told_only_where_the_operator_says_so() {
    let backend = Backend::start(|_, mut stream| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nx-lb-reason: no_backend\r\ncontent-length: 0\r\n\r\n").unwrap();
        read_head(&mut stream);
    });
    let mut worker = Harness::start(&[backend.address]);
    assert_eq!(worker.get("/").header("x-lb-reason"), None);
    assert_eq!(worker.client().ask("GET / HTTP/1.1\r\n\r\n").text(), "bad_request\n");
    worker.snapshot.reason_header = false;
    worker.publish();
    let answer = worker.client().ask("GET / HTTP/1.1\r\n\r\n");
    assert_eq!((answer.header("x-lb-reason"), answer.text()), (None, "Bad Request\n"));
}

#[test]
fn logs_have_the_version_and_what_was_read_of_refused_heads() {
    let backend = Backend::echo("one");
    let mut worker = Harness::start(&[backend.address]);
    let log = tempfile::NamedTempFile::new().unwrap();
    worker.attach(Attachment::AccessLog, log.reopen().unwrap().as_fd());
    worker.publish();
    let records = |count: usize| -> Vec<serde_json::Value> {
        let text = || std::io::read_to_string(log.reopen().unwrap()).unwrap();
        wait_until("all are logged", || text().lines().count() == count);
        text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    worker.client().ask("GET /old HTTP/1.0\r\n\r\n");
    worker.client().ask("GET /a\"b HTTP/1.1\r\nhost: h\r\nhost: i\r\n\r\n");
    worker.client().ask("\u{16}\u{3}\u{1} not http\r\n\r\n");
    worker.client().ask(&format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "x".repeat(9000)));
    let records = records(4);
    let field = |index: usize, name: &str| records[index][name].as_str().unwrap().to_owned();
    assert_eq!((field(0, "protocol"), field(0, "path")), ("HTTP/1.0".into(), "/old".into()));
    assert_eq!((field(1, "method"), field(1, "path")), ("GET".into(), "/a\"b".into()));
    assert_eq!((field(2, "method"), field(2, "path")), ("\u{16}\u{3}\u{1}".into(), "not".into()));
    assert_eq!((records[3]["status"].as_u64(), field(3, "path").len()), (Some(414), 1024 - 4));
}
