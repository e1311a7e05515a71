//! One try: a request on one backend connection until the head of the answer, and as much of its body as is there.
//!
//! Effectful: waits.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{BodySource, RequestBody};
use super::joined::Joined;
use super::pool::BackendConnection;
use super::response_head;
use crate::limits::{CLIENT_BODY_TIMEOUT, INTERIM_BYTES_MAX, INTERIM_TIMEOUTS_MAX, RESPONSE_PEEK_BYTES_MAX};
use crate::reason::Reason;
use crate::worker::metered::Meters;
use crate::worker::served::Upstream;
use crate::worker::timer::Timer;

/// Where a request was when it failed; the words of the error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading and checking the request.
    Request,
    /// Looking for a route.
    Route,
    /// Waiting for a backend.
    Queue,
    /// Connecting.
    Connect,
    /// Sending the request.
    Send,
    /// Waiting for the head of the answer.
    ResponseHead,
    /// Relaying the body of the answer.
    ResponseBody,
    /// Relaying an upgraded connection.
    Tunnel,
}

impl Phase {
    /// As logs have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Route => "route",
            Self::Queue => "queue",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::ResponseHead => "response_head",
            Self::ResponseBody => "response_body",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A try that failed.
#[derive(Debug)]
pub struct TryFailed {
    /// How.
    pub reason: Reason,
    /// Where.
    pub phase: Phase,
    /// Whether a byte of the request was sent.
    pub sent: bool,
    /// See `retry::Failed::stale`.
    pub stale: bool,
    /// What the operating system or the parser said.
    pub detail: String,
}

/// The time-outs of a try: each runs from the last byte that moved.
pub struct Progress {
    seen: Option<u64>,
    at: Instant,
}

impl Progress {
    /// From now. What moves before the first [`Self::poll_stalled`] counts as moved now.
    pub fn new(now: Instant) -> Self {
        Self { seen: None, at: now }
    }

    /// Ready with the reason when nothing moved for too long.
    pub fn poll_stalled(
        &mut self,
        meters: &Meters,
        upstream: &Upstream,
        source: Option<&BodySource>,
        timer: &RefCell<Timer>,
        cx: &mut Context<'_>,
    ) -> Poll<Reason> {
        let progress = meters.progress();
        if self.seen.replace(progress).is_some_and(|seen| seen != progress) {
            self.at = Instant::now();
        }
        let (patience, reason): (Duration, _) = if meters.write_blocked.get() {
            (upstream.send_timeout, Reason::SendTimeout)
        } else if source.is_some_and(BodySource::waits_for_client) {
            (CLIENT_BODY_TIMEOUT, Reason::ClientTimeout)
        } else {
            (upstream.read_timeout, Reason::ResponseTimeout)
        };
        timer.borrow_mut().poll_until(self.at + patience, cx).map(|()| reason)
    }
}

/// What surrounds a try.
pub struct Surroundings<'a> {
    /// For its time-outs.
    pub upstream: &'a Upstream,
    /// The client connection's timer.
    pub timer: &'a RefCell<Timer>,
    /// The request's body, if it has one.
    pub source: Option<&'a BodySource>,
    /// Whether it may be sent again after a byte of it was sent.
    pub idempotent: bool,
    /// Wait for the whole of a small answer before any of it is passed on, so that it can be asked for again.
    pub may_repeat: bool,
    /// When the try began.
    pub now: Instant,
}

/// An answer that has begun to arrive.
pub struct Arrived {
    /// Its head, checked.
    pub head: response::Parts,
    /// The body that is not in `early`.
    pub body: Incoming,
    /// What of the body is there.
    pub early: Early,
}

/// The beginning of a body.
pub enum Early {
    /// All of it; no trailers.
    Whole(Bytes),
    /// A part.
    Part(Vec<Frame<Bytes>>),
}

/// Sends the request and waits for the answer.
///
/// # Errors
/// Why there is none, or not all of what must be waited for.
pub async fn exchange(
    connection: &mut BackendConnection,
    request: Request<RequestBody>,
    around: Surroundings<'_>,
) -> Result<Arrived, TryFailed> {
    let meters = connection.meters.clone();
    let (read_before, written_before) = (meters.read.get(), meters.written.get());
    let reused = connection.reused;
    let mut interim = Interim { read_before, written: written_before, since: None };
    let mut progress = Progress::new(around.now);
    let is_sent = || meters.written.get() != written_before;
    let failed = |Broken { reason, detail }: Broken, phase| TryFailed {
        detail,
        reason,
        phase,
        sent: is_sent(),
        stale: reused && meters.read.get() == read_before && reason == Reason::ResponseReset,
    };
    let mut answer = pin!(connection.send(request));
    let response = poll_fn(|cx| {
        let ended = connection.drive(cx);
        if let Some(source) = around.source.filter(|_| !around.idempotent && is_sent()) {
            source.stop_keeping();
        }
        // Only `drive` makes an answer, so nobody else need wake us.
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Poll::Ready(answer.map_err(|error| Broken::of(error.error(), around.source)));
        }
        if ended.is_ready() {
            return Poll::Ready(Err(Broken::because(Reason::ResponseReset)));
        }
        if let Some(broken) = interim.went_on_for_too_long(&meters, around.upstream.read_timeout) {
            return Poll::Ready(Err(broken));
        }
        progress
            .poll_stalled(&meters, around.upstream, around.source, around.timer, cx)
            .map(|reason| Err(Broken::because(reason)))
    })
    .await
    .map_err(|broken| {
        let is_sending = meters.write_blocked.get() || !is_sent();
        failed(broken, if is_sending { Phase::Send } else { Phase::ResponseHead })
    })?;
    let (mut head, mut body) = response.into_parts();
    response_head::check_framing(&mut head).map_err(|wrong| {
        let broken = Broken { reason: Reason::ResponseMalformed, detail: wrong.to_owned() };
        failed(broken, Phase::ResponseHead)
    })?;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Arrived { head, body, early: Early::Part(Vec::new()) });
    }
    let early = gather(connection, &mut body, &around, &mut progress)
        .await
        .map_err(|broken| failed(broken, Phase::ResponseBody))?;
    Ok(Arrived { head, body, early })
}

/// What bounds interim answers (1xx): hyper reads over them, and each begins `read_timeout` anew.
struct Interim {
    read_before: u64,
    /// Bytes written when something was last written.
    written: u64,
    /// Since then nothing was written, and something read that is no whole head.
    since: Option<Instant>,
}

impl Interim {
    fn went_on_for_too_long(&mut self, meters: &Meters, read_timeout: Duration) -> Option<Broken> {
        let read = meters.read.get() - self.read_before;
        if read == 0 {
            return None;
        }
        if read > INTERIM_BYTES_MAX {
            let detail = "no end of interim answers".to_owned();
            return Some(Broken { reason: Reason::ResponseMalformed, detail });
        }
        let (now, written) = (Instant::now(), meters.written.get());
        if self.since.is_none() || written != self.written {
            (self.since, self.written) = (Some(now), written);
        }
        let patience = read_timeout.saturating_mul(INTERIM_TIMEOUTS_MAX);
        let is_over = self.since.is_some_and(|since| now - since >= patience);
        is_over.then(|| Broken::because(Reason::ResponseTimeout))
    }
}

/// Takes what of the body is there already. Small bodies normally come with the head; of an answer that may be asked for
/// again a small body is waited for, because nothing can be repeated once a part of it was passed on.
async fn gather(
    connection: &mut BackendConnection,
    incoming: &mut Incoming,
    around: &Surroundings<'_>,
    progress: &mut Progress,
) -> Result<Early, Broken> {
    if incoming.is_end_stream() {
        return Ok(Early::Whole(Bytes::new()));
    }
    let length = incoming.size_hint().exact();
    let wait = around.may_repeat && length.is_some_and(|length| length <= RESPONSE_PEEK_BYTES_MAX as u64);
    let meters = connection.meters.clone();
    let mut joined = Joined::default();
    poll_fn(|cx| {
        loop {
            match poll_body(connection, incoming, cx) {
                Poll::Ready(None) => return Poll::Ready(Ok(Early::Whole(joined.take()))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::of(&error, around.source))),
                Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                    Some(data) if joined.bytes() + data.len() <= RESPONSE_PEEK_BYTES_MAX => {
                        joined.push(data);
                        if incoming.is_end_stream() {
                            return Poll::Ready(Ok(Early::Whole(joined.take())));
                        }
                    }
                    // Too much, or trailers.
                    _ => return Poll::Ready(Ok(Early::Part(part(joined.take(), Some(frame))))),
                },
                Poll::Pending if wait => {
                    return progress
                        .poll_stalled(&meters, around.upstream, around.source, around.timer, cx)
                        .map(|reason| Err(Broken::because(reason)));
                }
                Poll::Pending => return Poll::Ready(Ok(Early::Part(part(joined.take(), None)))),
            }
        }
    })
    .await
}

/// The frames of a beginning.
fn part(data: Bytes, last: Option<Frame<Bytes>>) -> Vec<Frame<Bytes>> {
    (!data.is_empty()).then(|| Frame::data(data)).into_iter().chain(last).collect()
}

/// The next frame of an answer's body. It comes out of the connection, so driving that is what wakes.
pub fn poll_body(
    connection: &mut BackendConnection,
    incoming: &mut Incoming,
    cx: &mut Context<'_>,
) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
    let _ended = connection.drive(cx);
    Pin::new(incoming).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Why an exchange broke off.
pub struct Broken {
    /// The reason.
    pub reason: Reason,
    /// What was said about it.
    pub detail: String,
}

impl Broken {
    fn because(reason: Reason) -> Self {
        Self { reason, detail: String::new() }
    }

    /// What hyper's error means for the client, and its words with those of its causes.
    pub fn of(error: &hyper::Error, source: Option<&BodySource>) -> Self {
        let mut detail = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            detail = format!("{detail}: {inner}");
            cause = inner.source();
        }
        Self { reason: reason_of(error, source), detail }
    }
}

fn reason_of(error: &hyper::Error, source: Option<&BodySource>) -> Reason {
    if let Some(reason) = source.and_then(BodySource::failure) {
        return reason;
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() || has_io_cause(error) {
        return Reason::ResponseReset;
    }
    Reason::ResponseMalformed
}

/// Whether a socket ended it, and not what came over it.
fn has_io_cause(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return io.kind() != std::io::ErrorKind::InvalidData
                && io.kind() != std::io::ErrorKind::InvalidInput;
        }
        cause = inner.source();
    }
    false
}
