//! A connection to a backend, TCP or unix socket, for probes and for dependencies.
//!
//! Effectful: connects.

#![expect(clippy::disallowed_types, reason = "probes connect here")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::config::model::Address;

/// An open connection.
pub enum Connection {
    /// To a port.
    Tcp(TcpStream),
    /// To a socket file.
    Unix(UnixStream),
}

/// Connects.
///
/// # Errors
/// `connect 127.0.0.1:8081: connection refused`.
pub async fn connect(address: &Address) -> Result<Connection, String> {
    let connection = match address {
        Address::Tcp(address) => TcpStream::connect(address).await.map(Connection::Tcp),
        Address::Unix(path) => UnixStream::connect(path).await.map(Connection::Unix),
    };
    connection.map_err(|error| format!("connect {address}: {}", in_words(&error)))
}

/// An error without number and capitals.
pub fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        _ => crate::master::program::exec_shim::plain(error).to_lowercase(),
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
