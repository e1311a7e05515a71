//! What to do when a request failed on a backend: try again or answer. Pure; the table is RFC 9110 §9.2.2 applied to
//! what is known about the connection.

use http::Method;

use crate::health::passive;
use crate::limits::ATTEMPTS_MAX;
use crate::reason::Reason;

/// Tries of one request in all, those that do not count as attempts included.
pub const TRIES_MAX: u32 = 12;

/// What is known about a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// How.
    pub reason: Reason,
    /// Whether the kernel took a byte of the request for this connection.
    pub sent: bool,
    /// Whether the connection had served a request before and ended without a byte of an answer to this one.
    pub stale: bool,
    /// Whether the instance has left the rotation meanwhile: it died, stopped listening or was taken out.
    pub gone: bool,
}

/// What is known about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retriable {
    /// The method means the same when executed twice.
    pub idempotent: bool,
    /// The body is absent or wholly at hand.
    pub replayable: bool,
    /// Attempts that counted, this one included.
    pub attempts: u32,
    /// Tries in all, this one included.
    pub tries: u32,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The same backend again, at once, on a fresh connection. Not a failure of the backend, not an attempt.
    Reconnect,
    /// Another backend; `free` of the retry budget and not counted as an attempt.
    Another {
        /// Whether it is free.
        free: bool,
    },
    /// Answer with this.
    Answer(Reason),
}

/// Whether executing the method twice means the same as once (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

/// Decides.
pub fn decide(failed: Failed, request: Retriable) -> Decision {
    let may_send_again = !failed.sent || request.idempotent;
    if failed.stale && !(may_send_again && request.replayable) {
        return Decision::Answer(Reason::StaleConnection);
    }
    if !may_send_again
        || !request.replayable
        || !is_backends_fault(failed.reason)
        || request.tries >= TRIES_MAX
    {
        return Decision::Answer(failed.reason);
    }
    if failed.stale && !failed.gone {
        return Decision::Reconnect;
    }
    if failed.gone || failed.stale {
        return Decision::Another { free: true };
    }
    if request.attempts >= ATTEMPTS_MAX {
        return Decision::Answer(failed.reason);
    }
    Decision::Another { free: false }
}

/// Whether another backend could do better: where it counts against this one. What is malformed would be so again, and the client's faults
/// stay.
fn is_backends_fault(reason: Reason) -> bool {
    passive::counts(reason) || reason == Reason::StaleConnection
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Retriable = Retriable { idempotent: true, replayable: true, attempts: 1, tries: 1 };
    const POST: Retriable = Retriable { idempotent: false, ..GET };
    const REFUSED: Failed = Failed { reason: Reason::ConnectRefused, sent: false, stale: false, gone: false };
    const RESET: Failed = Failed { reason: Reason::ResponseReset, sent: true, stale: false, gone: false };
    const STALE: Failed = Failed { stale: true, ..RESET };

    fn check(failed: Failed, request: Retriable, expect: Decision) {
        assert_eq!(decide(failed, request), expect, "{failed:?} {request:?}");
    }

    #[test]
    fn unsent_request_goes_to_another_backend_whatever_the_method() {
        check(REFUSED, GET, Decision::Another { free: false });
        check(REFUSED, POST, Decision::Another { free: false });
        check(Failed { gone: true, ..REFUSED }, POST, Decision::Another { free: true });
    }

    #[test]
    fn sent_request_is_repeated_only_when_idempotent_and_replayable() {
        check(RESET, GET, Decision::Another { free: false });
        check(RESET, POST, Decision::Answer(Reason::ResponseReset));
        check(RESET, Retriable { replayable: false, ..GET }, Decision::Answer(Reason::ResponseReset));
        check(Failed { gone: true, ..RESET }, POST, Decision::Answer(Reason::ResponseReset));
    }

    #[test]
    fn stale_connection_is_replaced_at_once_unless_a_byte_of_a_post_was_sent() {
        check(STALE, GET, Decision::Reconnect);
        check(STALE, POST, Decision::Answer(Reason::StaleConnection));
        check(Failed { sent: false, ..STALE }, POST, Decision::Reconnect);
        check(Failed { gone: true, ..STALE }, GET, Decision::Another { free: true });
    }

    #[test]
    fn attempts_and_tries_are_bounded() {
        check(RESET, Retriable { attempts: ATTEMPTS_MAX, ..GET }, Decision::Answer(Reason::ResponseReset));
        let gone = Failed { gone: true, ..RESET };
        check(gone, Retriable { attempts: ATTEMPTS_MAX, ..GET }, Decision::Another { free: true });
        check(gone, Retriable { tries: TRIES_MAX, ..GET }, Decision::Answer(Reason::ResponseReset));
        check(STALE, Retriable { tries: TRIES_MAX, ..GET }, Decision::Answer(Reason::ResponseReset));
    }

    #[test]
    fn what_counts_against_a_backend_is_tried_on_another_and_nothing_else() {
        for reason in Reason::ALL {
            let again = passive::counts(reason) || reason == Reason::StaleConnection;
            let expect = if again { Decision::Another { free: false } } else { Decision::Answer(reason) };
            check(Failed { reason, ..RESET }, GET, expect);
        }
    }
}
