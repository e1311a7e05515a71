//! For how many client connections a worker has room, and who makes room when it gets scarce. Pure.

use tokio::time::Instant;

use crate::limits::{CONNECTIONS_MAX, DESCRIPTORS_RESERVED};

/// Connections that a worker takes even where it has hardly any descriptors.
const CONNECTIONS_MIN: u64 = 16;
/// One of so many open connections is closed at a time.
const SHARE_CLOSED: usize = 16;

/// The bound of client connections in a worker with so many descriptors. Each connection may need another to a backend; `listening` sockets and
/// `pooled` idle connections to backends are open besides.
pub fn connections_max(descriptors: u64, listening: usize, pooled: usize) -> usize {
    // Where pools could take all, they do not: who is idle there was busy before.
    let pooled = (pooled as u64).min(descriptors / 4);
    let free = descriptors.saturating_sub(DESCRIPTORS_RESERVED + listening as u64 + pooled);
    (free / 2).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX as u64) as usize
}

/// Whether idle connections should be closed: nine tenths of the bound are taken.
pub fn is_scarce(open: usize, max: usize) -> bool {
    open >= max - max / 10
}

/// Those of `idle` that have been so for longest: as many as are to be closed of `open` connections in all.
pub fn longest_idle<T>(mut idle: Vec<(Instant, T)>, open: usize) -> Vec<T> {
    let count = (open / SHARE_CLOSED + 1).min(idle.len());
    if count > 0 {
        idle.select_nth_unstable_by_key(count - 1, |(since, _)| *since);
    }
    idle.truncate(count);
    idle.into_iter().map(|(_, client)| client).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn connections_leave_descriptors_for_backends_and_the_rest() {
        assert_eq!(connections_max(1_048_576, 2, 32), CONNECTIONS_MAX);
        assert_eq!(connections_max(1024, 2, 32), (1024 - 256 - 34) / 2);
        assert_eq!(connections_max(4096, 2, 1_000_000), (4096 - 256 - 2 - 1024) / 2);
        assert_eq!(connections_max(100, 2, 32), 16);
    }

    #[test]
    fn room_is_scarce_before_it_is_gone() {
        assert!(!is_scarce(89, 100) && is_scarce(90, 100));
        assert!(!is_scarce(8, 9) && is_scarce(9, 9));
    }

    #[tokio::test]
    async fn longest_idle_make_room() {
        let now = Instant::now();
        let idle: Vec<(Instant, u64)> =
            [5, 1, 4, 2, 3].into_iter().map(|age| (now + Duration::from_secs(age), age)).collect();
        assert_eq!(longest_idle(idle.clone(), 5), [1]);
        let mut two = longest_idle(idle.clone(), 16);
        two.sort_unstable();
        assert_eq!(two, [1, 2]);
        assert_eq!(longest_idle(idle, 1000).len(), 5);
        assert!(longest_idle(Vec::<(Instant, u64)>::new(), 1000).is_empty());
    }
}
