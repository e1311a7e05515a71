//! The request body on its way to a backend: bound in size, and kept for a retry as long as it is small.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::limits::REPLAY_BYTES_MAX;
use crate::reason::Reason;

/// Why the body cannot be sent on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("request body: {}", .0.name())]
pub struct BodyError(pub Reason);

/// Where a request's body comes from, shared by all its tries.
pub struct BodySource {
    incoming: RefCell<Incoming>,
    bytes_max: Option<u64>,
    bytes: Cell<u64>,
    kept: RefCell<Vec<Kept>>,
    kept_bytes: Cell<usize>,
    /// Something was read that is not kept.
    lost: Cell<bool>,
    failure: Cell<Option<Reason>>,
    ended: Cell<bool>,
    waiting: Cell<bool>,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Trailers(http::HeaderMap),
}

impl BodySource {
    /// `bytes_max`: a longer body is refused.
    pub fn new(incoming: Incoming, bytes_max: Option<u64>) -> Self {
        let ended = Cell::new(incoming.is_end_stream());
        Self {
            incoming: RefCell::new(incoming),
            bytes_max,
            bytes: Cell::new(0),
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            lost: Cell::new(false),
            failure: Cell::new(None),
            ended,
            waiting: Cell::new(false),
        }
    }

    /// Whether the whole body can be sent once more.
    pub fn is_replayable(&self) -> bool {
        !self.lost.get() && self.failure.get().is_none()
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

    fn poll_client(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Kept, BodyError>>> {
        if let Some(reason) = self.failure.get() {
            return Poll::Ready(Some(Err(BodyError(reason))));
        }
        let polled = Pin::new(&mut *self.incoming.borrow_mut()).poll_frame(cx);
        self.waiting.set(polled.is_pending());
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        let kept = match frame {
            None => {
                self.ended.set(true);
                return Poll::Ready(None);
            }
            Some(Err(_)) => Err(Reason::ClientAborted),
            Some(Ok(frame)) => self.count(frame),
        };
        self.ended.set(self.incoming.borrow().is_end_stream());
        Poll::Ready(Some(kept.map_err(|reason| {
            self.failure.set(Some(reason));
            BodyError(reason)
        })))
    }

    fn count(&self, frame: Frame<Bytes>) -> Result<Kept, Reason> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return frame.into_trailers().map(Kept::Trailers).map_err(|_| Reason::BadRequest),
        };
        self.bytes.set(self.bytes.get() + data.len() as u64);
        if self.bytes_max.is_some_and(|max| self.bytes.get() > max) {
            return Err(Reason::BodyTooLarge);
        }
        Ok(Kept::Data(data))
    }

    /// Keeps a frame for a retry, or gives up keeping.
    fn keep(&self, frame: &Kept) {
        if self.lost.get() {
            return;
        }
        let bytes = match frame {
            Kept::Data(data) => data.len(),
            Kept::Trailers(_) => 0,
        };
        self.kept_bytes.set(self.kept_bytes.get() + bytes);
        if self.kept_bytes.get() > REPLAY_BYTES_MAX {
            self.lost.set(true);
            self.kept.borrow_mut().clear();
        } else {
            self.kept.borrow_mut().push(frame.clone());
        }
    }
}

/// The body of one try.
pub struct RequestBody {
    source: Option<Rc<BodySource>>,
    next_kept: usize,
    length: Option<u64>,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self { source: None, next_kept: 0, length: Some(0) }
    }

    /// From the beginning; only while [`BodySource::is_replayable`].
    pub fn new(source: Rc<BodySource>, length: Option<u64>) -> Self {
        Self { source: Some(source), next_kept: 0, length }
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
        let kept = source.kept.borrow().get(self.next_kept).cloned();
        let frame = match kept {
            Some(frame) => frame,
            None if source.ended.get() => return Poll::Ready(None),
            None => match source.poll_client(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    source.keep(&frame);
                    frame
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            },
        };
        self.next_kept += 1;
        Poll::Ready(Some(Ok(match frame {
            Kept::Data(data) => Frame::data(data),
            Kept::Trailers(trailers) => Frame::trailers(trailers),
        })))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            None => true,
            Some(source) => source.ended.get() && self.next_kept >= source.kept.borrow().len(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
