//! What the demonstration's backend answers, path by path.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Shared, listen, web_socket};

/// The body of an answer.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// The answer to one request.
pub(super) async fn answer(
    request: Request<Incoming>,
    shared: Shared,
) -> Result<Response<AnswerBody>, Infallible> {
    shared.requests.set(shared.requests.get() + 1);
    let number = |key| query_number(request.uri().query().unwrap_or_default(), key);
    Ok(match request.uri().path() {
        "/" => text(StatusCode::OK, &format!("instance {} pid {}\n", shared.instance, std::process::id())),
        "/health" => text(StatusCode::OK, "ok\n"),
        "/slow" => {
            let ms = number("ms").unwrap_or(1000);
            listen::pause(Duration::from_millis(ms)).await;
            text(StatusCode::OK, &format!("instance {} slept {ms} ms\n", shared.instance))
        }
        "/headers" => headers(&request, &shared),
        "/bytes" => bytes(number("n").unwrap_or(1024)),
        "/echo" => echo(request),
        "/ws" => web_socket::upgrade(request, shared),
        "/requests" => text(StatusCode::OK, &format!("{}\n", shared.requests.get())),
        "/fail" => match number("exit") {
            // A crash as programs have it: at once, in the middle of the request.
            Some(code) => std::process::exit(i32::try_from(code).unwrap_or(1)),
            None => text(StatusCode::INTERNAL_SERVER_ERROR, "failed, as asked\n"),
        },
        "/close-listener" => {
            let asked = shared.close.try_send(number("for_ms").map(Duration::from_millis));
            text(StatusCode::OK, if asked.is_ok() { "closing\n" } else { "closed already\n" })
        }
        _ => text(StatusCode::NOT_FOUND, "no such path\n"),
    })
}

/// A short answer of text.
pub(super) fn text(status: StatusCode, text: &str) -> Response<AnswerBody> {
    let mut response = Response::new(full(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// A body that is there at once.
pub(super) fn full(bytes: Bytes) -> AnswerBody {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// The number that `key` has in a query string.
fn query_number(query: &str, key: &str) -> Option<u64> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key)?.1.parse().ok()
}

/// The request as it arrived here, as JSON.
fn headers(request: &Request<Incoming>, shared: &Shared) -> Response<AnswerBody> {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in request.headers() {
        headers
            .entry(name.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let value = serde_json::json!({
        "instance": &*shared.instance,
        "pid": std::process::id(),
        "method": request.method().as_str(),
        "uri": request.uri().to_string(),
        "headers": headers,
    });
    let mut response = Response::new(full(format!("{value:#}\n").into()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The request's body, and its trailers, on their way back.
fn echo(request: Request<Incoming>) -> Response<AnswerBody> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.boxed_unsync());
    for name in [header::CONTENT_TYPE, header::TRAILER] {
        if let Some(value) = head.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// `count` bytes; byte `i` is `i` modulo 251, a prime, so that a lost or doubled block shows.
fn bytes(count: u64) -> Response<AnswerBody> {
    let pattern: Vec<u8> = (0..=250).cycle().take(PATTERN_BYTES).collect();
    let mut response = Response::new(Pattern { pattern: pattern.into(), left: count }.boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    response
}

/// Bytes of one frame: a multiple of 251, so that each frame begins with zero.
const PATTERN_BYTES: usize = 251 * 256;

/// The body of [`bytes()`]: the same frame again and again, never copied.
struct Pattern {
    pattern: Bytes,
    left: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let count = self.left.min(PATTERN_BYTES as u64);
        if count == 0 {
            return Poll::Ready(None);
        }
        self.left -= count;
        Poll::Ready(Some(Ok(Frame::data(self.pattern.slice(..count as usize)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_numbers_are_found_by_their_whole_name() {
        assert_eq!(query_number("ms=5", "ms"), Some(5));
        assert_eq!(query_number("for_ms=7&ms=5", "ms"), Some(5));
        assert_eq!(query_number("ms=x", "ms"), None);
        assert_eq!(query_number("", "ms"), None);
    }

    #[tokio::test]
    async fn bytes_are_as_many_as_asked_and_follow_the_pattern() {
        let body = bytes(PATTERN_BYTES as u64 + 300).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), PATTERN_BYTES + 300);
        assert!(body.iter().enumerate().all(|(index, byte)| usize::from(*byte) == index % 251));
    }
}
