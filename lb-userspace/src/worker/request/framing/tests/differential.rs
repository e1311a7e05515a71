//! What we accept, hyper and httparse accept too, and they see the same requests in it.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{Cursor, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::*;

/// What a parser saw of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    body: Result<Vec<u8>, ()>,
}

/// A connection on which everything has been sent already.
struct Memory {
    input: Cursor<Vec<u8>>,
    output: Rc<RefCell<Vec<u8>>>,
}

impl hyper::rt::Read for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let at = self.input.position() as usize;
        let rest = &self.input.get_ref()[at..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.input.set_position((at + count) as u64);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Memory {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.output.borrow_mut().write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The requests that hyper sees in `stream`, and what it answered.
fn hyper_sees(stream: &[u8]) -> (Vec<Seen>, String) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let output = Rc::new(RefCell::new(Vec::new()));
    let memory = Memory { input: Cursor::new(stream.to_vec()), output: output.clone() };
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(drop);
            seen.borrow_mut().push(Seen {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                body,
            });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Its errors are in what was seen: a truncated last message is one.
    let _ = runtime.block_on(
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(memory, service),
    );
    let seen = seen.borrow().clone();
    let output = String::from_utf8_lossy(&output.borrow()).into_owned();
    (seen, output)
}

/// The requests that we see: our cuts, read by httparse.
fn we_see(stream: &[u8]) -> Vec<Seen> {
    let mut framing = Framing::new();
    let mut seen = Vec::new();
    let mut rest = stream;
    loop {
        let progress = framing.feed(rest);
        let (message, after) = rest.split_at(progress.pass);
        if !message.is_empty() {
            let is_whole = matches!(progress.pause, Some(Pause::MessageEnd | Pause::Upgrade));
            seen.push(parse(message, is_whole));
        }
        match progress.pause {
            Some(Pause::Upgrade) => framing.refuse_upgrade(),
            Some(Pause::MessageEnd) => {}
            _ => return seen,
        }
        rest = after;
    }
}

fn parse(message: &[u8], is_whole: bool) -> Seen {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let head = request.parse(message).expect("httparse accepts").unwrap();
    let body = &message[head..];
    let is_chunked =
        request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
    Seen {
        method: request.method.unwrap().into(),
        target: request.path.unwrap().into(),
        body: if is_whole { Ok(if is_chunked { dechunk(body) } else { body.to_vec() }) } else { Err(()) },
    }
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let (line, size) = httparse::parse_chunk_size(body).expect("httparse accepts").unwrap();
        if size == 0 {
            return data;
        }
        data.extend_from_slice(&body[line..line + size as usize]);
        body = &body[line + size as usize + 2..];
    }
}

/// hyper rewrites `http://a` to `http://a/`.
fn same_target(hyper: &str, ours: &str) -> bool {
    hyper == ours
        || hyper.eq_ignore_ascii_case(ours)
        || hyper.replacen("/?", "?", 1).trim_end_matches('/').eq_ignore_ascii_case(ours.trim_end_matches('/'))
}

fn compare(stream: &[u8]) -> Result<(), TestCaseError> {
    let (passed, violation) = judge(stream);
    let ours = we_see(stream);
    let (hyper, answers) = hyper_sees(&stream[..passed]);
    prop_assert!(
        !answers.contains("HTTP/1.1 4"),
        "hyper refuses what we pass: {} {}",
        answers,
        stream.escape_ascii()
    );
    // hyper may stop earlier (`Connection: close`, HTTP/1.0), never later, and never sees something else.
    prop_assert!(hyper.len() <= ours.len(), "{:?} {:?}", hyper, ours);
    for (hyper, ours) in hyper.iter().zip(&ours) {
        prop_assert_eq!(&hyper.method, &ours.method);
        prop_assert!(same_target(&hyper.target, &ours.target), "{} {}", hyper.target, ours.target);
        prop_assert_eq!(&hyper.body, &ours.body, "{:?} {}", violation, stream.escape_ascii());
    }
    Ok(())
}

#[test]
fn good_streams_look_the_same_to_hyper() {
    for stream in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1 ;z\r\n!\r\n0\r\nX: y\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        compare(stream).unwrap();
        assert_eq!(we_see(stream).len(), 2);
        assert_eq!(hyper_sees(stream).0.len(), 2, "{}", stream.escape_ascii());
    }
}

#[test]
fn trailers_at_our_bounds_are_within_hypers() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let long = format!("{head}X: {}\r\n\r\n", "a".repeat(16 * 1024 - 8));
    assert_eq!(judge(long.as_bytes()).1, None);
    compare(long.as_bytes()).unwrap();
    let many = format!("{head}{}\r\n", "X: a\r\n".repeat(100));
    assert_eq!(judge(many.as_bytes()).1, None);
    compare(many.as_bytes()).unwrap();
}

#[test]
fn every_target_byte_that_we_accept_is_hypers_too() {
    for byte in 0..=255_u8 {
        for (before, after) in
            [("GET /a", "b"), ("GET /a?", "b"), ("GET http://a/", ""), ("GET http://a", "b/")]
        {
            let stream =
                [before.as_bytes(), &[byte], after.as_bytes(), b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            compare(&stream).unwrap();
        }
        let method = [b"G", &[byte][..], b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        compare(&method).unwrap();
        let field =
            [b"GET / HTTP/1.1\r\nHost: a\r\nX", &[byte][..], b"Y: z", &[byte][..], b"\r\n\r\n"].concat();
        compare(&field).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hyper_sees_what_we_see(stream in streams()) {
        compare(&stream)?;
    }
}
