//! Which route a request takes: most specific host, then longest path. Pure.
//!
//! The path is normalised for this decision only; the backend gets what the client wrote. Where that could be read in another way, which
//! would lead to another route, there is none (see `config::route_path`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::rewrite::CompiledChanges;
use crate::config::model::{HostPattern, Route};
use crate::config::route_path;

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
    ///
    /// # Errors
    /// Where another reading of `path` would take another route.
    pub fn find(
        &self,
        listener: &str,
        host: &str,
        path: &str,
    ) -> Result<Option<&Arc<CompiledRoute>>, Ambiguous> {
        let Some(listener) = self.listeners.get(listener) else { return Ok(None) };
        let host = if listener.has_hosts() { plain_host(host) } else { Cow::Borrowed("") };
        let found = listener.find(&host, &route_path::ours(path));
        for reading in route_path::other_readings(path) {
            if listener.find(&host, &reading).map(Arc::as_ptr) != found.map(Arc::as_ptr) {
                return Err(Ambiguous);
            }
        }
        Ok(found)
    }
}

/// A path that could be read in several ways, which lead to several routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

impl ListenerRoutes {
    /// Whether any route is for certain hosts only.
    fn has_hosts(&self) -> bool {
        !self.exact.is_empty() || !self.below.is_empty()
    }

    fn find(&self, host: &str, path: &str) -> Option<&Arc<CompiledRoute>> {
        if !self.has_hosts() {
            return first_match(&self.any, path);
        }
        self.exact
            .get(host)
            .and_then(|routes| first_match(routes, path))
            .or_else(|| parents(host).find_map(|domain| first_match(self.below.get(domain)?, path)))
            .or_else(|| first_match(&self.any, path))
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
        let found = table.find("web", host, path).map(|route| route.map(|route| &*route.upstream));
        assert_eq!(found, Ok(expect), "{host} {path}");
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
        assert!(table.find("other", "a", "/x").unwrap().is_none());
    }

    #[test]
    fn equal_routes_go_by_their_order_in_the_file() {
        check(&table(&[("", "/a", "first"), ("", "/a", "second")]), "h", "/a", Some("first"));
    }

    #[test]
    fn path_in_disguise_takes_the_same_route() {
        let table = table(&[("", "/", "root"), ("", "/admin", "admin")]);
        for path in
            ["/admin", "/admin/x", "//admin", "/%61dmin", "/admin;x/", "/admin;v=1", "/admin/.", "/admin//x"]
        {
            check(&table, "h", path, Some("admin"));
        }
        for path in ["/.../admin", "/admin%", "/%", "/x/../y", "/a%2Fb", "/x;admin", "/a;v=1/b"] {
            check(&table, "h", path, Some("root"));
        }
        check(&table, "h", "*", None);
    }

    #[test]
    fn path_that_leads_elsewhere_when_read_in_another_way_has_no_route() {
        let table = table(&[("", "/", "root"), ("", "/admin", "admin"), ("", "/public", "public")]);
        for path in [
            "/public/..;/admin",
            "/public/..%2fadmin",
            "/public/..%5Cadmin",
            "/public/%2e%2e/admin",
            "/public/.%2E;x/admin",
            "/admin/../public",
            "/admin//../public",
            "/x/../admin",
            "/./admin",
            "/admin/..",
            "/admin/x/../../public",
            "/admin%2f",
            "/admin%2f../public",
            "/x%2fadmin/../../admin",
            "/%2fadmin",
            "/admin%3bx",
        ] {
            assert_eq!(table.find("web", "h", path).map(|_| ()), Err(Ambiguous), "{path}");
        }
    }

    #[test]
    fn path_is_nobodys_business_where_there_is_one_route() {
        let table = table(&[("", "/", "root"), ("", "/files", "files")]);
        for path in ["/a/../b", "/a%2Fb", "/..;/x", "/%2e%2e%2f"] {
            check(&table, "h", path, Some("root"));
        }
        for path in ["/files/a%2Fb", "/files/a/../b", "/files/./x", "/files/a%3Bb"] {
            check(&table, "h", path, Some("files"));
        }
    }
}
