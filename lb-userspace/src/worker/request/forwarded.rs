//! Who the client is and what the backend is told about it: `X-Forwarded-For`, `-Proto`, `-Host` and `X-Real-IP`.
//!
//! A peer that is not a trusted proxy can claim nothing: its fields are replaced. A trusted one is believed, and its
//! chain extended.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::rewrite::{CompiledChanges, remove_listed};
use crate::limits::FORWARDED_ADDRESSES_MAX;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Fields with which a peer could claim something about the client.
static CLAIMS: [HeaderName; 9] = [
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_REAL_IP,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-ssl"),
    http::header::FORWARDED,
];

/// Sets the forwarding fields of a request and returns the client's address: the right-most one in `X-Forwarded-For`
/// that is not a trusted proxy where `peer` is one, else `peer`'s.
///
/// `host` is what the client asked for; empty leaves `X-Forwarded-Host` out. Fields to which the route appends get nothing of ours: its
/// `append = { X-Forwarded-For = "$client_ip" }` would name the client twice.
pub fn set(
    headers: &mut HeaderMap,
    peer: SocketAddr,
    scheme: &str,
    host: &str,
    trusted: &[IpNet],
    changes: &CompiledChanges,
) -> IpAddr {
    let peer = peer.ip().to_canonical();
    remove_look_alikes(headers);
    let mut client = peer;
    let mut chain = None;
    if is_trusted(peer, trusted) {
        (client, chain) = believed(headers, peer, trusted);
        keep_if(headers, &X_FORWARDED_PROTO, |value| matches!(value, b"http" | b"https"));
        keep_if(headers, &X_FORWARDED_HOST, |value| !value.is_empty());
    } else {
        remove_listed(headers, &CLAIMS);
    }
    let is_ours = |name: &HeaderName| !changes.appends_to(name);
    let peer_text = value(&peer.to_string());
    if is_ours(&X_REAL_IP) {
        headers
            .insert(X_REAL_IP, if client == peer { peer_text.clone() } else { value(&client.to_string()) });
    }
    if is_ours(&X_FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR, chain.unwrap_or(peer_text));
    }
    if is_ours(&X_FORWARDED_PROTO) && !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, value(scheme));
    }
    if !host.is_empty() && is_ours(&X_FORWARDED_HOST) && !headers.contains_key(X_FORWARDED_HOST) {
        headers.insert(X_FORWARDED_HOST, value(host));
    }
    client
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The client that a trusted `peer`'s chain names, and the chain with `peer` appended. What cannot be read as an address ends the
/// chain: nobody vouches for what stands left of it.
fn believed(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> (IpAddr, Option<HeaderValue>) {
    let lines: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let joined = lines.join(&b", "[..]);
    let mut chain = Vec::new();
    let mut client = peer;
    for entry in joined.rsplit(|&byte| byte == b',').take(FORWARDED_ADDRESSES_MAX) {
        let Some(address) = address(entry.trim_ascii()) else { break };
        chain.push(address);
        client = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    // What stands left of the client is the client's own claim; it is passed on as received only where it is readable.
    if chain.is_empty() {
        return (peer, None);
    }
    let text = [&joined[..], b", ", peer.to_string().as_bytes()].concat();
    (client, HeaderValue::from_bytes(&text).ok())
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches('"');
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// Keeps the field when it is one line and `good`; else removes it.
fn keep_if(headers: &mut HeaderMap, name: &HeaderName, good: impl Fn(&[u8]) -> bool) {
    let mut values = headers.get_all(name).iter();
    let keep = matches!((values.next(), values.next()), (Some(value), None) if good(value.as_bytes()));
    if !keep {
        headers.remove(name);
    }
}

/// Removes `X_Forwarded_For` and the like, which CGI-style backends cannot tell from the real ones.
fn remove_look_alikes(headers: &mut HeaderMap) {
    let alike = |name: &&HeaderName| {
        name.as_str().contains('_') && CLAIMS.iter().any(|claim| is_alike(name.as_str(), claim.as_str()))
    };
    let found: Vec<HeaderName> = headers.keys().filter(alike).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

fn is_alike(name: &str, claim: &str) -> bool {
    name.len() == claim.len()
        && name.bytes().zip(claim.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set_on(lines: &[(&str, &str)], peer: &str, trusted: &[&str]) -> (HeaderMap, IpAddr) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        let client = set(&mut headers, peer, "http", "a.example", &trusted, &CompiledChanges::default());
        (headers, client)
    }

    #[track_caller]
    fn check_chain(chain: &[&str], trusted: &[&str], client: &str, expect: &str) {
        let lines: Vec<(&str, &str)> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let (headers, found) = set_on(&lines, "10.0.0.1", trusted);
        assert_eq!(found, client.parse::<IpAddr>().unwrap());
        assert_eq!(headers[X_FORWARDED_FOR], expect);
        assert_eq!(headers.get_all(X_FORWARDED_FOR).iter().count(), 1);
        assert_eq!(headers[X_REAL_IP], client);
    }

    #[test]
    fn stranger_can_claim_nothing() {
        let claims = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-port", "443"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("x-forwarded_proto", "https"),
            ("x-other", "stays"),
        ];
        let (headers, client) = set_on(&claims, "192.0.2.7", &["10.0.0.0/8"]);
        assert_eq!(client, "192.0.2.7".parse::<IpAddr>().unwrap());
        let mut expect = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a.example"),
            ("x-real-ip", "192.0.2.7"),
            ("x-other", "stays"),
        ] {
            expect.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert_eq!(headers, expect);
    }

    #[test]
    fn right_most_address_that_is_no_proxy_of_ours_is_the_client() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        check_chain(&[], &trusted, "10.0.0.1", "10.0.0.1");
        check_chain(&["192.0.2.7"], &trusted, "192.0.2.7", "192.0.2.7, 10.0.0.1");
        check_chain(
            &["1.2.3.4, 192.0.2.7, 10.0.0.2"],
            &trusted,
            "192.0.2.7",
            "1.2.3.4, 192.0.2.7, 10.0.0.2, 10.0.0.1",
        );
        check_chain(&["1.2.3.4", "192.0.2.7"], &trusted, "192.0.2.7", "1.2.3.4, 192.0.2.7, 10.0.0.1");
        check_chain(&["10.0.0.3, 10.0.0.2"], &trusted, "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1");
        check_chain(&["192.0.2.7:4711"], &trusted, "192.0.2.7", "192.0.2.7:4711, 10.0.0.1");
        check_chain(&["[2001:db9::7]:4711"], &trusted, "2001:db9::7", "[2001:db9::7]:4711, 10.0.0.1");
        check_chain(
            &["2001:db9::7, 2001:db8::1"],
            &trusted,
            "2001:db9::7",
            "2001:db9::7, 2001:db8::1, 10.0.0.1",
        );
    }

    #[test]
    fn unreadable_chain_ends_where_it_cannot_be_read() {
        check_chain(&["unknown"], &["10.0.0.0/8"], "10.0.0.1", "10.0.0.1");
        check_chain(
            &["1.2.3.4, junk, 10.0.0.2"],
            &["10.0.0.0/8"],
            "10.0.0.2",
            "1.2.3.4, junk, 10.0.0.2, 10.0.0.1",
        );
        check_chain(&[""], &["10.0.0.0/8"], "10.0.0.1", "10.0.0.1");
    }

    #[test]
    fn trusted_proxy_is_believed_where_it_makes_sense() {
        let check = |lines: &[(&str, &str)], proto: &str, host: &str| {
            let (headers, _) = set_on(lines, "::ffff:10.0.0.1", &["10.0.0.0/8"]);
            assert_eq!(
                (&headers[X_FORWARDED_PROTO], &headers[X_FORWARDED_HOST]),
                (&HeaderValue::from_str(proto).unwrap(), &HeaderValue::from_str(host).unwrap())
            );
        };
        check(&[("x-forwarded-proto", "https"), ("x-forwarded-host", "outer")], "https", "outer");
        check(&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "")], "http", "a.example");
        check(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")], "http", "a.example");
    }

    proptest! {
        #[test]
        fn backend_always_learns_one_client(
            claims in prop::collection::vec((0..CLAIMS.len(), "[ -~]{0,40}"), 0..6), trusts: bool, last: u8,
        ) {
            let lines: Vec<(&str, &str)> = claims.iter().map(|(claim, value)| (CLAIMS[*claim].as_str(), value.as_str())).collect();
            let peer = format!("10.0.0.{last}");
            let trusted: &[&str] = if trusts { &["10.0.0.0/8"] } else { &[] };
            let (headers, client) = set_on(&lines, &peer, trusted);
            prop_assert_eq!(headers.get_all(X_REAL_IP).iter().count(), 1);
            prop_assert_eq!(headers[X_REAL_IP].to_str().unwrap().parse::<IpAddr>().unwrap(), client);
            prop_assert_eq!(headers.get_all(X_FORWARDED_PROTO).iter().count(), 1);
            let chain = headers[X_FORWARDED_FOR].to_str().unwrap();
            prop_assert!(chain.ends_with(&peer));
            prop_assert!(trusts || (chain == peer && client.to_string() == peer));
        }
    }
}
