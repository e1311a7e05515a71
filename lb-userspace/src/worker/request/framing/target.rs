//! The request line's target and the host that it or the Host field names (RFC 9112 §3.2).

use std::net::Ipv6Addr;

use crate::limits::URI_BYTES_MAX;
use crate::reason::Reason;

const HOST_BYTES_MAX: usize = 255;

/// Whether `method` may be used with `target`: origin-form or absolute-form for all but CONNECT, `*` for OPTIONS only,
/// authority-form with CONNECT only.
///
/// # Errors
/// `UriTooLong`, or `BadRequest` for every other fault.
pub(super) fn check(method: &[u8], target: &[u8]) -> Result<(), Reason> {
    if target.len() > URI_BYTES_MAX {
        return Err(Reason::UriTooLong);
    }
    let good = match target {
        _ if method == b"CONNECT" => is_host_with_port(target),
        b"*" => method == b"OPTIONS",
        [b'/', ..] => is_path_and_query(target),
        _ => is_absolute(target),
    };
    if good { Ok(()) } else { Err(Reason::BadRequest) }
}

/// `http://host[:port][/path][?query]`; no user information.
fn is_absolute(target: &[u8]) -> bool {
    let Some(colon) = target.iter().position(|&byte| byte == b':') else { return false };
    let scheme = &target[..colon];
    let Some(rest) = target[colon..].strip_prefix(b"://") else { return false };
    if !(scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")) {
        return false;
    }
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    is_host(&rest[..end]) && is_path_and_query(&rest[end..])
}

/// What may follow the authority: characters that no two parsers read differently. Stray `%` passes in the query, where
/// it is common and harmless; in the path it is refused, as is an encoded NUL.
fn is_path_and_query(text: &[u8]) -> bool {
    let question = text.iter().position(|&byte| byte == b'?').unwrap_or(text.len());
    let (path, query) = text.split_at(question);
    path.iter().all(|&byte| is_path_byte(byte))
        && percents_are_good(path)
        && query.iter().all(|&byte| is_query_byte(byte))
}

/// VCHAR without those that delimit (`#`), are read as `/` by some (`\`), or are refused by the http crate.
const fn is_path_byte(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'#' | b'\\' | b'<' | b'>' | b'`' | b'^')
}

const fn is_query_byte(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'#' | b'<' | b'>')
}

fn percents_are_good(path: &[u8]) -> bool {
    path.iter().enumerate().filter(|&(_, &byte)| byte == b'%').all(|(at, _)| {
        matches!(path.get(at + 1..at + 3), Some([high, low])
            if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() && (*high, *low) != (b'0', b'0'))
    })
}

/// `host:port`, port required.
fn is_host_with_port(text: &[u8]) -> bool {
    is_host(text)
        && matches!(text, [.., b'0'..=b'9'])
        && split_port(text).is_some_and(|(_, port)| !port.is_empty())
}

/// Whether `text` is a Host: a name of letters, digits, `-`, `.`, `_`, `~`, an IPv4 address or an IPv6 address in
/// brackets, with or without a port. Narrower than RFC 3986, whose other characters no real name has.
pub(super) fn is_host(text: &[u8]) -> bool {
    let Some((host, port)) = split_port(text) else { return false };
    let port_is_good = port.len() <= 5
        && port
            .iter()
            .try_fold(0_u32, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
            .is_some_and(|port| port <= 65_535);
    port_is_good && (is_name(host) || is_bracketed_ipv6(host))
}

/// Host and port; the port is empty where there is none. `None` where there are several colons outside of brackets.
fn split_port(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let from = text.iter().position(|&byte| byte == b']').map_or(0, |bracket| bracket + 1);
    let (host, rest) = match text[from..].iter().position(|&byte| byte == b':') {
        Some(colon) => text.split_at(from + colon),
        None => (text, &b""[..]),
    };
    Some((host, rest.strip_prefix(b":").unwrap_or(rest)))
}

fn is_name(host: &[u8]) -> bool {
    !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte))
}

fn is_bracketed_ipv6(host: &[u8]) -> bool {
    let inner = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    inner.and_then(|text| std::str::from_utf8(text).ok()).is_some_and(|text| text.parse::<Ipv6Addr>().is_ok())
}
