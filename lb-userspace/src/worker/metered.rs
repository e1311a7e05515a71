//! A socket that counts its bytes, so that time-outs, retries and logs know what has really been sent and received.
//!
//! Effectful: owns sockets.
#![expect(clippy::disallowed_types, reason = "this is where worker sockets live")]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Bytes up to which several buffers are copied into one: `send` is cheaper than `writev` by more than the copy.
const JOINED_BYTES_MAX: usize = 1024;

/// Bytes that passed a socket, and whether it takes more.
#[derive(Debug, Default)]
pub struct Meters {
    /// Bytes read from the peer.
    pub read: Cell<u64>,
    /// Bytes that the kernel took for the peer.
    pub written: Cell<u64>,
    /// The last write found the socket full.
    pub write_blocked: Cell<bool>,
}

impl Meters {
    /// A number that changes whenever a byte passes.
    pub fn progress(&self) -> u64 {
        self.read.get().wrapping_add(self.written.get())
    }
}

/// A connected socket.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// A socket with [`Meters`].
pub struct Metered {
    stream: Stream,
    meters: Rc<Meters>,
}

impl Metered {
    /// Counts from zero.
    pub fn new(stream: Stream) -> (Self, Rc<Meters>) {
        let meters = Rc::new(Meters::default());
        (Self { stream, meters: meters.clone() }, meters)
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => {
                self.meters.written.set(self.meters.written.get() + *bytes as u64);
                self.meters.write_blocked.set(false);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.meters.write_blocked.set(true),
        }
        result
    }
}

impl AsFd for Metered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.meters.read.set(self.meters.read.get() + bytes as u64);
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if bytes <= JOINED_BYTES_MAX {
            let mut joined = [0; JOINED_BYTES_MAX];
            let mut end = 0;
            for buffer in buffers {
                joined[end..end + buffer.len()].copy_from_slice(buffer);
                end += buffer.len();
            }
            return self.poll_write(cx, &joined[..end]);
        }
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        };
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
