use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::worker::request::framing::Phase;

type Socket = TokioIo<DuplexStream>;

/// What the handler saw: target and violation at the start, then length of the body or its violation.
type Seen = (String, Option<Reason>, Result<usize, Option<Reason>>);

/// [`Seen`] as test cases write it.
type Expected = (&'static str, Option<Reason>, Result<usize, Option<Reason>>);

/// Answers 200 with the body's length, or with the status of the violation.
async fn answer(
    handle: GateHandle,
    begun: Option<Reason>,
    request: Request<hyper::body::Incoming>,
    seen: Rc<RefCell<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().to_string();
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes().len()).map_err(|_| handle.violation());
    seen.borrow_mut().push((target, begun, body));
    let reason = begun.or(body.err().flatten());
    let status = reason.map_or(200, Reason::status);
    let mut response = Response::new(Full::new(Bytes::from(format!("{body:?}"))));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if reason.is_some() {
        response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    }
    handle.upgrade_refused();
    Ok(response)
}

/// Serves one connection on which the client sends `stream` in pieces; what the handler saw, what the client got.
fn serve(stream: &[u8], piece: usize) -> (Vec<Seen>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (gate, handle) = Gate::new(Socket::new(server));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let service =
            service_fn(|request| answer(handle.clone(), handle.begin_request(), request, seen.clone()));
        let connection =
            hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(gate, service);
        let (mut read, mut write) = tokio::io::split(client);
        let talk = async {
            for bytes in stream.chunks(piece) {
                // The server may have hung up already.
                let _ = write.write_all(bytes).await;
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
        };
        let listen = async {
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            String::from_utf8(got).unwrap()
        };
        let serve = async { drop(connection.await) };
        let ((), got, ()) = tokio::join!(talk, listen, serve);
        assert!(handle.bytes_read() > 0);
        assert_eq!(handle.bytes_written(), got.len() as u64);
        let seen = seen.borrow().clone();
        (seen, got)
    })
}

fn check(stream: &[u8], expect: &[Expected]) {
    for piece in [1, 7, stream.len()] {
        let (seen, got) = serve(stream, piece);
        // Whether a broken body is known when its request begins depends on how the bytes came.
        let at_start = |begun: &Option<Reason>, body: &Result<_, _>| begun.filter(|_| body.is_ok());
        let seen: Vec<_> =
            seen.iter().map(|(target, begun, body)| (&**target, at_start(begun, body), *body)).collect();
        assert_eq!(seen, expect, "in pieces of {piece}: {got}");
        let statuses: Vec<u16> = got
            .match_indices("HTTP/1.1 ")
            .map(|(at, prefix)| got[at + prefix.len()..][..3].parse().unwrap())
            .collect();
        let expect: Vec<u16> = expect
            .iter()
            .map(|(_, begun, body)| begun.or(body.err().flatten()).map_or(200, Reason::status))
            .collect();
        assert_eq!(statuses, expect);
    }
}

const GOOD: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const BAD: &[u8] = b"GET /evil HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
const REFUSED: Expected = ("/", Some(Reason::BadRequest), Ok(0));

#[test]
fn good_requests_pass() {
    check(GOOD, &[("/a", None, Ok(0))]);
    check(&[GOOD, GOOD, GOOD].concat(), &[("/a", None, Ok(0)); 3]);
    let post = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    check(&[post, GOOD].concat(), &[("/p", None, Ok(5)), ("/a", None, Ok(0))]);
    let chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n";
    check(&[chunked, GOOD].concat(), &[("/c", None, Ok(6)), ("/a", None, Ok(0))]);
}

#[test]
fn refused_head_never_reaches_the_handler_as_itself() {
    check(BAD, &[REFUSED]);
    check(b"GET /\n\n", &[REFUSED]);
    check(b"\x16\x03\x01 not http at all", &[REFUSED]);
}

#[test]
fn violation_belongs_to_the_request_that_made_it() {
    check(&[GOOD, BAD].concat(), &[("/a", None, Ok(0)), REFUSED]);
    check(&[GOOD, GOOD, BAD, GOOD].concat(), &[("/a", None, Ok(0)), ("/a", None, Ok(0)), REFUSED]);
}

#[test]
fn broken_body_ends_in_an_error_with_its_reason() {
    let broken = b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n";
    check(broken, &[("/b", None, Err(Some(Reason::BadRequest)))]);
    check(
        &[GOOD, broken, GOOD].concat(),
        &[("/a", None, Ok(0)), ("/b", None, Err(Some(Reason::BadRequest)))],
    );
}

#[test]
fn truncated_body_is_no_violation() {
    let (seen, _) = serve(b"POST /t HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nhello", 100);
    assert_eq!(seen, [("/t".into(), None, Err(None))]);
}

#[test]
fn large_bodies_pass_whole() {
    let body = vec![b'x'; 1 << 20];
    let head = format!("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let (seen, _) = serve(&[head.as_bytes(), &body, GOOD].concat(), 50_000);
    assert_eq!(seen, [("/l".into(), None, Ok(1 << 20)), ("/a".into(), None, Ok(0))]);
    let mut chunked = b"POST /l HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(10_000) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    chunked.extend(GOOD);
    let (seen, _) = serve(&chunked, 50_000);
    assert_eq!(seen, [("/l".into(), None, Ok(1 << 20)), ("/a".into(), None, Ok(0))]);
}

#[test]
fn refused_upgrade_is_followed_by_requests() {
    let upgrade = b"GET /w HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    check(&[upgrade, GOOD].concat(), &[("/w", None, Ok(0)), ("/a", None, Ok(0))]);
    check(&[upgrade, BAD].concat(), &[("/w", None, Ok(0)), REFUSED]);
}

#[test]
fn bytes_after_an_upgrade_wait_for_it_and_then_pass_unread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (mut gate, handle) = Gate::new(Socket::new(server));
        let head = b"GET /w HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(&[&head[..], b"\x81\x00\n\0early"].concat()).await.unwrap();
        assert_eq!(read_some(&mut gate).await, head);
        assert_eq!(handle.phase(), Phase::Upgrade);
        let held = tokio::time::timeout(std::time::Duration::from_millis(20), read_some(&mut gate)).await;
        assert!(held.is_err(), "nothing passes before the decision");
        let decide = async {
            tokio::task::yield_now().await;
            // The answer to a request before it decides nothing.
            handle.upgrade_refused();
            tokio::task::yield_now().await;
            handle.begin_request();
            handle.upgrade_accepted();
        };
        let (bytes, ()) = tokio::join!(read_some(&mut gate), decide);
        assert_eq!(bytes, b"\x81\x00\n\0early");
        assert_eq!(handle.phase(), Phase::Raw);
        client.write_all(b"\r\nmore").await.unwrap();
        assert_eq!(read_some(&mut gate).await, b"\r\nmore");
        drop(client);
        assert_eq!(read_some(&mut gate).await, b"");
    });
}

#[test]
fn bytes_held_at_an_upgrade_are_not_lost_with_the_gate() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (mut gate, _handle) = Gate::new(Socket::new(server));
        let head = b"GET /w HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(&[&head[..], b"early"].concat()).await.unwrap();
        assert_eq!(read_some(&mut gate).await, head);
        let (_, held) = gate.into_parts();
        assert_eq!(held, "early");
    });
}

#[test]
fn head_that_takes_too_long_can_be_refused() {
    for sent in [&b""[..], b"GET / HT"] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(64 * 1024);
            let (mut gate, handle) = Gate::new(Socket::new(server));
            client.write_all(sent).await.unwrap();
            let refuse = async {
                tokio::task::yield_now().await;
                assert_eq!(handle.phase(), if sent.is_empty() { Phase::Idle } else { Phase::Head });
                handle.refuse_head(Reason::ClientTimeout);
            };
            let (bytes, ()) = tokio::join!(read_some(&mut gate), refuse);
            assert_eq!(bytes, SUBSTITUTE);
            assert_eq!(handle.begin_request(), Some(Reason::ClientTimeout));
        });
    }
}

#[test]
fn refusal_during_a_body_has_no_effect() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (mut gate, handle) = Gate::new(Socket::new(server));
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").await.unwrap();
        read_some(&mut gate).await;
        handle.refuse_head(Reason::ClientTimeout);
        client.write_all(b"llo").await.unwrap();
        assert_eq!(read_some(&mut gate).await, b"llo");
        assert_eq!(handle.violation(), None);
    });
}

#[test]
fn idle_connection_holds_no_buffer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (mut gate, _handle) = Gate::new(Socket::new(server));
        client.write_all(&[GOOD, GOOD].concat()).await.unwrap();
        read_some(&mut gate).await;
        assert!(gate.held.capacity() > 0);
        read_some(&mut gate).await;
        assert_eq!(gate.held.capacity(), 0);
    });
}

async fn read_some(gate: &mut Gate<Socket>) -> Vec<u8> {
    std::future::poll_fn(|cx| {
        let mut space = [0; 4096];
        let mut read = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *gate).poll_read(cx, read.unfilled())).unwrap();
        Poll::Ready(read.filled().to_vec())
    })
    .await
}
