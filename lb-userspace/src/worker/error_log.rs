//! The error log: one JSON record for each answer that we made ourselves, with all that is needed to find out why.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::access_log::{bounded, iso8601, milliseconds, write_json_line};
use crate::reason::Reason;

/// How far a request had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorPhase {
    /// The client's head or body was being read.
    Request,
    /// It waited for a backend.
    Queue,
    /// A connection to a backend was being made.
    Connect,
    /// It was being sent to a backend.
    Send,
    /// The backend's head was awaited.
    ResponseHead,
    /// The backend's body was being passed on.
    ResponseBody,
    /// A WebSocket was in progress.
    Tunnel,
}

/// An answer that we made ourselves.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRecord<'a> {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// The request's id.
    pub request_id: &'a str,
    /// Why.
    pub reason: Reason,
    /// When.
    pub phase: ErrorPhase,
    /// What the operating system or parser said; empty where it said nothing.
    pub detail: &'a str,
    /// The peer.
    pub client: SocketAddr,
    /// The listener's name.
    pub listener: &'a str,
    /// The host that was asked for; empty where unknown, as are the following.
    pub host: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path.
    pub path: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The name of the backend that was tried last.
    pub backend: &'a str,
    /// Whether that was on a pooled connection.
    pub reused_connection: bool,
    /// Attempts made.
    pub attempts: u32,
    /// Attempts allowed.
    pub attempts_max: u32,
    /// Bytes of the request's body that had come.
    pub bytes_received: u64,
    /// Bytes of the answer's body that had gone out.
    pub bytes_sent: u64,
    /// Since the request's head.
    pub duration: Duration,
}

impl ErrorRecord<'_> {
    /// Appends the record with its line end to `line`.
    pub fn write(&self, line: &mut Vec<u8>) {
        let record = JsonRecord {
            time: iso8601(self.wall_ms),
            request_id: bounded(self.request_id),
            reason: self.reason,
            status: self.reason.status(),
            phase: self.phase,
            detail: bounded(self.detail),
            client: self.client,
            listener: self.listener,
            host: bounded(self.host),
            method: bounded(self.method),
            path: bounded(self.path),
            upstream: self.upstream,
            backend: self.backend,
            reused_connection: self.reused_connection,
            attempts: self.attempts,
            attempts_max: self.attempts_max,
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            duration_ms: milliseconds(self.duration),
        };
        write_json_line(&record, line);
    }
}

/// Names and order of a record.
#[derive(Serialize)]
struct JsonRecord<'a> {
    time: String,
    request_id: &'a str,
    reason: Reason,
    status: u16,
    phase: ErrorPhase,
    detail: &'a str,
    client: SocketAddr,
    listener: &'a str,
    host: &'a str,
    method: &'a str,
    path: &'a str,
    upstream: &'a str,
    backend: &'a str,
    reused_connection: bool,
    attempts: u32,
    attempts_max: u32,
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_one_line_of_json_whatever_the_client_sent() {
        let record = ErrorRecord {
            wall_ms: 0,
            request_id: "1f",
            reason: Reason::ResponseTimeout,
            phase: ErrorPhase::ResponseHead,
            detail: "no byte within 10 s",
            client: "192.0.2.7:4711".parse().unwrap(),
            listener: "web",
            host: "a\"b\n",
            method: "GET",
            path: "/",
            upstream: "docs",
            backend: "docs:0",
            reused_connection: true,
            attempts: 2,
            attempts_max: 3,
            bytes_received: 0,
            bytes_sent: 7,
            duration: Duration::from_secs(10),
        };
        let mut line = Vec::new();
        record.write(&mut line);
        let text = String::from_utf8(line).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["reason"], "response_timeout");
        assert_eq!(value["status"], 504);
        assert_eq!(value["phase"], "response_head");
        assert_eq!(value["host"], "a\"b\n");
        assert_eq!(value["duration_ms"], 10_000.0);
        assert_eq!(value["reused_connection"], true);
    }
}
