//! Connections to backends: made, kept while idle, taken out again. One pool for each thread.
//!
//! The future that drives a connection is polled by the request that uses it; while idle nobody polls it, so a request
//! costs no task switch. What is idle is checked when it is taken out.
//!
//! Effectful: owns sockets.
#![expect(clippy::disallowed_types, reason = "makes connections to backends")]
#![expect(clippy::disallowed_methods, reason = "waits for a full unix socket")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::body::RequestBody;
use crate::config::model::Address;
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, POOL_IDLE_TIMEOUT};
use crate::reason::Reason;
use crate::state::event::{InstanceId, Slot};
use crate::table::BackendTable;
use crate::worker::metered::{Metered, Meters, Stream};
use crate::worker::place::Place;
use crate::worker::served::Upstream;
use crate::worker::thread::Thread;

/// Bytes that hyper may buffer for one backend connection; it reads bodies in pieces of at most this size.
const BACKEND_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Wait before asking a unix socket again whose queue is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);

/// The socket below a backend connection.
pub type BackendIo = TokioIo<Metered>;
type Driver = http1::Connection<BackendIo, RequestBody>;

/// A connection to a backend.
pub struct BackendConnection {
    /// Bytes from and to the backend.
    pub meters: Rc<Meters>,
    /// The row it belongs to.
    pub slot: Slot,
    /// The life it belongs to.
    pub instance: InstanceId,
    /// Whether it has served a request before.
    pub reused: bool,
    sender: http1::SendRequest<RequestBody>,
    driver: Driver,
    socket: RawFd,
    ended: Option<hyper::Result<()>>,
    open: Open,
}

impl BackendConnection {
    /// Connects.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(
        thread: &Rc<Thread>,
        address: &Address,
        (slot, instance): (Slot, InstanceId),
    ) -> io::Result<Box<Self>> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(connect_unix(path).await?),
        };
        let open = Open::count(thread.clone(), slot);
        let (metered, meters) = Metered::new(stream);
        let socket = metered.as_fd().as_raw_fd();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BACKEND_BUFFER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(metered))
            .await
            .map_err(io::Error::other)?;
        Ok(Box::new(Self {
            meters,
            slot,
            instance,
            reused: false,
            sender,
            driver,
            socket,
            ended: None,
            open,
        }))
    }

    /// Hands the request over; it moves while [`Self::drive`] is polled.
    pub fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<> {
        self.sender.try_send_request(request)
    }

    /// Moves bytes both ways. Ready once the connection has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.is_none() {
            match self.driver.poll_without_shutdown(cx) {
                Poll::Ready(result) => self.ended = Some(result),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// Whether another request may follow: the last exchange is complete in both directions and nobody asked to close.
    fn is_reusable(&mut self) -> bool {
        // Nobody is woken by an idle connection: whoever takes it out polls it first.
        let mut nobody = Context::from_waker(Waker::noop());
        self.drive(&mut nobody).is_pending() && self.sender.is_ready()
    }

    /// Whether the backend has closed, or sent something unasked, without the runtime having noticed yet.
    pub fn has_unread_end(&self) -> bool {
        let mut byte = [MaybeUninit::<u8>::uninit(); 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // SAFETY: the descriptor belongs to the socket that `self.driver` owns, so it is open as long as `self`.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket) };
        !matches!(
            rustix::net::recv(socket, &mut byte, flags),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)
        )
    }

    /// The socket and what was read beyond the head, once the connection has ended with an upgrade.
    /// The connection counts as open for as long as the second part is kept.
    pub fn into_upgraded(self) -> (Metered, Open, Bytes) {
        let parts = self.driver.into_parts();
        (parts.io.into_inner(), self.open, parts.read_buf)
    }
}

/// A unix socket whose queue is full refuses with EAGAIN instead of waiting as TCP does; the caller's time-out ends this.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(QUEUE_FULL_WAIT).await
            }
            result => return result,
        }
    }
}

/// What a failed connect means for the client.
pub fn reason_of_connect(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::ConnectTimeout,
        // Ours to blame: no ephemeral port, no descriptor (EMFILE, ENFILE) left.
        io::ErrorKind::AddrNotAvailable => Reason::Overloaded,
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Reason::Overloaded,
        _ => Reason::ConnectReset,
    }
}

/// One connection in a backend's count of open ones; uncounted when dropped.
pub struct Open {
    thread: Rc<Thread>,
    slot: Slot,
}

impl Open {
    fn count(thread: Rc<Thread>, slot: Slot) -> Self {
        thread.shared.activity.row(slot).connections.fetch_add(1, Ordering::Relaxed);
        Self { thread, slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.thread.shared.activity.row(self.slot).connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The idle connections of one thread, by row of the backend table; the one used last is taken first.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<Vec<VecDeque<Idle>>>,
    count: Cell<usize>,
}

struct Idle {
    connection: Box<BackendConnection>,
    since: Instant,
    _place: Place,
}

impl Pool {
    /// The connection to this life of the backend that was used last, if one is idle.
    pub fn take(&self, slot: Slot, instance: InstanceId, now: Instant) -> Option<Box<BackendConnection>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(slot.0 as usize)?;
        while let Some(Idle { mut connection, since, .. }) = connections.pop_back() {
            self.count.set(self.count.get() - 1);
            if connection.instance == instance && now - since < POOL_IDLE_TIMEOUT && connection.is_reusable()
            {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps the connection for another request, if it can serve one and the upstream may keep one more.
    pub fn give_back(&self, mut connection: Box<BackendConnection>, upstream: &Upstream, now: Instant) {
        if !connection.is_reusable() {
            return;
        }
        let Some(place) = upstream.idle_place() else { return };
        let mut idle = self.idle.borrow_mut();
        let slot = connection.slot.0 as usize;
        if idle.len() <= slot {
            idle.resize_with(slot + 1, VecDeque::new);
        }
        self.count.set(self.count.get() + 1);
        idle[slot].push_back(Idle { connection, since: now, _place: place });
    }

    /// Whether nothing is idle.
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Closes what has been idle for too long, or was closed by the backend.
    pub fn drop_expired(&self, now: Instant) {
        self.retain(|idle| now - idle.since < POOL_IDLE_TIMEOUT && idle.connection.is_reusable());
    }

    /// Closes what leads to an instance that takes no new requests.
    pub fn drop_dead(&self, table: &BackendTable) {
        self.retain(|idle| {
            let row = table.read(idle.connection.slot);
            row.instance == idle.connection.instance.0 && row.traffic().takes_new()
        });
    }

    fn retain(&self, mut keep: impl FnMut(&mut Idle) -> bool) {
        let mut count = 0;
        for connections in self.idle.borrow_mut().iter_mut() {
            connections.retain_mut(&mut keep);
            count += connections.len();
        }
        self.count.set(count);
    }
}
