//! What the kernel tells the master, as something to wait for.
//!
//! Effectful: reads the ring of the kernel programs.

use aya::maps::{MapData, RingBuf};
use lb_common::exit::Notice;
use tokio::io::unix::AsyncFd;

/// The notices of the kernel programs.
pub struct NoticeStream {
    ring: Option<Ring>,
}

enum Ring {
    /// Not waited for yet: registering needs a runtime, which the loader does not.
    Idle(RingBuf<MapData>),
    Registered(AsyncFd<RingBuf<MapData>>),
}

impl NoticeStream {
    /// A stream that never has anything.
    pub fn silent() -> Self {
        Self { ring: None }
    }

    pub(super) fn of(ring: RingBuf<MapData>) -> Self {
        Self { ring: Some(Ring::Idle(ring)) }
    }

    /// Waits until there is something and returns all of it, oldest first. Cancel-safe: nothing is taken before the wait
    /// is over. Waits for ever when nothing is watched. To be called within a tokio runtime.
    pub async fn next(&mut self) -> Vec<Notice> {
        let Some(ring) = self.registered() else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = ring.readable_mut().await else { return std::future::pending().await };
            let notices = take_all(ready.get_inner_mut());
            if !notices.is_empty() {
                return notices;
            }
            ready.clear_ready();
        }
    }

    /// What is there now, without waiting.
    pub fn take(&mut self) -> Vec<Notice> {
        match &mut self.ring {
            None => Vec::new(),
            Some(Ring::Idle(ring)) => take_all(ring),
            Some(Ring::Registered(ring)) => take_all(ring.get_mut()),
        }
    }

    fn registered(&mut self) -> Option<&mut AsyncFd<RingBuf<MapData>>> {
        self.ring = match self.ring.take()? {
            // SAFETY: the descriptor belongs to the ring's map, which the ring owns and never closes or exchanges.
            Ring::Idle(ring) => match unsafe { AsyncFd::register(ring) } {
                Ok(ring) => Some(Ring::Registered(ring)),
                Err(error) => {
                    log::error!("kernel notices cannot be waited for: {error}");
                    None
                }
            },
            registered => Some(registered),
        };
        match &mut self.ring {
            Some(Ring::Registered(ring)) => Some(ring),
            _ => None,
        }
    }
}

/// Bounded by the ring's size: what comes in while we read is read the next time at the latest.
fn take_all(ring: &mut RingBuf<MapData>) -> Vec<Notice> {
    let mut notices = Vec::new();
    while let Some(item) = ring.next() {
        // The kernel program writes nothing else; a record of another size is from an object that is not ours.
        if let Ok(notice) = bytemuck::try_pod_read_unaligned(&item) {
            notices.push(notice);
        }
    }
    notices
}
