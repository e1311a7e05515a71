//! Waiting for a thing instead of for a time.

use std::time::{Duration, Instant};

/// Looks every few milliseconds until there is something.
///
/// # Panics
/// When `within` has passed.
pub fn until<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    match until_or(within, &mut look) {
        Some(found) => found,
        None => panic!("waited {within:?} in vain: {what}"),
    }
}

/// As [`until`], `None` when `within` has passed.
pub fn until_or<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
