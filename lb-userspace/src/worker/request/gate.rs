//! The client's socket as hyper sees it: only bytes that [`framing`](super::framing) found unambiguous come through.
//!
//! A refused head is replaced by a harmless one, so that the handler is called, asks [`GateHandle::begin_request`], learns the
//! reason and answers with it. A body that breaks ends in a read error. After a head that asks for a WebSocket nothing passes
//! until the handler says whether it got one.
//!
//! Effectful: reads and writes the socket it wraps.

mod handle;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::framing::{Framing, Pause};
use crate::limits::{HEAD_BYTES_MAX, REFUSED_LINE_BYTES_MAX};
use crate::reason::Reason;
use handle::{PHASES, Shared};

pub use handle::GateHandle;

/// What hyper is given in place of a head that was refused.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nhost: invalid\r\nconnection: close\r\n\r\n";
/// Bytes read at once where they must be judged.
const READ_BYTES: usize = 16 * 1024;

/// A socket behind the gate.
pub struct Gate<I> {
    io: I,
    framing: Framing,
    state: State,
    /// Read, but not passed on: first `ready` judged bytes, then bytes that wait.
    held: BytesMut,
    ready: usize,
    /// Whether `held` has bytes beyond `ready` that were not judged yet.
    unjudged: bool,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reads and judges.
    Open,
    /// Waits for the handler's word on an upgrade.
    Upgrade,
    /// Gives the substitute, from this byte on.
    Substitute(usize),
    /// Gives nothing; what the client still sends is for who closes the connection.
    Refused,
    /// Gives an error.
    Broken,
}

impl<I> Gate<I> {
    /// A gate before a new connection, and the handler's end of it.
    pub fn new(io: I) -> (Self, GateHandle) {
        let shared = Arc::new(Shared::default());
        let gate = Self {
            io,
            framing: Framing::new(),
            state: State::Open,
            held: BytesMut::new(),
            ready: 0,
            unjudged: false,
            shared: shared.clone(),
        };
        (gate, GateHandle(shared))
    }

    /// The socket, and the bytes that were read from it but not passed on (they come after what hyper has buffered).
    pub fn into_parts(self) -> (I, Bytes) {
        (self.io, self.held.freeze())
    }

    /// The socket. Bytes held back are lost: for connections that are over.
    pub fn into_inner(self) -> I {
        self.io
    }

    /// The socket.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    /// Gives out what is ready or can be decided without the socket; `None` where bytes must be read first.
    fn serve(&mut self, cx: &mut Context<'_>, buf: &mut ReadBufCursor<'_>) -> Option<Poll<io::Result<()>>> {
        loop {
            if self.ready > 0 {
                self.give(buf);
                return Some(Poll::Ready(Ok(())));
            }
            self.take_refusal();
            match self.state {
                State::Open if self.unjudged => self.judge_held(),
                State::Open => return None,
                State::Upgrade => match self.upgrade_decision(cx) {
                    Some(granted) => self.leave_upgrade(granted),
                    None => return None,
                },
                State::Substitute(from) => {
                    let count = buf.remaining().min(SUBSTITUTE.len() - from);
                    buf.put_slice(&SUBSTITUTE[from..from + count]);
                    let end = from + count;
                    self.state =
                        if end == SUBSTITUTE.len() { State::Refused } else { State::Substitute(end) };
                    return Some(Poll::Ready(Ok(())));
                }
                State::Refused => return None,
                State::Broken => {
                    return Some(Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "request body is malformed",
                    ))));
                }
            }
        }
    }

    fn give(&mut self, buf: &mut ReadBufCursor<'_>) {
        let count = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.ready -= count;
        if self.held.is_empty() {
            // An idle connection holds no buffer.
            self.held = BytesMut::new();
        }
    }

    fn judge_held(&mut self) {
        let progress = self.framing.feed(&self.held);
        self.ready = progress.pass;
        self.unjudged = progress.pause.is_some() && progress.pass < self.held.len();
        self.pause(progress.pause);
    }

    fn pause(&mut self, pause: Option<Pause>) {
        match pause {
            None | Some(Pause::MessageEnd) => {}
            Some(Pause::Upgrade) => {
                self.shared.said().upgrade = None;
                self.state = State::Upgrade;
            }
            Some(Pause::BadHead(reason)) => {
                self.keep_line();
                self.refuse(self.framing.heads() + 1, reason, State::Substitute(0))
            }
            Some(Pause::BadBody(reason)) => self.refuse(self.framing.heads(), reason, State::Broken),
        }
        let phase = self.framing.phase();
        let index = PHASES.iter().position(|known| *known == phase).expect("all phases are listed");
        self.shared.phase.store(index as u8, Ordering::Relaxed);
    }

    /// Keeps for the logs what a head begins with that is about to be refused.
    fn keep_line(&self) {
        let head = self.held[self.ready..].trim_ascii_start();
        let end = head.iter().take(REFUSED_LINE_BYTES_MAX).position(|byte| matches!(byte, b'\r' | b'\n'));
        let line = &head[..end.unwrap_or(head.len().min(REFUSED_LINE_BYTES_MAX))];
        self.shared.said().refused_line = Some(String::from_utf8_lossy(line).into_owned());
    }

    /// What was read after a violation is nobody's.
    fn refuse(&mut self, number: u64, reason: Reason, state: State) {
        self.shared.said().violation = Some((number, reason));
        self.held.truncate(self.ready);
        self.unjudged = false;
        self.state = state;
    }

    /// Takes up a wish of [`GateHandle::refuse_head`].
    fn take_refusal(&mut self) {
        if !self.shared.is_refused.load(Ordering::Acquire) {
            return;
        }
        self.shared.is_refused.store(false, Ordering::Release);
        let reason = self.shared.said().refusal.take();
        if let Some(reason) = reason.filter(|reason| self.framing.refuse_head(*reason)) {
            self.pause(Some(Pause::BadHead(reason)));
        }
    }

    /// Registers for [`GateHandle::refuse_head`]; whether there is a wish already.
    fn listen_for_refusal(&self, cx: &Context<'_>) -> bool {
        let mut said = self.shared.said();
        match &mut said.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => said.waker = Some(cx.waker().clone()),
        }
        said.refusal.is_some()
    }

    fn upgrade_decision(&self, cx: &Context<'_>) -> Option<bool> {
        let mut said = self.shared.said();
        let decision = said.upgrade.take().filter(|(number, _)| *number == self.framing.heads());
        if decision.is_none() {
            said.waker = Some(cx.waker().clone());
        }
        decision.map(|(_, granted)| granted)
    }

    fn leave_upgrade(&mut self, granted: bool) {
        if granted {
            self.framing.accept_upgrade();
        } else {
            self.framing.refuse_upgrade();
        }
        self.state = State::Open;
        self.unjudged = !self.held.is_empty();
        self.pause(None);
    }
}

impl<I: Read + Unpin> Gate<I> {
    /// Reads up to `limit` bytes and judges them; what may pass goes into `buf`, the rest is held.
    fn read_and_judge(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBufCursor<'_>,
    ) -> Poll<io::Result<Outcome>> {
        let mut space = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES];
        let limit = if self.held.is_empty() { buf.remaining().min(READ_BYTES) } else { READ_BYTES };
        let mut read = ReadBuf::uninit(&mut space[..limit]);
        ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
        let bytes = read.filled();
        self.shared.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.is_empty() {
            return Poll::Ready(Ok(Outcome::End));
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(bytes);
            self.judge_held();
            return Poll::Ready(Ok(Outcome::Held));
        }
        let progress = self.framing.feed(bytes);
        let (pass, rest) = bytes.split_at(progress.pass);
        buf.put_slice(pass);
        self.held.extend_from_slice(rest);
        self.unjudged = progress.pause.is_some() && !rest.is_empty();
        self.pause(progress.pause);
        Poll::Ready(Ok(if pass.is_empty() { Outcome::Held } else { Outcome::Passed }))
    }

    /// Reads bytes that pass whatever they are, without copying them.
    fn read_opaque(&mut self, cx: &mut Context<'_>, buf: &mut ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let limit = usize::try_from(self.framing.opaque_bytes()).unwrap_or(usize::MAX).min(buf.remaining());
        // SAFETY: the slice is only handed to a `ReadBuf`, which never de-initialises bytes.
        let space = unsafe { buf.as_mut() };
        let mut read = ReadBuf::uninit(&mut space[..limit]);
        ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
        let bytes = read.filled();
        let count = bytes.len();
        self.shared.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        let progress = self.framing.feed(bytes);
        debug_assert_eq!(progress.pass, count, "opaque bytes pass");
        // SAFETY: `read` has just initialised and filled the first `count` bytes of the unfilled part.
        unsafe { buf.advance(count) };
        self.pause(progress.pause);
        Poll::Ready(Ok(()))
    }

    /// Keeps reading while an upgrade is undecided, so that a client that goes away is noticed. Bounded; the end is told only while nothing
    /// is held that would be lost with it.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.held.len() < HEAD_BYTES_MAX {
            let mut space = [const { MaybeUninit::<u8>::uninit() }; 4096];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
            if read.filled().is_empty() {
                return if self.held.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            self.shared.bytes_read.fetch_add(read.filled().len() as u64, Ordering::Relaxed);
            self.held.extend_from_slice(read.filled());
        }
        Poll::Pending
    }
}

/// What a read led to.
enum Outcome {
    /// The client has sent all.
    End,
    /// Bytes went on to the reader.
    Passed,
    /// Bytes came, but none went on directly.
    Held,
}

impl<I: Read + Unpin> Read for Gate<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if let Some(served) = gate.serve(cx, &mut buf) {
                return served;
            }
            match gate.state {
                State::Upgrade => return gate.read_ahead(cx),
                // Nothing is waited for: the substitute is answered without reading on.
                State::Refused => return Poll::Pending,
                _ if gate.held.is_empty() && gate.framing.opaque_bytes() > 0 => {
                    return gate.read_opaque(cx, &mut buf);
                }
                _ => {}
            }
            let read = gate.read_and_judge(cx, &mut buf);
            if read.is_pending() && gate.listen_for_refusal(cx) {
                continue;
            }
            match ready!(read)? {
                Outcome::End | Outcome::Passed => return Poll::Ready(Ok(())),
                Outcome::Held => {}
            }
        }
    }
}

impl<I: Read + Write + Unpin> Write for Gate<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let written = ready!(Pin::new(&mut gate.io).poll_write(cx, buf))?;
        gate.shared.bytes_written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let written = ready!(Pin::new(&mut gate.io).poll_write_vectored(cx, bufs))?;
        gate.shared.bytes_written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests;
