//! What the request handler asks a [`Gate`](super::Gate), and tells it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

#[cfg(doc)]
use crate::limits::REFUSED_LINE_BYTES_MAX;
use crate::reason::Reason;
use crate::worker::request::framing::Phase;

/// The handler's end of a [`Gate`](super::Gate).
#[derive(Clone)]
pub struct GateHandle(pub(super) Arc<Shared>);

/// What both ends hold.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) said: Mutex<Said>,
    /// Whether `said.refusal` is set; spares a lock per read.
    pub(super) is_refused: AtomicBool,
    pub(super) phase: AtomicU8,
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_written: AtomicU64,
}

/// What gate and handler tell each other.
#[derive(Default)]
pub(super) struct Said {
    /// Requests that the handler has begun.
    pub(super) begun: u64,
    /// Which request of the connection (from 1) broke the rules, and how.
    pub(super) violation: Option<(u64, Reason)>,
    /// The first line of a head that was refused, as far as it was read.
    pub(super) refused_line: Option<String>,
    /// Which request's answer is known, and whether it grants the upgrade asked for.
    pub(super) upgrade: Option<(u64, bool)>,
    /// The handler's wish to refuse the head being awaited.
    pub(super) refusal: Option<Reason>,
    pub(super) waker: Option<Waker>,
}

impl Shared {
    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GateHandle {
    /// To be called once at the start of every request, in `Service::call` itself and not in the future it returns: hyper
    /// reads the next head before it polls that. `Some`: the request must be answered with this reason and the connection
    /// closed; either it is a substitute for one whose head was refused, or its body is known to be broken already.
    pub fn begin_request(&self) -> Option<Reason> {
        let mut said = self.0.said();
        said.begun += 1;
        said.violation.filter(|(number, _)| *number == said.begun).map(|(_, reason)| reason)
    }

    /// How the request that was begun last broke the rules, in its head or, since, in its body. Where
    /// [`GateHandle::begin_request`] is never called: how any request did.
    pub fn violation(&self) -> Option<Reason> {
        let said = self.0.said();
        said.violation
            .filter(|(number, _)| said.begun == 0 || *number <= said.begun)
            .map(|(_, reason)| reason)
    }

    /// The first line of the head that was refused, as far as it was read; at most [`REFUSED_LINE_BYTES_MAX`] bytes of it.
    pub fn take_refused_line(&self) -> Option<String> {
        self.0.said().refused_line.take()
    }

    /// The request that was begun last gets its WebSocket: bytes pass unread from now on.
    pub fn upgrade_accepted(&self) {
        self.say(|said| said.upgrade = Some((said.begun, true)));
    }

    /// It does not get one: what follows is another request. Harmless where it asked for none, also when one that was read ahead does.
    pub fn upgrade_refused(&self) {
        self.say(|said| said.upgrade = Some((said.begun, false)));
    }

    /// Refuses the head that is being awaited or has come in part (the client took too long, say): the handler is called once more and
    /// learns `reason`. Has no effect while a body or an upgrade is in progress.
    pub fn refuse_head(&self, reason: Reason) {
        self.say(|said| {
            said.refusal = Some(reason);
            self.0.is_refused.store(true, Ordering::Release);
        });
    }

    fn say(&self, change: impl FnOnce(&mut Said)) {
        let mut said = self.0.said();
        change(&mut said);
        let waker = said.waker.take();
        drop(said);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Where the client's byte stream stands, as far as it was read.
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.0.phase.load(Ordering::Relaxed))]
    }

    /// Bytes read from the client since the connection began.
    pub fn bytes_read(&self) -> u64 {
        self.0.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes written to the client since the connection began.
    pub fn bytes_written(&self) -> u64 {
        self.0.bytes_written.load(Ordering::Relaxed)
    }
}

pub(super) const PHASES: [Phase; 6] =
    [Phase::Idle, Phase::Head, Phase::Body, Phase::Upgrade, Phase::Raw, Phase::Refused];
