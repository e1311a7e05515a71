//! One client connection: hyper behind the framing gate, its idle and stall time-outs, and the tunnel it may become.
//!
//! Effectful: owns sockets, waits.
#![expect(clippy::disallowed_types, reason = "takes over accepted sockets")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::linger::{Rest, dismiss, linger};
use super::metered::{Metered, Meters, Stream};
use super::metrics::ThreadMetrics;
use super::request::failure;
use super::request::framing::Phase as GatePhase;
use super::request::gate::{Gate, GateHandle};
use super::request::handle::handle;
use super::request::report;
use super::request::upgrade::PendingTunnel;
use super::room;
use super::thread::Thread;
use super::timer::Timer;
use crate::limits::{
    CLIENT_BODY_TIMEOUT, CLIENT_HEAD_TIMEOUT, CLIENT_IDLE_TIMEOUT, HEAD_BYTES_MAX, HEADERS_MAX,
};
use crate::reason::Reason;
use crate::snapshot::ServedListener;

/// Bytes that hyper may buffer for one client; it reads bodies in pieces of at most this size.
const CLIENT_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long a draining worker waits for the first request of a connection that was just made.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);
/// How long nobody looks for idle connections to close after none was found.
const LOOK_FOR_IDLE_EVERY: Duration = Duration::from_millis(100);

/// What requests of one client connection share.
pub struct Client {
    /// The listener that took it, as it was called then.
    pub listener: Rc<ServedListener>,
    /// Who connected.
    pub peer: SocketAddr,
    /// Bytes from and to the client.
    pub meters: Rc<Meters>,
    /// For the time-outs of the request in progress.
    pub timer: RefCell<Timer>,
    /// What the gate saw.
    pub gate: GateHandle,
    /// Set by a request whose backend answered 101: what the connection becomes once hyper has sent the answer.
    pub tunnel: RefCell<Option<PendingTunnel>>,
    waiting: Cell<Waiting>,
    stall: Cell<Option<(u64, Instant)>>,
    closing: Cell<bool>,
    /// It is closed to make room.
    makes_room: Cell<bool>,
    requests: Cell<u64>,
    /// The socket, which the gate owns.
    socket: RawFd,
    waker: RefCell<Option<Waker>>,
    counted: Cell<(u64, u64)>,
    last_active: Cell<Instant>,
}

#[derive(Clone, Copy)]
enum Waiting {
    /// Since then for a request to begin.
    Idle(Instant),
    /// Since then for the rest of a head.
    Head(Instant),
    /// The head took too long: since then for the client to take the answer that says so.
    Refused(Instant),
    /// Not: a request is in progress.
    No,
}

impl Client {
    /// A request begins; the wait for the next one begins when the guard is dropped.
    pub fn begin_request(self: &Rc<Self>) -> InProgress {
        self.waiting.set(Waiting::No);
        self.requests.set(self.requests.get() + 1);
        InProgress(self.clone())
    }

    /// Ready when the connection must be given up: the client does not read, or sends no request.
    fn poll_overdue(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            let (deadline, what) = if self.meters.write_blocked.get() {
                (self.stalled_since() + CLIENT_BODY_TIMEOUT, "does not read")
            } else {
                match self.waiting.get() {
                    Waiting::No => return Poll::Pending,
                    Waiting::Idle(_) if self.gate.phase() == GatePhase::Head => {
                        self.waiting.set(Waiting::Head(Instant::now()));
                        continue;
                    }
                    Waiting::Idle(since) => (since + CLIENT_IDLE_TIMEOUT, "idle"),
                    Waiting::Head(since) => (since + self.head_timeout(), "head"),
                    Waiting::Refused(since) => (since + CLIENT_HEAD_TIMEOUT, "does not take its refusal"),
                }
            };
            std::task::ready!(timer.poll_until(deadline, cx));
            let Waiting::Head(_) = self.waiting.get() else { return Poll::Ready(what) };
            if self.gate.phase() != GatePhase::Head {
                return Poll::Ready(what);
            }
            self.waiting.set(Waiting::Refused(Instant::now()));
            self.gate.refuse_head(Reason::ClientTimeout);
        }
    }

    /// Since when no request is in progress and none has begun to come; `None` where there is one, or has never been one.
    fn idle_since(&self) -> Option<Instant> {
        match self.waiting.get() {
            Waiting::Idle(since) if self.gate.phase() == GatePhase::Idle => Some(since),
            _ => None,
        }
    }

    /// Closes once the request in progress is over; at once where none is.
    fn close(&self) {
        self.closing.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Whether the client has closed its side. hyper does not see that while bytes of a further request wait before it.
    pub fn has_left(&self) -> bool {
        // SAFETY: a request in progress asks, which only hyper's connection polls, and that owns the socket.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket) };
        let mut asked = [PollFd::new(&socket, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&at_once)).is_ok_and(|count| count > 0)
    }

    /// A request was over at this time: from then on the client is idle.
    pub fn last_active(&self, now: Instant) {
        self.last_active.set(now);
    }

    /// Adds the bytes that moved since the last time.
    pub fn count_bytes(&self, metrics: &ThreadMetrics) {
        let (read, written) = (self.meters.read.get(), self.meters.written.get());
        let (read_before, written_before) = self.counted.replace((read, written));
        metrics.bytes_received.add(read - read_before);
        metrics.bytes_sent.add(written - written_before);
    }

    /// A connection that was just made has a request on its way, which closing now would lose.
    fn awaits_first_request(&self) -> bool {
        matches!(self.waiting.get(), Waiting::Head(_)) && self.requests.get() == 0
    }

    fn head_timeout(&self) -> Duration {
        if self.closing.get() { FIRST_REQUEST_WAIT } else { CLIENT_HEAD_TIMEOUT }
    }

    fn stalled_since(&self) -> Instant {
        let written = self.meters.written.get();
        match self.stall.get() {
            Some((at, since)) if at == written => since,
            _ => {
                let since = Instant::now();
                self.stall.set(Some((written, since)));
                since
            }
        }
    }
}

/// Alive while a request of the connection is in progress.
pub struct InProgress(Rc<Client>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.waiting.set(Waiting::Idle(self.0.last_active.get()));
    }
}

/// The client connections of one thread.
#[derive(Default)]
pub struct Connections {
    open: RefCell<HashMap<u64, Rc<Client>>>,
    next: Cell<u64>,
    closed: Notify,
    /// Those that are being closed to make room.
    making_room: Cell<usize>,
    looked_in_vain: Cell<Option<Instant>>,
}

impl Connections {
    /// Closes what is idle and lets the rest finish its request.
    pub fn close_idle(&self) {
        for client in self.open.borrow().values() {
            client.close();
        }
    }

    /// Closes a share of the connections, the longest idle ones, unless that is being done already.
    pub fn close_longest_idle(&self, now: Instant) {
        let in_vain = |at: Instant| now - at < LOOK_FOR_IDLE_EVERY;
        if self.making_room.get() > 0 || self.looked_in_vain.get().is_some_and(in_vain) {
            return;
        }
        let open = self.open.borrow();
        let idle = open.values().filter_map(|client| Some((client.idle_since()?, client))).collect();
        let closed = room::longest_idle(idle, open.len());
        if closed.is_empty() {
            self.looked_in_vain.set(Some(now));
        }
        self.making_room.set(closed.len());
        for client in closed {
            client.makes_room.set(true);
            client.close();
        }
    }

    /// Waits until none is open.
    pub async fn all_closed(&self) {
        while !self.open.borrow().is_empty() {
            self.closed.notified().await;
        }
    }
}

/// One entry of [`Connections`], and of the worker's count.
struct Entry {
    thread: Rc<Thread>,
    number: u64,
}

impl Entry {
    fn new(thread: &Rc<Thread>, client: &Rc<Client>) -> Self {
        thread.shared.connections.fetch_add(1, Ordering::Relaxed);
        thread.metrics.connections_accepted.add(1);
        let number = thread.connections.next.get();
        thread.connections.next.set(number + 1);
        thread.connections.open.borrow_mut().insert(number, client.clone());
        Self { thread: thread.clone(), number }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.thread.shared.connections.fetch_sub(1, Ordering::Relaxed);
        let metrics = &self.thread.metrics;
        metrics.connections_closed.add(1);
        let connections = &self.thread.connections;
        if let Some(client) = connections.open.borrow_mut().remove(&self.number) {
            client.count_bytes(metrics);
            let left = connections.making_room.get().saturating_sub(client.makes_room.get().into());
            connections.making_room.set(left);
        }
        connections.closed.notify_waiters();
    }
}

/// Tells a client that it is one too many, in a task of its own.
pub fn refuse(thread: &Rc<Thread>, listener: &ServedListener, stream: TcpStream, peer: SocketAddr) {
    thread.metrics.connections_refused.add(1);
    let served = thread.served();
    let (answer, body_bytes) = failure::refusal(served.shared.snapshot.reason_header);
    report::write_refused(thread, &served, listener, peer, body_bytes);
    let shared = thread.shared.clone();
    tokio::task::spawn_local(async move { dismiss(stream, &shared.refused, answer.as_bytes()).await });
}

/// Serves a client connection in a task of its own.
pub fn start(thread: &Rc<Thread>, listener: &Rc<ServedListener>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let now = Instant::now();
    let socket = stream.as_raw_fd();
    let (metered, meters) = Metered::new(Stream::Tcp(stream));
    let (gate, handle) = Gate::new(TokioIo::new(metered));
    let client = Rc::new(Client {
        listener: listener.clone(),
        peer,
        meters,
        timer: RefCell::default(),
        gate: handle,
        tunnel: RefCell::new(None),
        // The first request is due at once: a connection that sends nothing is not kept like one that has proved itself.
        waiting: Cell::new(Waiting::Head(now)),
        stall: Cell::new(None),
        requests: Cell::new(0),
        socket,
        closing: Cell::new(thread.draining.get().is_some()),
        makes_room: Cell::new(false),
        waker: RefCell::new(None),
        counted: Cell::new((0, 0)),
        last_active: Cell::new(now),
    });
    let entry = Entry::new(thread, &client);
    tokio::task::spawn_local(serve(entry, client, gate));
}

async fn serve(entry: Entry, client: Rc<Client>, gate: Gate<TokioIo<Metered>>) {
    let service = {
        let (thread, client) = (entry.thread.clone(), client.clone());
        service_fn(move |request| {
            let (thread, client) = (thread.clone(), client.clone());
            let violation = client.gate.begin_request();
            async move { Ok::<_, Infallible>(handle(thread, client, request, violation).await) }
        })
    };
    let mut server = http1::Builder::new()
        .max_buf_size(CLIENT_BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .header_read_timeout(None)
        .half_close(false)
        .serve_connection(gate, service);
    let mut timer = Timer::default();
    let mut told = false;
    let ended = poll_fn(|cx| {
        remember_waker(&client, cx);
        if client.closing.get() && !told && !client.awaits_first_request() {
            Pin::new(&mut server).graceful_shutdown();
            told = true;
        }
        if let Poll::Ready(result) = Pin::new(&mut server).poll(cx) {
            return Poll::Ready(Ended::ByItself(result));
        }
        client.poll_overdue(&mut timer, cx).map(Ended::Overdue)
    })
    .await;
    match ended {
        Ended::ByItself(Ok(())) => {
            let tunnel = client.tunnel.borrow_mut().take();
            let parts = server.into_parts();
            match tunnel {
                Some(tunnel) => tunnel.relay(parts.io, parts.read_buf).await,
                None => {
                    let is_complete = client.gate.phase() == GatePhase::Idle;
                    let rest = if is_complete { Rest::Possible } else { Rest::Expected };
                    let mut socket = parts.io.into_inner().into_inner();
                    linger(&mut socket, &entry.thread.shared.lingering, rest).await;
                }
            }
        }
        Ended::ByItself(Err(error)) => log::debug!("connection ended peer={} error={error}", client.peer),
        Ended::Overdue(what) => log::debug!("connection overdue peer={} {what}", client.peer),
    }
}

enum Ended {
    ByItself(hyper::Result<()>),
    Overdue(&'static str),
}

fn remember_waker(client: &Client, cx: &Context<'_>) {
    if client.waker.borrow().is_none() {
        *client.waker.borrow_mut() = Some(cx.waker().clone());
    }
}
