//! Which route a request takes: most specific host, then longest path. Pure.
//!
//! The path is normalised for this decision only; the backend gets what the client wrote.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::rewrite::CompiledChanges;
use crate::config::model::{HostPattern, Route};

/// A route made ready.
#[derive(Clone, Debug)]
pub struct CompiledRoute {
    /// The path prefix.
    pub path: String,
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Bytes that a request body may have; `None` is unlimited.
    pub body_bytes_max: Option<u64>,
    /// Changes to the request.
    pub request_headers: CompiledChanges,
    /// Changes to the response.
    pub response_headers: CompiledChanges,
}

impl CompiledRoute {
    fn new(route: &Route) -> Self {
        Self {
            path: route.path.clone(),
            upstream: route.upstream.as_str().into(),
            body_bytes_max: route.body_bytes_max,
            request_headers: CompiledChanges::new(&route.request_headers),
            response_headers: CompiledChanges::new(&route.response_headers),
        }
    }
}

/// All routes of a snapshot, arranged for look-up.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    listeners: HashMap<String, ListenerRoutes>,
}

/// The routes of one listener; every list has its longest path first, and equal ones in file order.
#[derive(Clone, Debug, Default)]
struct ListenerRoutes {
    exact: HashMap<String, Vec<Arc<CompiledRoute>>>,
    below: HashMap<String, Vec<Arc<CompiledRoute>>>,
    any: Vec<Arc<CompiledRoute>>,
}

impl RouteTable {
    /// Arranges `routes`.
    pub fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        let mut sorted: Vec<&Route> = routes.iter().collect();
        sorted.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        for route in sorted {
            let listener = table.listeners.entry(route.listener.clone()).or_default();
            let list = match &route.host {
                Some(HostPattern::Exact(host)) => {
                    listener.exact.entry(plain_host(host).into_owned()).or_default()
                }
                Some(HostPattern::Below(host)) => {
                    listener.below.entry(plain_host(host).into_owned()).or_default()
                }
                None => &mut listener.any,
            };
            list.push(Arc::new(CompiledRoute::new(route)));
        }
        table
    }

    /// The route for a request on `listener` to `host` (as in the Host field, with or without port) and `path` (without
    /// query). An exact host goes before the longest domain that it is below, and that before any host; among the routes of a host the longest
    /// path that is a prefix up to a segment boundary wins. A host none of whose paths match is passed over.
    pub fn find(&self, listener: &str, host: &str, path: &str) -> Option<&Arc<CompiledRoute>> {
        let listener = self.listeners.get(listener)?;
        let path = routing_path(path);
        if listener.exact.is_empty() && listener.below.is_empty() {
            return first_match(&listener.any, &path);
        }
        let host = plain_host(host);
        listener
            .exact
            .get(&*host)
            .and_then(|routes| first_match(routes, &path))
            .or_else(|| parents(&host).find_map(|domain| first_match(listener.below.get(domain)?, &path)))
            .or_else(|| first_match(&listener.any, &path))
    }
}

fn first_match<'a>(routes: &'a [Arc<CompiledRoute>], path: &str) -> Option<&'a Arc<CompiledRoute>> {
    routes.iter().find(|route| is_prefix(&route.path, path))
}

/// Whether `prefix` covers `path`: all of it, up to a `/` in it, or ending with one.
fn is_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// The domains that `host` is below, longest first.
fn parents(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(dot, _)| &host[dot + 1..])
}

/// `host` without port and trailing dot, in lower case.
pub fn plain_host(host: &str) -> Cow<'_, str> {
    let end = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => colon,
        _ => host.len(),
    };
    let host = host[..end].strip_suffix('.').unwrap_or(&host[..end]);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// `path` as routes are compared with: unreserved characters decoded (RFC 3986 §6.2.2.2), empty and dot segments resolved.
/// Encoded slashes stay encoded: they are data, not structure.
pub fn routing_path(path: &str) -> Cow<'_, str> {
    if !path.contains('%') && !path.contains("//") && !path.contains("/.") {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in decoded.split('/') {
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut resolved = String::with_capacity(decoded.len());
    for segment in &segments {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if is_folder || segments.is_empty() {
        resolved.push('/');
    }
    Cow::Owned(resolved)
}

fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        decoded.push_str(&rest[..percent]);
        let byte = rest.get(percent + 1..percent + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                decoded.push(char::from(byte));
                rest = &rest[percent + 3..];
            }
            _ => {
                decoded.push('%');
                rest = &rest[percent + 1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::HeaderChanges;

    fn table(routes: &[(&str, &str, &str)]) -> RouteTable {
        let route = |(host, path, upstream): &(&str, &str, &str)| Route {
            listener: "web".into(),
            host: match host.strip_prefix("*.") {
                Some(domain) => Some(HostPattern::Below(domain.into())),
                None if host.is_empty() => None,
                None => Some(HostPattern::Exact((*host).into())),
            },
            path: (*path).into(),
            upstream: (*upstream).into(),
            body_bytes_max: None,
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
        };
        RouteTable::new(&routes.iter().map(route).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(table: &RouteTable, host: &str, path: &str, expect: Option<&str>) {
        assert_eq!(table.find("web", host, path).map(|route| &*route.upstream), expect, "{host} {path}");
    }

    #[test]
    fn most_specific_host_goes_first() {
        let table = table(&[
            ("", "/", "any"),
            ("*.example.com", "/", "below"),
            ("*.docs.example.com", "/", "further below"),
            ("docs.example.com", "/", "exact"),
        ]);
        check(&table, "docs.example.com", "/", Some("exact"));
        check(&table, "DOCS.example.COM.", "/", Some("exact"));
        check(&table, "docs.example.com:8080", "/", Some("exact"));
        check(&table, "docs.example.com.:8080", "/", Some("exact"));
        check(&table, "a.docs.example.com", "/", Some("further below"));
        check(&table, "a.b.docs.example.com", "/", Some("further below"));
        check(&table, "www.example.com", "/", Some("below"));
        check(&table, "example.com", "/", Some("any"));
        check(&table, "badexample.com", "/", Some("any"));
        check(&table, "[::1]:80", "/", Some("any"));
        check(&table, "", "/", Some("any"));
    }

    #[test]
    fn longest_path_of_a_host_wins_at_a_segment_boundary() {
        let table =
            table(&[("", "/", "root"), ("", "/api", "api"), ("", "/api/v2", "v2"), ("", "/files/", "files")]);
        check(&table, "h", "/", Some("root"));
        check(&table, "h", "/api", Some("api"));
        check(&table, "h", "/api/", Some("api"));
        check(&table, "h", "/apix", Some("root"));
        check(&table, "h", "/api/v2/x", Some("v2"));
        check(&table, "h", "/api/v22", Some("api"));
        check(&table, "h", "/files/a", Some("files"));
        check(&table, "h", "/files", Some("root"));
    }

    #[test]
    fn host_without_a_matching_path_is_passed_over() {
        let table = table(&[("a", "/x", "a"), ("*.b", "/y", "b"), ("", "/z", "any")]);
        check(&table, "a", "/x", Some("a"));
        check(&table, "a", "/z", Some("any"));
        check(&table, "c.b", "/z", Some("any"));
        check(&table, "a", "/y", None);
        assert!(table.find("other", "a", "/x").is_none());
    }

    #[test]
    fn equal_routes_go_by_their_order_in_the_file() {
        check(&table(&[("", "/a", "first"), ("", "/a", "second")]), "h", "/a", Some("first"));
    }

    #[test]
    fn path_in_disguise_takes_the_same_route() {
        let table = table(&[("", "/", "root"), ("", "/admin", "admin")]);
        for path in [
            "/admin",
            "/admin/x",
            "//admin",
            "/x/../admin",
            "/./admin",
            "/%61dmin",
            "/x/%2e%2e/admin",
            "/x/%2E./admin/",
            "/../../admin",
            "/admin/.",
            "/%2e/admin//x",
            "/admin/x/..",
        ] {
            check(&table, "h", path, Some("admin"));
        }
        for path in [
            "/admin/..",
            "/admin/../x",
            "/x%2fadmin",
            "/admin%2f..",
            "/%2fadmin",
            "/.../admin",
            "/admin%",
            "/%",
            "*",
        ] {
            let expect = if path == "*" { None } else { Some("root") };
            check(&table, "h", path, expect);
        }
    }

    #[test]
    fn routing_path_is_what_rfc_3986_makes_of_it() {
        let check = |path: &str, expect: &str| assert_eq!(routing_path(path), expect, "{path}");
        check("/a/b/c/./../../g", "/a/g");
        check("/a/b/", "/a/b/");
        check("/a//b", "/a/b");
        check("/a/b/..", "/a/");
        check("/a%2Fb%3F", "/a%2Fb%3F");
        check("/%7Euser%2D", "/~user-");
        check("/..", "/");
        check("/%25%32%65", "/%252e");
        check("/.hidden", "/.hidden");
        check("/caf\u{e9}%e9", "/caf\u{e9}%e9");
    }

    proptest::proptest! {
        #[test]
        fn routing_path_never_panics_and_stays_put(path in "(/(\\.|\\.\\.|%2[eEfF]|%|[a-zé]{0,3}|%41)){0,8}") {
            let once = routing_path(&path).into_owned();
            proptest::prop_assert!(path.is_empty() || once.starts_with('/'));
            proptest::prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
        }
    }
}
