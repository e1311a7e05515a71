//! Answers that we make ourselves.
//!
//! Effectful: reads the clock.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use tokio::time::Instant;

use super::record::Record;
use super::relay::ResponseBody;
use crate::reason::Reason;

const X_LB_REASON: HeaderName = HeaderName::from_static("x-lb-reason");

/// The answer with this reason; the request is over with it.
pub fn answer(mut record: Box<Record>, reason: Reason) -> Response<ResponseBody> {
    record.status = reason.status();
    let body = Bytes::from(format!("{}\n", reason.name()));
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
    if record.served.shared.snapshot.reason_header {
        headers.insert(X_LB_REASON, HeaderValue::from_static(reason.name()));
    }
    record.finish(Some(reason), Instant::now());
    response
}

/// The whole answer to a connection for which there is no room, whatever it asks.
pub fn refusal(reason_header: bool) -> String {
    let reason = Reason::Overloaded.name();
    let header = if reason_header { format!("x-lb-reason: {reason}\r\n") } else { String::new() };
    let length = reason.len() + 1;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 1\r\nconnection: close\r\n\
         {header}content-length: {length}\r\n\r\n{reason}\n"
    )
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
