//! Frames that the kernel captured, handed to the operator who asked for them.
//!
//! Effectful: reads a ring buffer, waits.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aya::maps::{MapData, RingBuf};
use lb_common::capture::Captured;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tokio::time::Instant;

use super::object::Steering as Programs;
use crate::control::protocol::Answer;
use crate::control::protocol::steering::CapturedFrame;
use crate::master::kernel::reason;
use crate::master::watched::watched;
use crate::steer::captured;
use crate::time::Time;

/// The end of a capture that was given no time.
const FOREVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// The ring that the programs write captured frames to. One capture reads it at a time.
#[derive(Clone)]
pub struct Ring(Arc<Mutex<RingBuf<MapData>>>);

/// The ring, and nobody else's as long as this is kept.
pub struct Taken(OwnedMutexGuard<RingBuf<MapData>>);

/// What a capture is to end by, and what it calls things.
pub struct Order {
    /// So many frames.
    pub count: u64,
    /// At most so long.
    pub within: Option<Duration>,
    /// Backends by slot.
    pub backends: BTreeMap<u32, String>,
}

impl Ring {
    /// The ring of a loaded object.
    ///
    /// # Errors
    /// The committed object has none: our own mistake.
    pub(super) fn of(programs: &mut Programs) -> anyhow::Result<Self> {
        let ring = RingBuf::try_from(programs.take("CAPTURE")?).map_err(reason).context("map CAPTURE")?;
        Ok(Self(Arc::new(Mutex::new(ring))))
    }

    /// Takes it for a capture, without what an earlier one left; `None` while another runs.
    pub fn take(&self) -> Option<Taken> {
        let mut ring = self.0.clone().try_lock_owned().ok()?;
        while ring.next().is_some() {}
        Some(Taken(ring))
    }
}

impl Taken {
    /// Hands on frames until there are enough, the time is over, or the client has gone; then says the last word.
    ///
    /// A client that reads slowly makes the ring fill up, and the kernel leave frames out.
    pub async fn relay(mut self, order: &Order, answers: &mpsc::Sender<Answer>) {
        let until = Instant::now() + order.within.unwrap_or(FOREVER);
        let last = match tokio::time::timeout_at(until, self.frames(order, answers)).await {
            Ok(Err(error)) => Answer::Failed {
                kind: crate::control::protocol::FailureKind::Failed,
                message: format!("capture: {error:#}"),
            },
            Ok(Ok(())) | Err(_) => Answer::Done { lines: Vec::new() },
        };
        let _ = answers.send(last).await;
    }

    async fn frames(&mut self, order: &Order, answers: &mpsc::Sender<Answer>) -> anyhow::Result<()> {
        let descriptor = self.0.as_fd().try_clone_to_owned().context("descriptor of the ring")?;
        let ready = watched(descriptor).context("wait for the ring")?;
        let mut left = order.count;
        loop {
            // Told once for what is there: nothing may stay unread when we wait again.
            let mut told = tokio::select! {
                told = ready.readable() => told.context("wait for the ring")?,
                () = answers.closed() => return Ok(()),
            };
            told.clear_ready();
            while let Some(frame) = self.next(order) {
                if answers.send(Answer::Frame(frame)).await.is_err() {
                    return Ok(());
                }
                left -= 1;
                if left == 0 {
                    return Ok(());
                }
            }
        }
    }

    fn next(&mut self, order: &Order) -> Option<CapturedFrame> {
        loop {
            let item = self.0.next()?;
            // The programs write nothing else; a record of another size is from an object that is not ours.
            if let Ok(record) = bytemuck::try_pod_read_unaligned::<Captured>(&item) {
                let backend = |slot: u32| order.backends.get(&slot).cloned();
                return Some(captured::frame(&record, wall_offset_ns(), interface_name, backend));
            }
        }
    }
}

/// What `CLOCK_MONOTONIC` is short of the nanoseconds since 1970, now: the wall clock may be set at any time.
fn wall_offset_ns() -> u64 {
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let wall_ns = wall.tv_sec as u64 * 1_000_000_000 + wall.tv_nsec as u64;
    wall_ns.saturating_sub(Time::now().0)
}

fn interface_name(index: u32) -> String {
    let unknown = || format!("if{index}");
    let Ok(socket) = std::net::UdpSocket::bind(("127.0.0.1", 0)) else { return unknown() };
    rustix::net::netdevice::index_to_name(&socket, index).unwrap_or_else(|_| unknown())
}
