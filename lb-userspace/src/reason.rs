//! Every answer that we make ourselves has one of these reasons: in the error log, in metrics, in `X-Lb-Reason`.

use serde::{Deserialize, Serialize};

/// Why a worker answered in the backend's stead. A closed list: each failure class has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The backend refused the connection.
    ConnectRefused,
    /// No connection within `connect_timeout`.
    ConnectTimeout,
    /// The connection was reset or unreachable while it was made.
    ConnectReset,
    /// The backend did not read the request within `send_timeout`.
    SendTimeout,
    /// No answer, or no further byte of it, within `read_timeout`.
    ResponseTimeout,
    /// The backend closed or reset before its answer was complete.
    ResponseReset,
    /// What the backend sent is not HTTP.
    ResponseMalformed,
    /// A pooled connection died under a request that must not be sent twice.
    StaleConnection,
    /// No backend may take the request, and none is expected soon, or holding is off.
    NoBackend,
    /// An instance is starting, or not ready, and holding is off.
    BackendStarting,
    /// The request waited `hold_timeout` for a backend.
    HeldTooLong,
    /// More requests wait already than `limits::HELD_MAX` allows, for this upstream or for all.
    HeldTooMany,
    /// No route matches host and path.
    NoRoute,
    /// The body is larger than `body_max`.
    BodyTooLarge,
    /// The head is larger than allowed.
    HeadersTooLarge,
    /// The request target is longer than allowed.
    UriTooLong,
    /// Two parsers could read the request differently, or it is not HTTP.
    BadRequest,
    /// A method that this product does not relay (CONNECT, TRACE).
    MethodNotAllowed,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// The transfer coding is not one that we relay.
    NotImplemented,
    /// The request line names a version of HTTP that is neither 1.0 nor 1.1.
    VersionNotSupported,
    /// The client did not send what it announced in time.
    ClientTimeout,
    /// The client went away before the answer was complete.
    ClientAborted,
    /// Retries were due, but the upstream's budget was spent.
    RetryBudgetSpent,
    /// A request passed this node more often than a loop-free path can.
    Loop,
    /// This worker is at its connection or memory bound.
    Overloaded,
}

impl Reason {
    /// Every reason, for metrics and documentation.
    pub const ALL: [Self; 26] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectReset,
        Self::SendTimeout,
        Self::ResponseTimeout,
        Self::ResponseReset,
        Self::ResponseMalformed,
        Self::StaleConnection,
        Self::NoBackend,
        Self::BackendStarting,
        Self::HeldTooLong,
        Self::HeldTooMany,
        Self::NoRoute,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::UriTooLong,
        Self::BadRequest,
        Self::MethodNotAllowed,
        Self::ExpectationFailed,
        Self::NotImplemented,
        Self::VersionNotSupported,
        Self::ClientTimeout,
        Self::ClientAborted,
        Self::RetryBudgetSpent,
        Self::Loop,
        Self::Overloaded,
    ];

    /// The word used in logs, metrics and `X-Lb-Reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectReset => "connect_reset",
            Self::SendTimeout => "send_timeout",
            Self::ResponseTimeout => "response_timeout",
            Self::ResponseReset => "response_reset",
            Self::ResponseMalformed => "response_malformed",
            Self::StaleConnection => "stale_connection",
            Self::NoBackend => "no_backend",
            Self::BackendStarting => "backend_starting",
            Self::HeldTooLong => "held_too_long",
            Self::HeldTooMany => "held_too_many",
            Self::NoRoute => "no_route",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::BadRequest => "bad_request",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ExpectationFailed => "expectation_failed",
            Self::NotImplemented => "not_implemented",
            Self::VersionNotSupported => "version_not_supported",
            Self::ClientTimeout => "client_timeout",
            Self::ClientAborted => "client_aborted",
            Self::RetryBudgetSpent => "retry_budget_spent",
            Self::Loop => "loop",
            Self::Overloaded => "overloaded",
        }
    }

    /// The status code of the answer: 504 for time-outs of the backend, 502 for its other failures, 503 when there is
    /// nobody to ask, 4xx for the client's faults. 499 is only ever logged.
    pub const fn status(self) -> u16 {
        match self {
            Self::ConnectTimeout | Self::SendTimeout | Self::ResponseTimeout => 504,
            Self::ConnectRefused
            | Self::ConnectReset
            | Self::ResponseReset
            | Self::ResponseMalformed
            | Self::StaleConnection
            | Self::RetryBudgetSpent => 502,
            Self::NoBackend
            | Self::BackendStarting
            | Self::HeldTooLong
            | Self::HeldTooMany
            | Self::Overloaded => 503,
            Self::NoRoute => 404,
            Self::BodyTooLarge => 413,
            Self::HeadersTooLarge => 431,
            Self::UriTooLong => 414,
            Self::BadRequest => 400,
            Self::MethodNotAllowed => 405,
            Self::ExpectationFailed => 417,
            Self::NotImplemented => 501,
            Self::VersionNotSupported => 505,
            Self::ClientTimeout => 408,
            Self::ClientAborted => 499,
            Self::Loop => 508,
        }
    }

    /// The status code on the wire: a client that gave up in the middle of its request may still be listening.
    pub const fn status_sent(self) -> u16 {
        match self {
            Self::ClientAborted => 400,
            other => other.status(),
        }
    }
}
