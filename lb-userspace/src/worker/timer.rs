//! One reusable timer whose deadline usually only moves forward: a request sets its time-outs without touching the
//! runtime's timer wheel, because the timer is armed again only when it fires too early.
//!
//! Effectful: waits.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that can be asked for again and again.
#[derive(Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready once `deadline` has passed; otherwise the task is woken then, or earlier.
    pub fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn fires_at_the_deadline_asked_last() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let (early, late) = (start + Duration::from_millis(5), start + Duration::from_millis(30));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(early, cx))).await.is_pending());
        poll_fn(|cx| timer.poll_until(late, cx)).await;
        assert!(Instant::now() >= late);
        let (far, near) =
            (Instant::now() + Duration::from_secs(60), Instant::now() + Duration::from_millis(5));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll_until(far, cx))).await.is_pending());
        poll_fn(|cx| timer.poll_until(near, cx)).await;
        assert!(Instant::now() < far);
    }
}
