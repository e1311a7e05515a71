//! Which protocols a client and a backend may change to (RFC 9110 §7.8). Gate and handler ask the same functions: in a
//! tunnel that the gate does not know of, it would go on reading requests.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

/// What every WebSocket is asked for by.
pub const WEBSOCKET: &[u8] = b"websocket";

/// Whether a listed protocol, other than [`WEBSOCKET`], is one that we relay: any name but those of HTTP itself and of TLS, which would
/// carry requests past our checks (`h2c` is the classic of smuggling).
pub fn is_other(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    let refused: [&[u8]; 4] = [WEBSOCKET, b"h2", b"http", b"tls"];
    // Its drafts, too: `h2c-14`.
    let is_h2c = name.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case(b"h2c"));
    !name.is_empty() && !is_h2c && !refused.iter().any(|refused| name.eq_ignore_ascii_case(refused))
}

/// The protocol to ask the backend for: `websocket` where a GET lists it, else the first other one that a request without a body
/// lists; `None` where HTTP/1.1 or the nomination by `Connection` is missing.
pub fn asked(method: &Method, version: Version, headers: &HeaderMap, has_body: bool) -> Option<HeaderValue> {
    let is_nominated =
        listed(headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    if version != Version::HTTP_11 || !is_nominated || has_body || method == Method::CONNECT {
        return None;
    }
    let is_websocket = |protocol: &[u8]| protocol.eq_ignore_ascii_case(WEBSOCKET);
    if method == Method::GET && listed(headers, &header::UPGRADE).any(is_websocket) {
        return Some(HeaderValue::from_static("websocket"));
    }
    let other = listed(headers, &header::UPGRADE).find(|protocol| is_other(protocol))?;
    HeaderValue::from_bytes(other).ok()
}

/// Whether the backend's 101 confirms what it was asked for.
pub fn confirms(headers: &HeaderMap, asked: &HeaderValue) -> bool {
    listed(headers, &header::UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(asked.as_bytes()))
}

fn listed<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::worker::request::framing::{Framing, Pause};

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn check(method: Method, version: Version, upgrade: &'static str, expect: Option<&str>) {
        let lines = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", upgrade)]);
        let asked = asked(&method, version, &lines, false);
        assert_eq!(asked.as_ref().map(|value| value.to_str().unwrap()), expect, "{method} {upgrade}");
    }

    #[test]
    fn protocol_is_asked_for_by_both_fields() {
        check(Method::GET, Version::HTTP_11, "WebSocket", Some("websocket"));
        check(Method::GET, Version::HTTP_11, "h2c, websocket", Some("websocket"));
        check(Method::POST, Version::HTTP_11, "websocket", None);
        check(Method::GET, Version::HTTP_10, "websocket", None);
        check(Method::POST, Version::HTTP_11, "tcp", Some("tcp"));
        check(Method::GET, Version::HTTP_11, "irc/6.9, x", Some("irc/6.9"));
        let only_one = headers(&[("upgrade", "websocket")]);
        assert_eq!(asked(&Method::GET, Version::HTTP_11, &only_one, false), None);
    }

    #[test]
    fn protocols_that_carry_requests_past_us_are_never_asked_for() {
        for protocol in ["h2c", "H2C", "h2c-14", "h2", "HTTP/2.0", "TLS/1.2", "", "/"] {
            check(Method::GET, Version::HTTP_11, protocol, None);
        }
    }

    #[test]
    fn only_what_was_asked_for_is_confirmed() {
        let asked = HeaderValue::from_static("websocket");
        assert!(confirms(&headers(&[("upgrade", "WebSocket")]), &asked));
        assert!(!confirms(&headers(&[("upgrade", "h2c")]), &asked));
        assert!(!confirms(&HeaderMap::new(), &asked));
    }

    proptest! {
        /// The gate reads bytes, the handler reads hyper's headers: both must agree on what is an upgrade.
        #[test]
        fn gate_and_handler_agree(
            method in prop::sample::select(vec!["GET", "POST", "get"]), version in prop::sample::select(vec!["1.0", "1.1"]),
            lines in prop::collection::vec(prop::sample::select(vec![
                "Connection: upgrade", "connection: keep-alive", "Connection: close ,\tUpGrade", "Connection: upgrade;x", "Upgrade: websocket",
                "UPGRADE: h2c", "Upgrade: h2c, WebSocket", "Upgrade: websocket/13", "Content-Length: 0", "Content-Length: 3", "Upgrade:",
                "X-Upgrade: websocket", "Upgrade: tcp", "Upgrade: , x/1 ,h2c", "Upgrade: TLS/1.0",
            ]), 0..6),
        ) {
            let head = format!("{method} / HTTP/{version}\r\nHost: a\r\n{}\r\n", lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
            let pause = Framing::new().feed(head.as_bytes()).pause;
            prop_assume!(!matches!(pause, Some(Pause::BadHead(_))));
            let mut parsed = [httparse::EMPTY_HEADER; 16];
            let mut request = httparse::Request::new(&mut parsed);
            request.parse(head.as_bytes()).unwrap();
            let mut headers = HeaderMap::new();
            for header in request.headers.iter() {
                let name = HeaderName::from_bytes(header.name.as_bytes()).unwrap();
                headers.append(name, HeaderValue::from_bytes(header.value).unwrap());
            }
            let version = if version == "1.1" { Version::HTTP_11 } else { Version::HTTP_10 };
            let has_body = headers.get("content-length").is_some_and(|length| length != "0");
            let asked = asked(&Method::from_bytes(method.as_bytes()).unwrap(), version, &headers, has_body);
            prop_assert_eq!(asked.is_some(), pause == Some(Pause::Upgrade));
        }
    }
}
