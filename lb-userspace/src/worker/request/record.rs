//! What is remembered of a request for logs and metrics, from its first byte to the last of its answer.
//!
//! Effectful: reads the clock.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Method, Uri, Version};
use tokio::time::Instant;

use super::body::BodySource;
use super::exchange::{Phase, TryFailed};
use super::pick::{self, Picked};
use super::route::CompiledRoute;
use super::variables::Variables;
use crate::health::passive;
use crate::reason::Reason;
use crate::snapshot::ServedBackend;
use crate::state::event::{InstanceId, Slot};
use crate::worker::connection::{Client, InProgress};
use crate::worker::metrics::BackendMetrics;
use crate::worker::served::{LocalServed, LocalUpstream};
use crate::worker::thread::Thread;

/// One request with its answer.
pub struct Record {
    /// The thread it runs on.
    pub thread: Rc<Thread>,
    /// The connection that it came over.
    pub client: Rc<Client>,
    /// What is served, as far as it looked last.
    pub served: Rc<LocalServed>,
    /// Its route, once found; it stays, whatever is served later.
    pub route: Option<Arc<CompiledRoute>>,
    /// Its upstream, once found, as in `served`.
    pub upstream: Option<Rc<LocalUpstream>>,
    /// Its body, if it has one.
    pub source: Option<Rc<BodySource>>,
    /// The backend that has it, counted as active there.
    pub picked: Option<Picked>,
    /// As sent to the backend.
    pub request_id: HeaderValue,
    /// The method.
    pub method: Method,
    /// The target in origin form.
    pub uri: Uri,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: Version,
    /// What was read of method and target, where the head was refused.
    pub refused: Option<(String, String)>,
    /// As sent to the backend.
    pub host: HeaderValue,
    /// The client as far as trusted proxies tell.
    pub client_ip: IpAddr,
    /// Where it is.
    pub phase: Phase,
    /// Attempts that counted.
    pub attempts: u32,
    /// All tries.
    pub tries: u32,
    /// Whether the last try used a pooled connection.
    pub reused: bool,
    /// Bytes of body from the client.
    pub bytes_received: u64,
    /// Bytes of body to the client.
    pub bytes_sent: u64,
    /// The status of the answer; 0 before there is one.
    pub status: u16,
    /// Why we answered ourselves, or why the answer broke off.
    pub reason: Option<Reason>,
    /// When it began.
    pub started: Instant,
    /// When it was over.
    pub ended: Instant,
    /// When the last try began.
    pub tried: Instant,
    /// When the last connection was there.
    pub connected: Option<Instant>,
    /// When the answer's head was there.
    pub answered: Option<Instant>,
    /// For the access log, where there is one.
    pub user_agent: Option<HeaderValue>,
    /// For the access log, where there is one.
    pub referer: Option<HeaderValue>,
    /// What the operating system or the parser said about the last failure.
    pub detail: String,
    /// The backend of the last try: the upstream as it was, and an index in its backends.
    backend: Option<(Rc<LocalUpstream>, usize)>,
    /// How the first backend failed that it was sent to, until one answers.
    failed_first: Option<Reason>,
    /// Further backends that failed in the same way. Reported only when another answers.
    held_back: Vec<(Slot, InstanceId)>,
    finished: bool,
    _in_progress: InProgress,
}

impl Record {
    /// A request begins.
    pub fn begin(thread: Rc<Thread>, client: Rc<Client>) -> Box<Self> {
        let now = Instant::now();
        Box::new(Self {
            served: thread.served(),
            client_ip: client.peer.ip(),
            _in_progress: client.begin_request(),
            thread,
            client,
            route: None,
            upstream: None,
            source: None,
            picked: None,
            request_id: HeaderValue::from_static(""),
            method: Method::GET,
            uri: Uri::default(),
            version: Version::HTTP_11,
            refused: None,
            host: HeaderValue::from_static(""),
            phase: Phase::Request,
            attempts: 0,
            tries: 0,
            reused: false,
            bytes_received: 0,
            bytes_sent: 0,
            status: 0,
            reason: None,
            started: now,
            ended: now,
            tried: now,
            connected: None,
            answered: None,
            user_agent: None,
            referer: None,
            detail: String::new(),
            backend: None,
            failed_first: None,
            held_back: Vec::new(),
            finished: false,
        })
    }

    /// The head was refused; its first line was this, as far as it was read.
    pub fn note_refused(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        self.refused = Some((words.next().unwrap_or_default(), words.next().unwrap_or_default()));
    }

    /// Whether the request was read to its end, so that another may follow on the connection.
    pub fn is_read(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_read())
    }

    /// Whether the whole request can be sent once more.
    pub fn is_replayable(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_replayable())
    }

    /// Follows what is served now: a backend may have been placed, or moved, since it looked last. Returns the upstream to pick from,
    /// which stays as it was where it is served no more.
    pub fn look_again(&mut self) -> Option<Rc<LocalUpstream>> {
        let served = self.thread.served();
        if !Rc::ptr_eq(&served, &self.served) {
            let name = self.route.as_ref().map(|route| route.upstream.clone());
            if let Some(upstream) = name.and_then(|name| served.upstream(&name).cloned()) {
                self.upstream = Some(upstream);
            }
            self.served = served;
        }
        self.upstream.clone()
    }

    /// A try on this backend of `upstream` begins.
    pub fn begin_try(&mut self, upstream: &Rc<LocalUpstream>, picked: Picked, now: Instant) {
        (self.tries, self.attempts) = (self.tries + 1, self.attempts + 1);
        self.backend = Some((upstream.clone(), picked.index));
        self.picked = Some(picked);
        self.tried = now;
        self.connected = None;
    }

    /// The try failed: notes it, tells the master what counts against the backend, and hands the backend back.
    pub fn fail_try(&mut self, failed: &TryFailed) -> Option<Picked> {
        self.phase = failed.phase;
        self.detail.clone_from(&failed.detail);
        let picked = self.picked.take()?;
        let shared = &self.thread.shared;
        let counts = passive::counts(failed.reason) && !failed.stale;
        if counts && !pick::is_gone(&shared.table, picked.slot, picked.instance) {
            if failed.sent && self.failed_first == Some(failed.reason) {
                self.held_back.push((picked.slot, picked.instance));
            } else {
                shared.report_failure(picked.slot, picked.instance, failed.reason);
            }
        }
        if failed.sent {
            self.failed_first.get_or_insert(failed.reason);
        }
        Some(picked)
    }

    /// A backend has begun to answer with this status: those that failed the request before have failed, and not it them.
    pub fn note_answer(&mut self, status: u16, now: Instant) {
        (self.status, self.answered) = (status, Some(now));
        if let Some(reason) = self.failed_first.take() {
            for (slot, instance) in self.held_back.drain(..) {
                self.thread.shared.report_failure(slot, instance, reason);
            }
        }
    }

    /// The answer is complete, or was given up for `reason`.
    pub fn finish(&mut self, reason: Option<Reason>, now: Instant) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.reason = reason;
        self.ended = now;
        self.bytes_received += self.source.as_ref().map_or(0, |source| source.bytes());
        self.client.last_active(now);
        if let Some(picked) = self.picked.take()
            && reason.is_none()
        {
            self.thread.shared.report_success(picked.slot, picked.instance);
        }
        super::report::write(self);
    }

    /// The name of the listener that took it: as it is now, or as it was when it was closed.
    pub fn listener(&self) -> &str {
        let accepted = &self.client.listener;
        self.served.shared.listener_name(accepted.id).unwrap_or(&accepted.name)
    }

    /// The backend that has or had it.
    pub fn backend(&self) -> Option<&ServedBackend> {
        let (upstream, index) = self.backend.as_ref()?;
        upstream.shared.served.backends.get(*index)
    }

    /// Its counters.
    pub fn backend_metrics(&self) -> Option<&BackendMetrics> {
        let (upstream, index) = self.backend.as_ref()?;
        upstream.backend_metrics.get(*index).map(|metrics| &**metrics)
    }

    /// What header templates may say about it.
    pub fn variables(&self) -> Variables<'_> {
        Variables {
            host: self.host.to_str().unwrap_or_default(),
            client_ip: self.client_ip,
            client_port: self.client.peer.port(),
            scheme: "http",
            request_id: self.request_id.to_str().unwrap_or_default(),
            method: self.refused.as_ref().map_or(self.method.as_str(), |(method, _)| method),
            path: self.refused.as_ref().map_or(self.uri.path(), |(_, target)| target),
            query: self.uri.query().unwrap_or_default(),
            listener: self.listener(),
            upstream: self.upstream.as_ref().map_or("", |upstream| &upstream.shared.served.name),
            backend: self.backend().map_or("", |backend| &backend.name),
        }
    }
}

impl Drop for Record {
    /// hyper drops a request in progress when its client goes away.
    fn drop(&mut self) {
        if !self.finished {
            self.finish(Some(Reason::ClientAborted), Instant::now());
        }
    }
}
