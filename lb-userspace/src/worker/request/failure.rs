//! Answers that we make ourselves.
//!
//! Effectful: reads the clock.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use tokio::time::Instant;

use super::record::Record;
use super::relay::ResponseBody;
use crate::reason::Reason;

/// Why we answered ourselves.
pub const X_LB_REASON: HeaderName = HeaderName::from_static("x-lb-reason");

/// What `Allow` says: any method is relayed but CONNECT and TRACE, these are the known ones.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The answer with this reason; the request is over with it.
pub fn answer(mut record: Box<Record>, reason: Reason) -> Response<ResponseBody> {
    record.status = reason.status();
    let names_reason = record.served.shared.snapshot.reason_header;
    let body = Bytes::from(words(reason, names_reason));
    record.bytes_sent = body.len() as u64;
    let mut response = Response::new(ResponseBody::Whole(body));
    *response.status_mut() =
        StatusCode::from_u16(reason.status_sent()).expect("reasons have valid status codes");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if reason.status() == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if leaves_framing_uncertain(reason) || !record.is_read() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if reason == Reason::MethodNotAllowed {
        headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    }
    if names_reason {
        headers.insert(X_LB_REASON, HeaderValue::from_static(reason.name()));
    }
    record.finish(Some(reason), Instant::now());
    response
}

/// The answer to OPTIONS that asks for this hop (RFC 9110 §7.6.2).
pub fn answer_options(mut record: Box<Record>) -> Response<ResponseBody> {
    record.status = 200;
    let mut response = Response::new(ResponseBody::Whole(Bytes::new()));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    if !record.is_read() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    record.finish(None, Instant::now());
    response
}

/// What the body says: no more than the status, unless the operator lets reasons be told.
fn words(reason: Reason, names_reason: bool) -> String {
    let status = StatusCode::from_u16(reason.status_sent()).ok();
    let phrase = status.and_then(|status| status.canonical_reason()).unwrap_or("Error");
    format!("{}\n", if names_reason { reason.name() } else { phrase })
}

/// The whole answer to a connection for which there is no room, whatever it asks, and the length of its body.
pub fn refusal(names_reason: bool) -> (String, u64) {
    let reason = Reason::Overloaded.name();
    let header = if names_reason { format!("x-lb-reason: {reason}\r\n") } else { String::new() };
    let words = words(Reason::Overloaded, names_reason);
    let length = words.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\nconnection: close\r\n\
         {header}content-length: {length}\r\n\r\n{words}"
    );
    (answer, length as u64)
}

/// Whether what follows on the client's connection cannot be told to be a new request.
fn leaves_framing_uncertain(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadRequest
            | Reason::HeadersTooLarge
            | Reason::UriTooLong
            | Reason::NotImplemented
            | Reason::ClientTimeout
            | Reason::ClientAborted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_as_long_as_it_says() {
        for names_reason in [true, false] {
            let (answer, bytes) = refusal(names_reason);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(body.len() as u64, bytes);
            assert!(head.contains(&format!("\r\ncontent-length: {bytes}")), "{head}");
            assert_eq!(head.contains("x-lb-reason: overloaded"), names_reason, "{head}");
        }
    }
}
