//! The request body on its way to a backend: bound in size, and kept for a retry as long as it is small.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::framing::Phase as GatePhase;
use super::joined::Joined;
use crate::limits::REPLAY_BYTES_MAX;
use crate::reason::Reason;
use crate::worker::connection::Client;

/// Why the body cannot be sent on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("request body: {}", .0.name())]
pub struct BodyError(pub Reason);

/// Where a request's body comes from, shared by all its tries.
pub struct BodySource {
    incoming: RefCell<Incoming>,
    client: Rc<Client>,
    bytes_max: Cell<Option<u64>>,
    bytes: Cell<u64>,
    /// The body from its beginning, as long as it is kept.
    kept: RefCell<Joined>,
    trailers: RefCell<Option<Box<HeaderMap>>>,
    /// Something is read that is not kept.
    lost: Cell<bool>,
    failure: Cell<Option<Reason>>,
    ended: Cell<bool>,
    waiting: Cell<bool>,
    /// The client sends nothing before it is told to go on, and nobody has done so: asking for bytes would.
    withheld: Cell<bool>,
}

/// A part of a body.
enum Part {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl BodySource {
    /// The body of the request that `client` has begun last.
    pub fn new(incoming: Incoming, client: Rc<Client>) -> Self {
        let ended = Cell::new(incoming.is_end_stream());
        Self {
            incoming: RefCell::new(incoming),
            client,
            bytes_max: Cell::new(None),
            bytes: Cell::new(0),
            kept: RefCell::default(),
            trailers: RefCell::default(),
            lost: Cell::new(false),
            failure: Cell::new(None),
            ended,
            waiting: Cell::new(false),
            withheld: Cell::new(false),
        }
    }

    /// The client expects to be told that it may send it.
    pub fn withhold(&self) {
        self.withheld.set(true);
    }

    /// A longer body is refused from now on.
    pub fn limit(&self, bytes_max: Option<u64>) {
        self.bytes_max.set(bytes_max);
    }

    /// Whether the whole body can be sent once more.
    pub fn is_replayable(&self) -> bool {
        !self.lost.get() && self.failure.get().is_none()
    }

    /// Nobody will send the body once more: what is read from now on is not kept, what was is given up when it has been sent.
    pub fn stop_keeping(&self) {
        self.lost.set(true);
    }

    /// What went wrong on the client's side.
    pub fn failure(&self) -> Option<Reason> {
        self.failure.get()
    }

    /// Bytes read from the client.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the next byte is the client's to send.
    pub fn waits_for_client(&self) -> bool {
        self.waiting.get()
    }

    /// Whether all of it was read, so that the next request can follow.
    pub fn is_read(&self) -> bool {
        self.ended.get() && self.failure.get().is_none()
    }

    /// Reads away a body that has come already, so that the connection can be kept. What the client has yet to send is not waited for.
    pub async fn discard_what_came(&self) {
        poll_fn(|cx| {
            while !self.is_read() && !self.withheld.get() && self.client.gate.phase() != GatePhase::Body {
                let Some(Ok(_)) = ready!(self.poll_client(cx)) else { break };
            }
            Poll::Ready(())
        })
        .await;
    }

    fn poll_client(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, BodyError>>> {
        if let Some(reason) = self.failure.get() {
            return Poll::Ready(Some(Err(BodyError(reason))));
        }
        self.withheld.set(false);
        let polled = Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx);
        self.waiting.set(polled.is_pending());
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        let part = match frame {
            None => {
                self.ended.set(true);
                return Poll::Ready(None);
            }
            Some(Err(_)) => Err(self.client.gate.violation().unwrap_or(Reason::ClientAborted)),
            Some(Ok(frame)) => self.count(frame),
        };
        // Nothing comes after trailers, though nobody says so.
        let is_last = matches!(part, Ok(Part::Trailers(_))) || self.incoming.borrow().is_end_stream();
        self.ended.set(is_last);
        Poll::Ready(Some(part.map_err(|reason| {
            self.failure.set(Some(reason));
            BodyError(reason)
        })))
    }

    fn count(&self, frame: Frame<Bytes>) -> Result<Part, Reason> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().map_err(|_| Reason::BadRequest)?;
                return Ok(Part::Trailers(Box::new(trailers)));
            }
        };
        self.bytes.set(self.bytes.get() + data.len() as u64);
        if self.bytes_max.get().is_some_and(|max| self.bytes.get() > max) {
            return Err(Reason::BodyTooLarge);
        }
        Ok(Part::Data(data))
    }

    /// Keeps a part for a retry, or gives up keeping.
    fn keep(&self, part: &Part) {
        if self.lost.get() {
            return;
        }
        match part {
            Part::Trailers(trailers) => *self.trailers.borrow_mut() = Some(trailers.clone()),
            Part::Data(data) => {
                let mut kept = self.kept.borrow_mut();
                if kept.bytes() + data.len() > REPLAY_BYTES_MAX {
                    drop(kept.take());
                    self.lost.set(true);
                } else {
                    kept.push(data);
                }
            }
        }
    }

    /// What is kept beyond the first `given` bytes.
    fn kept_after(&self, given: usize) -> Option<Bytes> {
        let mut kept = self.kept.borrow_mut();
        let rest = (given < kept.bytes()).then(|| kept.rest(given));
        if self.lost.get() {
            drop(kept.take());
        }
        rest
    }
}

/// The body of one try.
pub struct RequestBody {
    source: Option<Rc<BodySource>>,
    /// Bytes given out, of all that were kept or came.
    given: usize,
    trailers_given: bool,
    length: Option<u64>,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self { source: None, given: 0, trailers_given: false, length: Some(0) }
    }

    /// From the beginning; only while [`BodySource::is_replayable`].
    pub fn new(source: Rc<BodySource>, length: Option<u64>) -> Self {
        Self { source: Some(source), given: 0, trailers_given: false, length }
    }

    fn poll_part(
        &mut self,
        source: &BodySource,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Part, BodyError>>> {
        if let Some(data) = source.kept_after(self.given) {
            self.given += data.len();
            return Poll::Ready(Some(Ok(Part::Data(data))));
        }
        if !source.ended.get() {
            let polled = source.poll_client(cx);
            if let Poll::Ready(Some(Ok(part))) = &polled {
                source.keep(part);
                match part {
                    Part::Data(data) => self.given += data.len(),
                    Part::Trailers(_) => self.trailers_given = true,
                }
            }
            return polled;
        }
        if std::mem::replace(&mut self.trailers_given, true) {
            return Poll::Ready(None);
        }
        let trailers = source.trailers.borrow().clone();
        Poll::Ready(trailers.map(|trailers| Ok(Part::Trailers(trailers))))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(source) = self.source.clone() else { return Poll::Ready(None) };
        let part = ready!(self.poll_part(&source, cx));
        Poll::Ready(part.map(|part| {
            part.map(|part| match part {
                Part::Data(data) => Frame::data(data),
                Part::Trailers(trailers) => Frame::trailers(*trailers),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        let Some(source) = &self.source else { return true };
        let all_given = self.given >= source.kept.borrow().bytes();
        source.ended.get() && all_given && (self.trailers_given || source.trailers.borrow().is_none())
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
