//! What is written down when a request is over: counters always, a log record where somebody asked for it.
//!
//! Effectful: reads the clock.
#![expect(clippy::disallowed_methods, reason = "log records carry the time of day")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Version};

use super::exchange::Phase;
use super::record::Record;
use crate::limits::ATTEMPTS_MAX;
use crate::reason::Reason;
use crate::snapshot::ServedListener;
use crate::worker::access_log::AccessRecord;
use crate::worker::error_log::{ErrorPhase, ErrorRecord};
use crate::worker::log_queue::LogQueue;
use crate::worker::served::LocalServed;
use crate::worker::thread::Thread;

/// Counts and logs a request that is over.
pub fn write(record: &Record) {
    count(record);
    let logs = &record.served.shared.logs;
    if let Some(log) = &logs.access {
        log_access(record, log);
    }
    if let (Some(reason), Some(log)) = (record.reason, &logs.error) {
        log_error(record, reason, log);
    }
}

fn count(record: &Record) {
    let thread = &record.thread.metrics;
    record.client.count_bytes(thread);
    let Some(upstream) = &record.upstream else {
        if let Some(reason) = record.reason {
            thread.answered_ourselves(reason);
        }
        return;
    };
    let metrics = &upstream.metrics;
    if record.phase == Phase::Tunnel {
        metrics.tunnels.subtract(1);
    } else {
        metrics.took(record.ended - record.started);
    }
    match (record.reason, record.backend_metrics()) {
        (Some(reason), _) => metrics.answered_ourselves(reason),
        (None, Some(backend)) => backend.answered(record.status),
        (None, None) => {}
    }
}

fn log_access(record: &Record, log: &LogQueue) {
    let text = |value: &Option<HeaderValue>| value.clone().unwrap_or_else(|| HeaderValue::from_static(""));
    let (user_agent, referer) = (text(&record.user_agent), text(&record.referer));
    let access = AccessRecord {
        wall_ms: wall_ms(),
        variables: &record.variables(),
        protocol: if record.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
        status: record.reason.filter(|_| record.status == 0).map_or(record.status, Reason::status),
        bytes_sent: record.bytes_sent,
        bytes_received: record.bytes_received,
        duration: record.ended - record.started,
        upstream: record.answered.map(|answered| answered - record.tried),
        reason: record.reason,
        attempts: record.attempts,
        user_agent: user_agent.as_bytes(),
        referer: referer.as_bytes(),
    };
    let mut line = Vec::with_capacity(512);
    record.served.shared.access_format.write(&access, &mut line);
    log.push(&line);
}

fn log_error(record: &Record, reason: Reason, log: &LogQueue) {
    let variables = record.variables();
    let error = ErrorRecord {
        wall_ms: wall_ms(),
        request_id: variables.request_id,
        reason,
        phase: match record.phase {
            Phase::Request | Phase::Route => ErrorPhase::Request,
            Phase::Queue => ErrorPhase::Queue,
            Phase::Connect => ErrorPhase::Connect,
            Phase::Send => ErrorPhase::Send,
            Phase::ResponseHead => ErrorPhase::ResponseHead,
            Phase::ResponseBody => ErrorPhase::ResponseBody,
            Phase::Tunnel => ErrorPhase::Tunnel,
        },
        detail: &record.detail,
        client: record.client.peer,
        listener: variables.listener,
        host: variables.host,
        method: variables.method,
        path: variables.path,
        upstream: variables.upstream,
        backend: variables.backend,
        reused_connection: record.reused,
        attempts: record.attempts,
        attempts_max: ATTEMPTS_MAX,
        bytes_received: record.bytes_received,
        bytes_sent: record.bytes_sent,
        duration: record.ended - record.started,
    };
    let mut line = Vec::with_capacity(512);
    error.write(&mut line);
    log.push(&line);
}

/// Counts and logs a connection for which there was no room. Nothing was read of what it asks.
pub fn write_refused(
    thread: &Thread,
    served: &LocalServed,
    listener: &ServedListener,
    peer: SocketAddr,
    bytes_sent: u64,
) {
    let reason = Reason::Overloaded;
    thread.metrics.answered_ourselves(reason);
    let Some(log) = &served.shared.logs.error else { return };
    let error = ErrorRecord {
        wall_ms: wall_ms(),
        request_id: "",
        reason,
        phase: ErrorPhase::Request,
        detail: "no room for another connection",
        client: peer,
        listener: served.shared.listener_name(listener.id).unwrap_or(&listener.name),
        host: "",
        method: "",
        path: "",
        upstream: "",
        backend: "",
        reused_connection: false,
        attempts: 0,
        attempts_max: ATTEMPTS_MAX,
        bytes_received: 0,
        bytes_sent,
        duration: Duration::ZERO,
    };
    let mut line = Vec::with_capacity(512);
    error.write(&mut line);
    log.push(&line);
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
