//! A request from its head to its answer: check, route, rewrite, then try backends until one answers.
//!
//! Effectful: reads the clock, waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::exchange::{Arrived, Early, Phase, Surroundings, TryFailed, exchange};
use super::failure;
use super::framing::Phase as GatePhase;
use super::pool::{BackendConnection, reason_of_connect};
use super::prepare::{Prepared, prepare};
use super::protocols;
use super::record::Record;
use super::relay::{Arriving, ResponseBody};
use super::rewrite::{apply, strip_answer};
use super::tries::Tries;
use super::upgrade::PendingTunnel;
use crate::reason::Reason;
use crate::worker::connection::Client;
use crate::worker::served::LocalUpstream;
use crate::worker::thread::Thread;

/// Answers a request; with `violation` it is one that must not be read any further.
pub async fn handle(
    thread: Rc<Thread>,
    client: Rc<Client>,
    request: Request<Incoming>,
    violation: Option<Reason>,
) -> Response<ResponseBody> {
    let mut record = Record::begin(thread, client);
    let relayed = match violation {
        None => relay(&mut record, request).await,
        Some(reason) => {
            if let Some(line) = record.client.gate.take_refused_line() {
                record.note_refused(&line);
            }
            Err(reason)
        }
    };
    let client = record.client.clone();
    let response = match relayed {
        Ok(Some(relayed)) => relayed.into_response(record),
        Ok(None) => failure::answer_options(record),
        Err(reason) => {
            if let Some(source) = &record.source {
                source.discard_what_came().await;
            }
            failure::answer(record, reason)
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS && client.gate.phase() == GatePhase::Upgrade {
        client.gate.upgrade_refused();
    }
    response
}

/// The answer of a backend; `None` where the request is for this hop.
async fn relay(record: &mut Record, request: Request<Incoming>) -> Result<Option<Relayed>, Reason> {
    let Some(prepared) = prepare(record, request)? else { return Ok(None) };
    let mut tries = Tries::default();
    loop {
        record.phase = Phase::Queue;
        let next = tries.next(record).await?;
        let now = if record.tries == 0 && !next.waited { record.started } else { Instant::now() };
        record.begin_try(&next.upstream, next.picked, now);
        match try_once(record, &prepared, &next.upstream, next.fresh).await {
            Ok(relayed) => return Ok(Some(relayed)),
            Err(failed) => tries.after(&failed, record, &prepared, next.upstream)?,
        }
    }
}

/// An answer that can be passed on.
struct Relayed {
    arrived: Arrived,
    connection: Box<BackendConnection>,
}

async fn try_once(
    record: &mut Record,
    prepared: &Prepared,
    upstream: &LocalUpstream,
    fresh: bool,
) -> Result<Relayed, TryFailed> {
    let may_repeat = prepared.idempotent && record.is_replayable();
    let mut connection = match pooled(record, fresh) {
        Some(connection) => connection,
        None => {
            record.phase = Phase::Connect;
            connect(record, upstream).await.map_err(|(reason, detail)| TryFailed {
                reason,
                detail,
                phase: Phase::Connect,
                sent: false,
                stale: false,
            })?
        }
    };
    let now = if connection.reused { record.tried } else { Instant::now() };
    (record.reused, record.connected, record.phase) = (connection.reused, Some(now), Phase::ResponseHead);
    let reuse = &upstream.metrics;
    if connection.reused { &reuse.connections_reused } else { &reuse.connections_opened }.add(1);
    let request = prepared.request(record);
    record.thread.shared.activity.row(connection.slot).requests.fetch_add(1, Ordering::Relaxed);
    let around = Surroundings {
        upstream: &upstream.shared,
        timer: &record.client.timer,
        source: record.source.as_deref(),
        idempotent: prepared.idempotent,
        may_repeat,
        now,
    };
    let arrived = exchange(&mut connection, request, around).await?;
    let is_upgraded = arrived.head.status == StatusCode::SWITCHING_PROTOCOLS;
    let confirmed = |asked| protocols::confirms(&arrived.head.headers, asked);
    if is_upgraded && !prepared.upgrade.as_ref().is_some_and(confirmed) {
        let (reason, phase) = (Reason::ResponseMalformed, Phase::ResponseHead);
        let detail = "101 that nobody asked for".to_owned();
        return Err(TryFailed { reason, phase, sent: true, stale: false, detail });
    }
    Ok(Relayed { arrived, connection })
}

/// An idle connection to the backend that was picked. The socket itself is asked whether the backend has closed it, or has sent what would be
/// taken for the answer: the runtime may not know yet.
fn pooled(record: &Record, fresh: bool) -> Option<Box<BackendConnection>> {
    let picked = record.picked.as_ref().filter(|_| !fresh)?;
    loop {
        let connection = record.thread.pool.take(picked.slot, picked.instance, record.tried)?;
        if !connection.has_unread_end() {
            return Some(connection);
        }
    }
}

async fn connect(
    record: &Record,
    upstream: &LocalUpstream,
) -> Result<Box<BackendConnection>, (Reason, String)> {
    let (Some(picked), Some(backend)) = (&record.picked, record.backend()) else {
        return Err((Reason::NoBackend, String::new()));
    };
    let life = (picked.slot, picked.instance);
    let mut connecting = pin!(BackendConnection::connect(&record.thread, &backend.address, life));
    let deadline = record.tried + upstream.shared.connect_timeout;
    poll_fn(|cx| {
        if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| (reason_of_connect(&error), error.to_string())));
        }
        record
            .client
            .timer
            .borrow_mut()
            .poll_until(deadline, cx)
            .map(|()| Err((Reason::ConnectTimeout, String::new())))
    })
    .await
}

impl Relayed {
    fn into_response(self, mut record: Box<Record>) -> Response<ResponseBody> {
        let Self { arrived: Arrived { head: mut parts, body: incoming, early }, connection } = self;
        let now = Instant::now();
        record.note_answer(parts.status.as_u16(), now);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return PendingTunnel::announce(parts, connection, record);
        }
        if parts.version < Version::HTTP_11 {
            parts.version = Version::HTTP_11;
        }
        strip_answer(&mut parts.headers);
        if let Some(route) = record.route.as_ref().filter(|route| !route.response_headers.is_empty()) {
            apply(&route.response_headers, &mut parts.headers, &record.variables());
        }
        record.phase = Phase::ResponseBody;
        let body = match early {
            Early::Whole(bytes) => {
                if !record.is_read() {
                    // The rest of the request will not be read: who sends it is told.
                    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                record.bytes_sent = bytes.len() as u64;
                if let Some(upstream) = &record.upstream {
                    record.thread.pool.give_back(connection, &upstream.shared, now);
                }
                record.finish(None, now);
                match parts.status {
                    StatusCode::NOT_MODIFIED => ResponseBody::Absent,
                    _ => ResponseBody::Whole(bytes),
                }
            }
            Early::Part(frames) => {
                ResponseBody::Arriving(Box::new(Arriving::new(connection, incoming, frames, record)))
            }
        };
        Response::from_parts(parts, body)
    }
}
