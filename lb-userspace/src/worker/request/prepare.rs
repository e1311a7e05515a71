//! What happens to a request before a backend is chosen: checks, route, limits, and the headers that every backend gets.

use std::rc::Rc;

use http::header::{
    CONNECTION, EXPECT, HOST, MAX_FORWARDS, REFERER, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body::Body;
use hyper::body::Incoming;

use super::body::{BodySource, RequestBody};
use super::exchange::Phase;
use super::record::Record;
use super::rewrite::{CompiledChanges, apply, strip_hop_by_hop};
use super::{forwarded, protocols, retry, target};
use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::reason::Reason;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How often a request may pass this node before it counts as a loop.
const PASSES_MAX: usize = 8;

/// A request that has passed all checks.
pub struct Prepared {
    headers: HeaderMap,
    length: Option<u64>,
    /// See `retry::is_idempotent`.
    pub idempotent: bool,
    /// The protocol that client and backend may change to.
    pub upgrade: Option<HeaderValue>,
}

impl Prepared {
    /// The request for one try on the backend that `record` names.
    pub fn request(&self, record: &Record) -> Request<RequestBody> {
        let body = match &record.source {
            Some(source) => RequestBody::new(source.clone(), self.length),
            None => RequestBody::empty(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = record.method.clone();
        *request.uri_mut() = record.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if record.source.is_some() && self.length.is_none() {
            // hyper would otherwise take it that GET and HEAD have none.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if let Some(route) = record.route.as_ref().filter(|route| !route.request_headers.is_empty()) {
            apply(&route.request_headers, request.headers_mut(), &record.variables());
        }
        if let Some(protocol) = &self.upgrade {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(UPGRADE, protocol.clone());
        }
        request
    }
}

/// Checks the request, finds its route and makes the headers that every backend gets. `None`: it is OPTIONS that must not go further than here.
///
/// # Errors
/// The reason of the answer.
pub fn prepare(record: &mut Record, request: Request<Incoming>) -> Result<Option<Prepared>, Reason> {
    let (mut parts, body) = request.into_parts();
    let length = body.size_hint().exact();
    record.source = (!body.is_end_stream()).then(|| Rc::new(BodySource::new(body, record.client.clone())));
    (record.method, record.version) = (parts.method.clone(), parts.version);
    if let Some(source) = record.source.as_ref().filter(|_| parts.headers.contains_key(EXPECT)) {
        source.withhold();
    }
    record.uri = target::normalise(&mut parts).inspect_err(|_| record.uri = parts.uri.clone())?;
    record.request_id = match only(&parts.headers, &X_REQUEST_ID).filter(|id| is_id(id.as_bytes())) {
        Some(id) => id.clone(),
        None => {
            let id = record.thread.ids.next();
            parts.headers.insert(X_REQUEST_ID, id.clone());
            id
        }
    };
    if let Some(host) = parts.headers.get(HOST) {
        record.host = host.clone();
    }
    let is_known = |expect: &HeaderValue| expect.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if parts.headers.contains_key(EXPECT) && !only(&parts.headers, &EXPECT).is_some_and(is_known) {
        return Err(Reason::ExpectationFailed);
    }
    if parts.method == Method::OPTIONS && is_last_hop(&mut parts.headers) {
        return Ok(None);
    }
    if record.served.shared.logs.access.is_some() {
        record.user_agent = parts.headers.get(USER_AGENT).cloned();
        record.referer = parts.headers.get(REFERER).cloned();
    }
    record.phase = Phase::Route;
    find_route(record)?;
    let bytes_max = record.route.as_ref().and_then(|route| route.body_bytes_max);
    if length.zip(bytes_max).is_some_and(|(length, max)| length > max) {
        return Err(Reason::BodyTooLarge);
    }
    if let Some(source) = &record.source {
        source.limit(bytes_max);
    }
    let upgrade = protocols::asked(&parts.method, parts.version, &parts.headers, record.source.is_some());
    let headers = backend_headers(record, parts.headers)?;
    let idempotent = retry::is_idempotent(&record.method);
    Ok(Some(Prepared { headers, length, idempotent, upgrade }))
}

/// The value of a field that has exactly one line.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// Whether a client may name a request so: it stands in logs, and in the requests of backends to others.
fn is_id(text: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

/// Counts this hop off `Max-Forwards`; whether it was the last (RFC 9110 §7.6.2). What is no number is passed on.
fn is_last_hop(headers: &mut HeaderMap) -> bool {
    let left = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u32>().ok());
    if let Some(further) = left.and_then(|left| left.checked_sub(1)) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(further));
    }
    left == Some(0)
}

fn find_route(record: &mut Record) -> Result<(), Reason> {
    let host = record.host.to_str().unwrap_or_default();
    let routes = &record.served.shared.routes;
    // `OPTIONS *` asks about the host as a whole.
    let path = if record.uri.path() == "*" { "/" } else { record.uri.path() };
    let Ok(found) = routes.find(record.listener(), host, path) else {
        "the path can be read in another way, which leads to another route".clone_into(&mut record.detail);
        return Err(Reason::BadRequest);
    };
    let route = found.ok_or(Reason::NoRoute)?;
    let upstream = record.served.upstream(&route.upstream).ok_or(Reason::NoRoute)?.clone();
    upstream.budget.borrow_mut().earn();
    record.route = Some(route.clone());
    record.upstream = Some(upstream);
    Ok(())
}

/// What every backend gets: nothing that was meant for this hop, and who the client is.
fn backend_headers(record: &mut Record, mut headers: HeaderMap) -> Result<HeaderMap, Reason> {
    let served = &record.served.shared;
    check_loop(&headers, &served.via)?;
    let takes_trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    strip_hop_by_hop(&mut headers);
    headers.remove(EXPECT);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    headers.append(VIA, served.via.clone());
    let host = record.host.to_str().unwrap_or_default();
    let trusted = &served.snapshot.trusted_proxies;
    let unchanged = CompiledChanges::default();
    let changes = record.route.as_ref().map_or(&unchanged, |route| &route.request_headers);
    record.client_ip = forwarded::set(&mut headers, record.client.peer, "http", host, trusted, changes);
    if record.host.is_empty() {
        headers.insert(HOST, HeaderValue::from_static("localhost"));
    }
    Ok(headers)
}

fn check_loop(headers: &HeaderMap, ours: &HeaderValue) -> Result<(), Reason> {
    let passes = headers
        .get_all(VIA)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter(|entry| entry.trim_ascii() == ours.as_bytes())
        .count();
    if passes >= PASSES_MAX { Err(Reason::Loop) } else { Ok(()) }
}
