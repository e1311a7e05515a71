//! What a connection becomes when client and backend have agreed on another protocol: bytes both ways until both ends are
//! done, or the backend is drained.
//!
//! Effectful: relays sockets, waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response, response};
use hyper_util::rt::TokioIo;
use lb_common::backend::TrafficState;
use tokio::time::Instant;

use super::exchange::Phase;
use super::gate::Gate;
use super::pipe::{Pipe, Relaying};
use super::pool::BackendConnection;
use super::record::Record;
use super::relay::ResponseBody;
use super::rewrite::{apply, strip_hop_by_hop};
use super::websocket::close_frame;
use crate::reason::Reason;
use crate::worker::metered::Metered;
use crate::worker::thread::Thread;
use crate::worker::timer::Timer;

/// A WebSocket on which nothing moved for this long is closed at once when its backend drains.
const IDLE: Duration = Duration::from_secs(1);
/// Time for both ends to answer a close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// How often a tunnel of a draining backend is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// RFC 6455 §7.4.1: the endpoint is going away.
const GOING_AWAY: u16 = 1001;

/// A tunnel that begins once hyper has sent the 101 to the client.
pub struct PendingTunnel {
    backend: Box<BackendConnection>,
    record: Box<Record>,
    websocket: bool,
}

impl PendingTunnel {
    /// Leaves the tunnel with the client's connection and returns the 101 for the client.
    pub fn announce(
        mut parts: response::Parts,
        backend: Box<BackendConnection>,
        record: Box<Record>,
    ) -> Response<ResponseBody> {
        let protocol = parts.headers.get(UPGRADE).cloned();
        strip_hop_by_hop(&mut parts.headers);
        if let Some(route) = &record.route {
            apply(&route.response_headers, &mut parts.headers, &record.variables());
        }
        let websocket =
            protocol.as_ref().is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            parts.headers.insert(UPGRADE, protocol);
        }
        let client = record.client.clone();
        client.gate.upgrade_accepted();
        *client.tunnel.borrow_mut() = Some(Self { backend, record, websocket });
        Response::from_parts(parts, ResponseBody::Whole(Bytes::new()))
    }

    /// Relays until both ends are done. `early` is what hyper read beyond the client's request.
    pub async fn relay(self, client: Gate<TokioIo<Metered>>, early: Bytes) {
        let Self { mut backend, mut record, websocket } = self;
        record.phase = Phase::Tunnel;
        if let Some(upstream) = &record.upstream {
            upstream.metrics.tunnels.add(1);
        }
        let read_timeout = record.upstream.as_ref().map_or(IDLE, |upstream| upstream.shared.read_timeout);
        // The 101 was the last thing that the driver had to do: it ends as soon as it is polled.
        let ended = poll_fn(|cx| backend.drive(cx));
        if tokio::time::timeout(read_timeout, ended).await.is_err() {
            record.finish(Some(Reason::ResponseMalformed), Instant::now());
            return;
        }
        let (backend, open, early_answer) = backend.into_upgraded();
        let mut tunnel = Tunnel {
            client: TokioIo::new(client),
            backend,
            to_backend: Pipe::new(early, websocket),
            to_client: Pipe::new(early_answer, websocket),
            websocket,
            moved: (0, Instant::now()),
            drain: None,
            closing: None,
        };
        keep_alive(&tunnel.backend);
        keep_alive(tunnel.client.inner().get_ref().inner());
        let thread = record.thread.clone();
        let reason = tunnel.run(&thread, &record).await;
        record.bytes_received += tunnel.to_backend.bytes();
        record.bytes_sent += tunnel.to_client.bytes();
        record.finish(reason, Instant::now());
        drop(open);
    }
}

/// A peer that has vanished without a word is noticed by the kernel.
fn keep_alive(socket: &Metered) {
    let socket = socket2::SockRef::from(socket);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(20));
    // A unix socket has no keep-alive, and needs none.
    let _ = socket.set_tcp_keepalive(&probes);
}

struct Tunnel {
    client: TokioIo<Gate<TokioIo<Metered>>>,
    backend: Metered,
    to_backend: Pipe,
    to_client: Pipe,
    websocket: bool,
    /// Bytes moved in all, and when that number last changed.
    moved: (u64, Instant),
    /// When to close at the latest, once the backend drains.
    drain: Option<Instant>,
    /// When to give up waiting for an orderly end, once close frames are on their way.
    closing: Option<Instant>,
}

impl Tunnel {
    async fn run(&mut self, thread: &Rc<Thread>, record: &Record) -> Option<Reason> {
        let mut timer = Timer::default();
        loop {
            let mut changed = pin!(thread.changed.notified());
            changed.as_mut().enable();
            let next_look = self.look(thread, record);
            let ended = poll_fn(|cx| {
                if let Poll::Ready(ended) = self.poll_bytes(cx) {
                    return Poll::Ready(Some(ended));
                }
                if changed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(None);
                }
                let Some(deadline) = next_look else { return Poll::Pending };
                timer.poll_until(deadline, cx).map(|()| None)
            })
            .await;
            if let Some(ended) = ended {
                return ended;
            }
            if self.is_overdue(Instant::now()) {
                return None;
            }
        }
    }

    /// Ready once both directions are done: with `None` in good order.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        let up = self.to_backend.poll(cx, &mut self.client, &mut self.backend);
        let down = self.to_client.poll(cx, &mut self.backend, &mut self.client);
        let moved = self.to_backend.bytes() + self.to_client.bytes();
        if moved != self.moved.0 {
            self.moved = (moved, Instant::now());
        }
        match (up, down) {
            (Relaying::Failed, _) => Poll::Ready(Some(Reason::ClientAborted)),
            (_, Relaying::Failed) => Poll::Ready(Some(Reason::ResponseReset)),
            (Relaying::Done, Relaying::Done) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }

    /// Finds out whether the tunnel should end, and begins its end when it can. Returns when to look again.
    fn look(&mut self, thread: &Thread, record: &Record) -> Option<Instant> {
        let now = Instant::now();
        if self.drain.is_none() {
            self.drain = drain_deadline(thread, record, now);
        }
        let deadline = self.drain?;
        let idle = now - self.moved.1 >= IDLE;
        if self.closing.is_none() && self.websocket && (idle || now >= deadline) && self.can_insert() {
            self.to_client.insert_last(&close_frame(GOING_AWAY, "", None));
            let mask = thread.rng.borrow_mut().u32(..).to_ne_bytes();
            self.to_backend.insert_last(&close_frame(GOING_AWAY, "", Some(mask)));
            self.closing = Some(now + CLOSE_WAIT);
        }
        self.closing.or(Some(now + LOOK_EVERY))
    }

    fn can_insert(&self) -> bool {
        self.to_client.at_boundary() && self.to_backend.at_boundary()
    }

    fn is_overdue(&self, now: Instant) -> bool {
        match (self.closing, self.drain) {
            (Some(until), _) => now >= until,
            (None, Some(deadline)) if self.websocket => now >= deadline + CLOSE_WAIT,
            (None, Some(deadline)) => now >= deadline,
            (None, None) => false,
        }
    }
}

/// When the tunnel must end: a little before the time at which the master stops waiting for it.
fn drain_deadline(thread: &Thread, record: &Record, now: Instant) -> Option<Instant> {
    if let Some(until) = thread.draining.get() {
        return Some(until - CLOSE_WAIT.min((until - now) / 4));
    }
    let (picked, backend) = (record.picked.as_ref()?, record.backend()?);
    let row = thread.shared.table.read(picked.slot);
    let leaving = row.instance != picked.instance.0 || row.traffic() == TrafficState::Draining;
    let patience = Duration::from_millis(backend.drain_timeout_ms);
    leaving.then(|| now + patience - CLOSE_WAIT.min(patience / 4))
}
