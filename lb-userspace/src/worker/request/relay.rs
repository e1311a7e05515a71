//! The answer on its way to the client.
//!
//! Effectful: reads the clock.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::exchange::{Broken, Phase, Progress, TryFailed, poll_body};
use super::pool::BackendConnection;
use super::record::Record;
use super::rewrite::strip_trailers;
use crate::reason::Reason;

/// The answer broke off. The client sees its connection end before the body does.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("response body: {}", .0.name())]
pub struct BrokenOff(pub Reason);

/// The body of an answer.
pub enum ResponseBody {
    /// All of it is here.
    Whole(Bytes),
    /// It is still arriving.
    Arriving(Box<Arriving>),
    /// There is none, and the length in the head speaks of another answer (304). Only while hyper is not told that there is none does
    /// it write that length.
    Absent,
}

/// A body that is still arriving.
pub struct Arriving {
    connection: Option<Box<BackendConnection>>,
    incoming: Incoming,
    early: VecDeque<Frame<Bytes>>,
    record: Box<Record>,
    progress: Progress,
}

impl Arriving {
    /// `early` came already.
    pub fn new(
        connection: Box<BackendConnection>,
        incoming: Incoming,
        early: Vec<Frame<Bytes>>,
        record: Box<Record>,
    ) -> Self {
        if let Some(source) = &record.source {
            source.stop_keeping();
        }
        let progress = Progress::new(record.answered.unwrap_or(record.started));
        Self { connection: Some(connection), incoming, early: early.into(), record, progress }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(frame) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(self.passed(frame))));
        }
        let (Some(connection), Some(upstream)) = (self.connection.as_deref_mut(), &self.record.upstream)
        else {
            return Poll::Ready(None);
        };
        let broken = match poll_body(connection, &mut self.incoming, cx) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(self.passed(frame)))),
            Poll::Ready(None) => {
                self.complete();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => Broken::of(&error, self.record.source.as_deref()),
            Poll::Pending => {
                let client = self.record.client.clone();
                let timer = &client.timer;
                let meters = connection.meters.clone();
                let source = self.record.source.as_deref();
                match self.progress.poll_stalled(&meters, &upstream.shared, source, timer, cx) {
                    Poll::Ready(reason) => Broken { reason, detail: String::new() },
                    Poll::Pending => return Poll::Pending,
                }
            }
        };
        let reason = broken.reason;
        self.break_off(broken);
        Poll::Ready(Some(Err(BrokenOff(reason))))
    }

    fn passed(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.record.bytes_sent += frame.data_ref().map_or(0, Bytes::len) as u64;
        // Nobody asks for more after trailers, because nothing can come.
        if self.early.is_empty() && (frame.is_trailers() || self.incoming.is_end_stream()) {
            self.complete();
        }
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }

    fn complete(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let now = Instant::now();
        if let Some(upstream) = &self.record.upstream {
            self.record.thread.pool.give_back(connection, &upstream.shared, now);
        }
        self.record.finish(None, now);
    }

    fn break_off(&mut self, Broken { reason, detail }: Broken) {
        self.connection = None;
        let failed = TryFailed { reason, phase: Phase::ResponseBody, sent: true, stale: false, detail };
        drop(self.record.fail_try(&failed));
        self.record.finish(Some(reason), Instant::now());
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Arriving(arriving) => arriving.poll_next(cx),
            Self::Absent => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Arriving(arriving) => arriving.connection.is_none() && arriving.early.is_empty(),
            Self::Absent => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Arriving(arriving) => {
                let early: usize = arriving.early.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
                let left = arriving.incoming.size_hint().exact();
                left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + early as u64))
            }
            Self::Absent => SizeHint::default(),
        }
    }
}
