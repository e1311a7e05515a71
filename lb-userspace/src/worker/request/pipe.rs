//! One direction of a tunnel: reads from one side, writes to the other, passes the end on, and knows where frames end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::websocket::FrameTracker;
use crate::limits::{TUNNEL_BUFFER_BYTES_MAX, TUNNEL_BUFFER_BYTES_MIN};

/// Where a direction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaying {
    /// More may come.
    Going,
    /// The end was passed on.
    Done,
    /// Nothing can be read any more.
    SourceFailed,
    /// Nothing can be written any more.
    SinkFailed,
}

/// One direction.
pub struct Pipe {
    buffer: Vec<u8>,
    /// `buffer[start..end]` waits to be written.
    start: usize,
    end: usize,
    source: Source,
    ended: bool,
    bytes: u64,
    tracker: Option<FrameTracker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    /// Our own last words are in the buffer: what the source still says is read away.
    Ignored,
    Ended,
}

impl Pipe {
    /// `early` was read already. `websocket`: frames are followed.
    pub fn new(early: Bytes, websocket: bool) -> Self {
        let mut buffer = vec![0; TUNNEL_BUFFER_BYTES_MIN.max(early.len())];
        buffer[..early.len()].copy_from_slice(&early);
        let tracker = websocket.then(FrameTracker::default);
        Self { buffer, start: 0, end: early.len(), source: Source::Open, ended: false, bytes: 0, tracker }
    }

    /// Bytes written to the other side.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether bytes wait because the other side takes none.
    pub fn is_blocked(&self) -> bool {
        self.start < self.end
    }

    /// Whether bytes of our own may be inserted: a frame has just ended and nothing waits.
    pub fn at_boundary(&self) -> bool {
        self.source == Source::Open
            && self.start == self.end
            && self.tracker.as_ref().is_some_and(|tracker| tracker.at_boundary() && !tracker.closed())
    }

    /// Ends the direction with these bytes; what the source still says is read away.
    pub fn insert_last(&mut self, bytes: &[u8]) {
        self.buffer.clear();
        self.buffer.extend_from_slice(bytes);
        self.buffer.resize(self.buffer.len().max(TUNNEL_BUFFER_BYTES_MIN), 0);
        (self.start, self.end) = (0, bytes.len());
        self.source = Source::Ignored;
    }

    /// Moves what can be moved.
    pub fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Relaying
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.ended {
            match self.poll_empty(cx, writer) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Relaying::SinkFailed,
                Poll::Pending => return Relaying::Going,
            }
            if self.source == Source::Ended {
                self.ended = true;
                break;
            }
            match self.poll_fill(cx, reader) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Relaying::SourceFailed,
                Poll::Pending => return Relaying::Going,
            }
        }
        Relaying::Done
    }

    /// Writes what waits, and the end after the last of it.
    fn poll_empty(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<std::io::Result<()>> {
        while self.start < self.end {
            let waiting = &self.buffer[self.start..self.end];
            let written = std::task::ready!(Pin::new(&mut *writer).poll_write(cx, waiting))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            if let Some(tracker) = &mut self.tracker {
                tracker.feed(&waiting[..written]);
            }
            self.bytes += written as u64;
            self.start += written;
        }
        match self.source {
            Source::Ended => Pin::new(writer).poll_shutdown(cx),
            Source::Open | Source::Ignored => Poll::Ready(Ok(())),
        }
    }

    fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<std::io::Result<()>> {
        let mut read = ReadBuf::new(&mut self.buffer);
        let polled = Pin::new(reader).poll_read(cx, &mut read);
        let bytes = read.filled().len();
        match polled {
            Poll::Pending => {
                if self.buffer.len() > TUNNEL_BUFFER_BYTES_MIN {
                    // Idle tunnels are many; each keeps only a small buffer.
                    self.buffer = vec![0; TUNNEL_BUFFER_BYTES_MIN];
                }
                return Poll::Pending;
            }
            Poll::Ready(result) => result?,
        }
        if bytes == 0 {
            self.source = Source::Ended;
        } else if self.source == Source::Open {
            (self.start, self.end) = (0, bytes);
            if bytes == self.buffer.len() && bytes < TUNNEL_BUFFER_BYTES_MAX {
                self.buffer.resize(bytes * 2, 0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_and_the_end_pass_in_order() {
        let (mut near, mut left) = duplex(1 << 20);
        let (mut right, mut far) = duplex(1 << 20);
        let sent: Vec<u8> = (0..200_000u32).map(|number| number as u8).collect();
        near.write_all(&sent).await.unwrap();
        near.shutdown().await.unwrap();
        let mut pipe = Pipe::new(Bytes::from_static(b"early"), false);
        let done = poll_fn(|cx| match pipe.poll(cx, &mut left, &mut right) {
            Relaying::Going => Poll::Pending,
            end => Poll::Ready(end),
        });
        assert_eq!(done.await, Relaying::Done);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(&got[..5], b"early");
        assert_eq!(&got[5..], &sent[..]);
        assert_eq!(pipe.bytes(), got.len() as u64);
    }

    #[tokio::test]
    async fn inserted_words_are_the_last() {
        let (mut near, mut left) = duplex(1024);
        let (mut right, mut far) = duplex(1024);
        let mut pipe = Pipe::new(Bytes::new(), true);
        near.write_all(&[0x82, 0x01, 7]).await.unwrap();
        poll_fn(|cx| Poll::Ready(pipe.poll(cx, &mut left, &mut right))).await;
        assert!(pipe.at_boundary());
        pipe.insert_last(b"bye");
        near.write_all(&[0x82, 0x01, 8]).await.unwrap();
        near.shutdown().await.unwrap();
        poll_fn(|cx| Poll::Ready(pipe.poll(cx, &mut left, &mut right))).await;
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [0x82, 0x01, 7, b'b', b'y', b'e']);
    }
}
