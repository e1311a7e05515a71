//! Bytes that are known at every offset, so that a transfer is compared byte by byte without being kept.

use std::sync::LazyLock;

/// A prime, so that no buffer or packet size divides it and a shifted stream never fits.
const PERIOD: usize = 1_000_003;
/// Bytes that [`at`] can give from any offset.
const REACH: usize = 256 * 1024;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(PERIOD).collect();
    bytes.extend_from_within(..REACH);
    bytes
});

/// At most `count` bytes of the pattern from `offset` on; at least one where `count` is not 0.
pub fn at(offset: u64, count: u64) -> &'static [u8] {
    let from = usize::try_from(offset % PERIOD as u64).expect("smaller than the period");
    let count = usize::try_from(count).unwrap_or(REACH).min(REACH);
    &BYTES[from..from + count]
}

/// Whether these bytes are the pattern's at `offset`.
pub fn is(offset: u64, bytes: &[u8]) -> bool {
    bytes.len() <= REACH && bytes == at(offset, bytes.len() as u64)
}

/// By how much these bytes, found at `offset`, come too late; negative: too early. `None` where they are nowhere in the pattern. Of a
/// shift by more than half the period another is told that looks the same.
pub fn delay(offset: u64, bytes: &[u8]) -> Option<i64> {
    let place = BYTES[..PERIOD + bytes.len()].windows(bytes.len()).position(|window| window == bytes)?;
    let late = (offset % PERIOD as u64) as i64 - place as i64;
    let half = PERIOD as i64 / 2;
    Some((late + half).rem_euclid(PERIOD as i64) - half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_pieces_are_known() {
        let far = 5 * PERIOD as u64;
        assert_eq!(delay(far + 77, at(77, 100)), Some(0));
        assert_eq!(delay(far + 77, at(77 - 53, 100)), Some(53));
        assert_eq!(delay(far + 10, at(far - 40, 100)), Some(50));
        assert_eq!(delay(far - 40, at(far + 10, 100)), Some(-50));
        assert_eq!(delay(77, &[0; 100]), None);
    }

    #[test]
    fn pattern_shows_what_is_shifted_or_changed() {
        let mut bytes = at(77, 5_000).to_vec();
        assert!(is(77, &bytes) && is(77 + PERIOD as u64, &bytes));
        assert!(!is(78, &bytes));
        bytes[4_999] ^= 1;
        assert!(!is(77, &bytes));
    }
}
