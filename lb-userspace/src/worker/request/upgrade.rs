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
use super::rewrite::{apply, strip_answer};
use super::websocket::close_frame;
use crate::limits::{CLIENT_BODY_TIMEOUT, HALF_CLOSED_IDLE_MAX, TUNNEL_PEER_TIMEOUT};
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
        strip_answer(&mut parts.headers);
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
        let send_timeout = record.upstream.as_ref().map_or(IDLE, |upstream| upstream.shared.send_timeout);
        let mut tunnel = Tunnel {
            client: TokioIo::new(client),
            backend,
            blocked: [Blocked::new(send_timeout), Blocked::new(CLIENT_BODY_TIMEOUT)],
            half_closed: None,
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

/// A peer that has vanished without a word is noticed by the kernel, whether something was sent to it or not.
fn keep_alive(socket: &Metered) {
    let socket = socket2::SockRef::from(socket);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(20));
    // A unix socket has neither, and needs neither.
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(TUNNEL_PEER_TIMEOUT));
}

/// Since when one direction waits for its reader.
struct Blocked {
    patience: Duration,
    bytes: u64,
    since: Option<Instant>,
}

impl Blocked {
    fn new(patience: Duration) -> Self {
        Self { patience, bytes: 0, since: None }
    }

    fn note(&mut self, pipe: &Pipe) {
        let bytes = pipe.bytes();
        let goes_on = self.since.is_some() && bytes == self.bytes;
        self.bytes = bytes;
        if !pipe.is_blocked() {
            self.since = None;
        } else if !goes_on {
            self.since = Some(Instant::now());
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }
}

struct Tunnel {
    client: TokioIo<Gate<TokioIo<Metered>>>,
    backend: Metered,
    to_backend: Pipe,
    to_client: Pipe,
    /// Of both in this order.
    blocked: [Blocked; 2],
    /// When one of them ended.
    half_closed: Option<Instant>,
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
                let Some(deadline) = next_look.into_iter().chain(self.deadlines()).min() else {
                    return Poll::Pending;
                };
                timer.poll_until(deadline, cx).map(|()| None)
            })
            .await;
            if let Some(ended) = ended {
                return ended;
            }
            let now = Instant::now();
            if let Some(reason) = self.given_up(now) {
                return reason;
            }
            if self.is_overdue(now) {
                return None;
            }
        }
    }

    /// When to give up what stands still.
    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let silent = self.half_closed.map(|since| since.max(self.moved.1) + HALF_CLOSED_IDLE_MAX);
        self.blocked.iter().filter_map(Blocked::deadline).chain(silent)
    }

    /// Whether the tunnel stands still for good; with the reason, where somebody is to blame.
    fn given_up(&self, now: Instant) -> Option<Option<Reason>> {
        let is_over = |blocked: &Blocked| blocked.deadline().is_some_and(|deadline| now >= deadline);
        let [to_backend, to_client] = &self.blocked;
        if is_over(to_backend) {
            return Some(Some(Reason::SendTimeout));
        }
        if is_over(to_client) {
            return Some(Some(Reason::ClientTimeout));
        }
        self.deadlines().any(|deadline| now >= deadline).then_some(None)
    }

    /// Ready once both directions are done: with `None` in good order.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Reason>> {
        let up = self.to_backend.poll(cx, &mut self.client, &mut self.backend);
        let down = self.to_client.poll(cx, &mut self.backend, &mut self.client);
        let moved = self.to_backend.bytes() + self.to_client.bytes();
        if moved != self.moved.0 {
            self.moved = (moved, Instant::now());
        }
        let [to_backend, to_client] = &mut self.blocked;
        to_backend.note(&self.to_backend);
        to_client.note(&self.to_client);
        match (up, down) {
            (Relaying::SourceFailed, _) | (_, Relaying::SinkFailed) => {
                Poll::Ready(Some(Reason::ClientAborted))
            }
            (Relaying::SinkFailed, _) | (_, Relaying::SourceFailed) => {
                Poll::Ready(Some(Reason::ResponseReset))
            }
            (Relaying::Done, Relaying::Done) => Poll::Ready(None),
            (Relaying::Going, Relaying::Going) => Poll::Pending,
            _ => {
                self.half_closed.get_or_insert_with(Instant::now);
                Poll::Pending
            }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn direction_is_blocked_since_its_reader_took_the_last_byte() {
        let (mut near, mut left) = duplex(1024);
        let (mut right, mut far) = duplex(4);
        let mut pipe = Pipe::new(Bytes::new(), false);
        let mut blocked = Blocked::new(Duration::from_secs(1));
        let mut poll = async |pipe: &mut Pipe, blocked: &mut Blocked| {
            poll_fn(|cx| Poll::Ready(pipe.poll(cx, &mut left, &mut right))).await;
            blocked.note(pipe);
            blocked.since
        };
        assert_eq!(poll(&mut pipe, &mut blocked).await, None);
        near.write_all(b"more than four").await.unwrap();
        let since = poll(&mut pipe, &mut blocked).await;
        assert!(since.is_some());
        assert_eq!(poll(&mut pipe, &mut blocked).await, since);
        far.read_exact(&mut [0; 4]).await.unwrap();
        assert!(poll(&mut pipe, &mut blocked).await > since);
        far.read_exact(&mut [0; 4]).await.unwrap();
        poll(&mut pipe, &mut blocked).await;
        far.read_exact(&mut [0; 4]).await.unwrap();
        poll(&mut pipe, &mut blocked).await;
        far.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(poll(&mut pipe, &mut blocked).await, None);
    }
}
