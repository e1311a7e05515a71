mod differential;
mod smuggling;

use proptest::prelude::*;

use super::*;

/// A verdict on a whole stream: how many bytes passed, and the violation if there was one. An upgrade counts as refused.
pub(super) fn judge(stream: &[u8]) -> (usize, Option<Pause>) {
    judge_in_pieces(stream, &mut std::iter::repeat(stream.len().max(1)))
}

/// The same, with the bytes coming in pieces of these sizes; what does not pass is given again, as the gate does.
pub(super) fn judge_in_pieces(
    stream: &[u8],
    sizes: &mut dyn Iterator<Item = usize>,
) -> (usize, Option<Pause>) {
    let mut framing = Framing::new();
    let (mut passed, mut given) = (0, 0);
    loop {
        let progress = framing.feed(&stream[passed..given]);
        passed += progress.pass;
        match progress.pause {
            Some(Pause::Upgrade) => framing.refuse_upgrade(),
            Some(bad @ (Pause::BadHead(_) | Pause::BadBody(_))) => return (passed, Some(bad)),
            _ => {}
        }
        let is_stuck = progress.pause.is_none() || passed == given;
        if is_stuck && given == stream.len() {
            return (passed, None);
        }
        if is_stuck {
            given = stream.len().min(given + sizes.next().unwrap_or(1).max(1));
        }
    }
}

#[test]
fn message_ends_where_it_says() {
    let check = |stream: &[u8], first: usize| {
        let progress = Framing::new().feed(stream);
        assert_eq!(progress.pass, first, "{}", stream.escape_ascii());
        assert_eq!(progress.pause, Some(Pause::MessageEnd), "{}", stream.escape_ascii());
    };
    check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
    check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", 27);
    check(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 29);
    check(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET", 50);
    check(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nabc", 47);
    check(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET", 69);
    check(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\nGET", 67);
}

#[test]
fn upgrade_head_stops_the_stream_until_decided() {
    let stream = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81\x00GET";
    let head = stream.len() - 5;
    let mut framing = Framing::new();
    assert_eq!(framing.feed(stream), Progress { pass: head, pause: Some(Pause::Upgrade) });
    assert_eq!(framing.feed(&stream[head..]), Progress { pass: 0, pause: Some(Pause::Upgrade) });
    assert_eq!(framing.phase(), Phase::Upgrade);
    framing.accept_upgrade();
    assert_eq!(framing.feed(&stream[head..]), Progress { pass: 5, pause: None });
    assert_eq!(framing.phase(), Phase::Raw);
}

#[test]
fn upgrade_to_something_else_is_an_ordinary_request() {
    let stream = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(Framing::new().feed(stream), Progress { pass: stream.len(), pause: Some(Pause::MessageEnd) });
}

#[test]
fn phases_follow_the_stream() {
    let mut framing = Framing::new();
    assert_eq!(framing.phase(), Phase::Idle);
    framing.feed(b"P");
    assert_eq!(framing.phase(), Phase::Head);
    framing.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na");
    assert_eq!((framing.phase(), framing.opaque_bytes(), framing.heads()), (Phase::Body, 2, 1));
    framing.feed(b"bc");
    assert_eq!(framing.phase(), Phase::Idle);
    assert!(framing.refuse_head(Reason::ClientTimeout));
    assert_eq!(framing.feed(b"G").pause, Some(Pause::BadHead(Reason::ClientTimeout)));
}

#[test]
fn bounds_are_exact() {
    let head = |filler: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(filler));
    let room = HEAD_BYTES_MAX - head(0).len();
    assert_eq!(judge(head(room).as_bytes()).1, None);
    assert_eq!(judge(head(room + 1).as_bytes()).1, Some(Pause::BadHead(Reason::HeadersTooLarge)));
    let request = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(bytes - 1));
    assert_eq!(judge(request(crate::limits::URI_BYTES_MAX).as_bytes()).1, None);
    let long = request(crate::limits::URI_BYTES_MAX + 1);
    assert_eq!(judge(long.as_bytes()).1, Some(Pause::BadHead(Reason::UriTooLong)));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert_eq!(judge(fields(crate::limits::HEADERS_MAX).as_bytes()).1, None);
    let many = fields(crate::limits::HEADERS_MAX + 1);
    assert_eq!(judge(many.as_bytes()).1, Some(Pause::BadHead(Reason::HeadersTooLarge)));
}

/// Streams that are mostly right, so that random changes reach deep places.
pub(super) fn streams() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b=%41 HTTP/1.1\r\n",
        "GET http://a:80/ HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "CONNECT a:443 HTTP/1.1\r\n",
        "Host: a\r\n",
        "host: [::1]:8080\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length: 0x5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: keep-alive\r\n",
        "Connection: close, X-A\r\n",
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "X-A: b\r\n",
        " folded\r\n",
        "X-A : b\r\n",
        "Expect: 100-continue\r\n",
        "Trailer: X\r\n",
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "5 ;a\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nX: y\r\n\r\n",
        "hello",
        "\0",
        " ",
        "0\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ]);
    (
        prop::collection::vec(pieces, 1..14),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
    )
        .prop_map(|(pieces, changes)| {
            let mut stream = pieces.concat().into_bytes();
            for (at, byte) in changes {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            stream
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn verdict_does_not_depend_on_how_bytes_are_cut(stream in streams(), sizes in prop::collection::vec(1..40_usize, 1..8)) {
        let whole = judge(&stream);
        prop_assert_eq!(judge_in_pieces(&stream, &mut std::iter::repeat(1)), whole);
        prop_assert_eq!(judge_in_pieces(&stream, &mut sizes.into_iter().cycle()), whole);
    }

    #[test]
    fn any_bytes_are_judged_without_panic(stream: Vec<u8>) {
        let (passed, _) = judge(&stream);
        prop_assert!(passed <= stream.len());
    }
}
