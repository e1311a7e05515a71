//! Accepts client connections on one socket of one thread.
//!
//! Effectful: owns sockets, waits.
#![expect(clippy::disallowed_types, reason = "accepts connections")]
#![expect(clippy::disallowed_methods, reason = "waits when the process is out of descriptors")]

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connection;
use super::room;
use super::thread::Thread;
use crate::limits::ACCEPT_QUEUE_MAX;
use crate::snapshot::ServedListener;

/// Wait after an accept error that will not go away by itself (no descriptors left, no memory).
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// Connections taken in a row before other tasks of the thread get their turn.
const ACCEPTS_IN_A_ROW: usize = 32;

/// Dropped: accepts no more. What waits in the queue is reset with the last descriptor of the socket.
pub struct Listening {
    thread: Rc<Thread>,
    listener: Rc<TcpListener>,
    named: Rc<ServedListener>,
    accepting: JoinHandle<()>,
}

/// Begins to accept.
///
/// # Errors
/// When the socket is not one that the runtime can watch.
pub fn listen(thread: &Rc<Thread>, listener: ServedListener, socket: OwnedFd) -> io::Result<Listening> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    let socket = Rc::new(TcpListener::from_std(socket)?);
    let named = Rc::new(listener);
    let accepting = tokio::task::spawn_local(accept(thread.clone(), socket.clone(), named.clone()));
    Ok(Listening { thread: thread.clone(), listener: socket, named, accepting })
}

async fn accept(thread: Rc<Thread>, listener: Rc<TcpListener>, named: Rc<ServedListener>) {
    loop {
        for _ in 0..ACCEPTS_IN_A_ROW {
            match listener.accept().await {
                Ok((stream, peer)) => take(&thread, &named, stream, peer),
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    log::warn!("listener accept failed listener={} error={error}", named.name);
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Errors of the one connection that was to be accepted, not of the listener (accept(2)).
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        || error.kind() == io::ErrorKind::Interrupted
}

fn take(thread: &Rc<Thread>, named: &Rc<ServedListener>, stream: TcpStream, peer: SocketAddr) {
    let open = thread.shared.connections.load(Ordering::Relaxed);
    let max = thread.shared.connections_max.load(Ordering::Relaxed);
    if room::is_scarce(open, max) {
        thread.connections.close_longest_idle(Instant::now());
    }
    if open < max {
        connection::start(thread, named, stream, peer);
    } else {
        connection::refuse(thread, named, stream, peer);
    }
}

impl Listening {
    /// Takes what already waits in the accept queue, then closes the socket: nobody else may come to accept. Nobody is accepted
    /// once this returns.
    pub async fn close(mut self) {
        self.accepting.abort();
        // The task shares the socket until the runtime has dropped it.
        let _ = (&mut self.accepting).await;
        let mut nobody = Context::from_waker(Waker::noop());
        tokio::task::coop::unconstrained(poll_fn(|_| {
            for _ in 0..ACCEPT_QUEUE_MAX {
                let Poll::Ready(Ok((stream, peer))) = self.listener.poll_accept(&mut nobody) else { break };
                take(&self.thread, &self.named, stream, peer);
            }
            Poll::Ready(())
        }))
        .await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
