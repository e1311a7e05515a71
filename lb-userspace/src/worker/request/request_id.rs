//! Names for requests that arrive without an `X-Request-Id`, or with one that cannot be passed on: unique by a random part per thread and a count.

use std::cell::Cell;

use http::HeaderValue;

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Hexadecimal digits of the random part and of the count.
const RANDOM_DIGITS: usize = 12;
const COUNT_DIGITS: usize = 8;

/// Gives out names.
pub struct RequestIds {
    random: [u8; RANDOM_DIGITS],
    count: Cell<u32>,
}

impl RequestIds {
    /// Names that begin with 48 bits of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut random = [0; RANDOM_DIGITS];
        write_hexadecimal(seed, &mut random);
        Self { random, count: Cell::new(0) }
    }

    /// The next name: 20 hexadecimal digits.
    pub fn next(&self) -> HeaderValue {
        let mut name = [0; RANDOM_DIGITS + COUNT_DIGITS];
        name[..RANDOM_DIGITS].copy_from_slice(&self.random);
        write_hexadecimal(u64::from(self.count.get()), &mut name[RANDOM_DIGITS..]);
        self.count.set(self.count.get().wrapping_add(1));
        HeaderValue::from_bytes(&name).expect("hexadecimal digits are valid in a header value")
    }
}

fn write_hexadecimal(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_have_twenty_digits() {
        let ids = RequestIds::new(0xabc);
        assert_eq!(ids.next(), "000000000abc00000000");
        assert_eq!(ids.next(), "000000000abc00000001");
    }
}
