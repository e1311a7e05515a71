//! Any bytes of a client are judged alike however they come; what passes is HTTP to another parser too, and its fields
//! leave the rewriting clean.
//!
//! `cargo xtask fuzz`, or by hand in the top folder:
//! `cargo +nightly fuzz run --sanitizer none --fuzz-dir tests/fuzz headers -- -max_total_time=60`

#![no_main]

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use lb_userspace::config::model::{HeaderChanges, Template, TemplatePart, Variable};
use lb_userspace::config::route_path;
use lb_userspace::worker::request::framing::{Framing, Pause};
use lb_userspace::worker::request::rewrite::{CompiledChanges, apply, strip_hop_by_hop, strip_trailers};
use lb_userspace::worker::request::route::plain_host;
use lb_userspace::worker::request::variables::Variables;
use lb_userspace::worker::request::{forwarded, protocols};
use libfuzzer_sys::fuzz_target;

/// What must never reach a backend as it came.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "proxy"];

static CHANGES: LazyLock<CompiledChanges> = LazyLock::new(|| {
    let parts = [Variable::Host, Variable::Method, Variable::Path, Variable::Query, Variable::ClientIp];
    let template = Template { parts: parts.map(TemplatePart::Variable).to_vec() };
    let changes = |name: &str| [(name.to_owned(), template.clone())].into();
    CompiledChanges::new(&HeaderChanges {
        set: changes("x-set"),
        append: changes("x-append"),
        ..HeaderChanges::default()
    })
});

fuzz_target!(|input: &[u8]| {
    let Some((&piece, stream)) = input.split_first() else { return };
    let mut messages = Vec::new();
    let whole = judge(stream, stream.len().max(1), |message, pause| messages.push((message.to_vec(), pause)));
    assert_eq!(judge(stream, 1, |_, _| {}), whole);
    assert_eq!(judge(stream, usize::from(piece) + 1, |_, _| {}), whole);
    for (message, pause) in messages {
        check_message(&message, pause, piece);
    }
});

/// How much passes of `stream` when it comes in pieces of this size, and the violation. Every message that begins in a
/// piece is shown.
fn judge(stream: &[u8], piece: usize, mut show: impl FnMut(&[u8], Option<Pause>)) -> (usize, Option<Pause>) {
    let mut framing = Framing::new();
    let (mut passed, mut given) = (0, 0);
    loop {
        let heads = framing.heads();
        let progress = framing.feed(&stream[passed..given]);
        assert!(progress.pass <= given - passed);
        if framing.heads() > heads {
            show(&stream[passed..passed + progress.pass], progress.pause);
        }
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
            given = stream.len().min(given + piece);
        }
    }
}

/// As the framing says it (RFC 9112 §6.3).
fn has_body(headers: &HeaderMap) -> bool {
    let is_zero =
        |length: &HeaderValue| length.to_str().is_ok_and(|digits| digits.trim().parse() == Ok(0_u64));
    headers.contains_key("transfer-encoding")
        || headers.get("content-length").is_some_and(|length| !is_zero(length))
}

fn check_message(message: &[u8], pause: Option<Pause>, choice: u8) {
    let mut parsed = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut parsed);
    assert!(request.parse(message).expect("httparse reads what passes").is_complete());
    let mut headers = HeaderMap::new();
    for header in request.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).expect("a token");
        headers.append(name, HeaderValue::from_bytes(header.value).expect("a field value"));
    }
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).expect("a token");
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let asked = protocols::asked(&method, version, &headers, has_body(&headers));
    assert_eq!(asked.is_some(), pause == Some(Pause::Upgrade));
    assert!(headers.get_all("host").iter().count() <= 1);
    assert!(!(headers.contains_key("content-length") && headers.contains_key("transfer-encoding")));
    let target = request.path.unwrap_or_default();
    target.parse::<http::Uri>().expect("the http crate reads targets that pass");
    check_fields(headers, &method, target, choice);
}

fn check_fields(mut headers: HeaderMap, method: &Method, target: &str, choice: u8) {
    let host = headers.get("host").map_or(String::new(), |host| host.to_str().expect("ASCII").to_owned());
    assert!(!plain_host(&host).bytes().any(|byte| byte.is_ascii_uppercase()));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    assert!(!route_path::ours(path).split('/').any(|segment| matches!(segment, "." | "..")));
    assert!(route_path::other_readings(path).iter().all(|reading| reading.starts_with('/')));
    let mut trailers = headers.clone();
    strip_trailers(&mut trailers);
    assert!(!trailers.contains_key("host"));
    strip_hop_by_hop(&mut headers);
    let peer = SocketAddr::from(([10, 0, 0, choice], 4711));
    let networks = ["10.0.0.0/8".parse().expect("a network")];
    let trusted = if choice & 1 == 0 { &networks[..] } else { &[] };
    let client = forwarded::set(&mut headers, peer, "http", &host, trusted, &CHANGES);
    assert!(client == peer.ip() || !trusted.is_empty());
    let variables = Variables {
        host: &host,
        client_ip: client,
        client_port: peer.port(),
        scheme: "http",
        request_id: "0",
        method: method.as_str(),
        path,
        query,
        listener: "web",
        upstream: "docs",
        backend: "docs:0",
    };
    apply(&CHANGES, &mut headers, &variables);
    for name in HOP_BY_HOP {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(headers["x-real-ip"].to_str().ok().and_then(|text| text.parse::<IpAddr>().ok()), Some(client));
    assert!(headers["x-forwarded-for"].as_bytes().ends_with(peer.ip().to_string().as_bytes()));
    assert!(headers["x-set"].as_bytes().iter().all(|byte| matches!(byte, b' '..=b'~')));
}
