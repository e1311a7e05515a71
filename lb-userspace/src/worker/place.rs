//! Places of which there are so many for all threads: who has one gives it back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One of a bounded number.
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place, unless `max` are taken already.
    pub fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        // Counted before it is compared; where it is one too many the drop takes it back.
        let place = Self(taken.clone());
        (taken.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
