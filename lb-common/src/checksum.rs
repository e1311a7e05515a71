//! The Internet checksum, and how it changes when words change (RFC 1071, RFC 1624).
//!
//! A sum is of 16-bit words as the machine reads them: one's complement addition does not care about the byte order (RFC 1071, section 2), so
//! nothing is swapped on the way in or out.

/// Folds a sum of at most 65,536 words into one.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The checksum field for the sum of all that it covers, the field itself left out.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The sum of two bytes of a packet.
#[inline(always)]
pub const fn word(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes) as u32
}

/// The sum of four bytes.
#[inline(always)]
pub const fn words_2(bytes: [u8; 4]) -> u32 {
    let both = u32::from_ne_bytes(bytes);
    (both & 0xffff) + (both >> 16)
}

/// The sum of an address. An IPv4-mapped one is 0xffff more than the IPv4 address, which is the same in one's complement.
#[inline(always)]
pub fn words_8(bytes: &[u8; 16]) -> u32 {
    let [low, high]: [u64; 2] = bytemuck::must_cast(*bytes);
    let low = (low & 0xffff) + ((low >> 16) & 0xffff) + ((low >> 32) & 0xffff) + (low >> 48);
    let high = (high & 0xffff) + ((high >> 16) & 0xffff) + ((high >> 32) & 0xffff) + (high >> 48);
    (low + high) as u32
}

/// What replacing words of the sum `old` by words of the sum `new` adds to the sum of the packet: `~m + m'` of RFC 1624.
/// Never zero unless all the new words are, so that a checksum which was computed stays one that a computation could give.
#[inline(always)]
pub const fn change(old: u32, new: u32) -> u16 {
    fold((!fold(old)) as u32 + new)
}

/// The checksum after a [`change`]: `~(~checksum + change)` (RFC 1624, equation 3).
#[inline(always)]
pub const fn changed(checksum: u16, change: u16) -> u16 {
    !fold((!checksum) as u32 + change as u32)
}

/// [`changed`] for UDP over IPv4, where zero says that there is no checksum (RFC 768) and stays; one that comes out as zero is sent as ones.
#[inline(always)]
pub const fn changed_udp(checksum: u16, change: u16) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match changed(checksum, change) {
        0 => 0xffff,
        other => other,
    }
}

/// The [`change`] of an IPv4 header whose time to live goes down by one.
pub const ONE_HOP: u16 = u16::from_be(0xfeff);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 as it is written: over big-endian words, odd bytes padded.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1624_gives_zero() {
        // Section 4: ~m + m' for m = 0x5555, m' = 0x3285 on the checksum 0xdd2f.
        assert_eq!(changed(0xdd2f, change(0x5555, 0x3285)), 0);
    }

    proptest! {
        #[test]
        fn change_of_an_address_is_that_of_the_whole(mut bytes: [u8; 40], new: [u8; 16]) {
            // A packet has words that are not zero; the sum of nothing has two forms.
            bytes[0] |= 1;
            let before = u16::from_ne_bytes(naive(&bytes).to_be_bytes());
            let old: [u8; 16] = bytes[8..24].try_into().unwrap();
            bytes[8..24].copy_from_slice(&new);
            let after = changed(before, change(words_8(&old), words_8(&new)));
            prop_assert_eq!(after.to_ne_bytes(), naive(&bytes).to_be_bytes());
        }

        #[test]
        fn one_hop_is_the_change_of_a_time_to_live(ttl in 1_u8.., protocol: u8) {
            prop_assert_eq!(change(word([ttl, protocol]), word([ttl - 1, protocol])), ONE_HOP);
        }

        #[test]
        fn mapped_address_changes_as_the_address(old: [u8; 4], new: [u8; 4], checksum in 1_u16..0xffff) {
            let mapped = |address: [u8; 4]| {
                let mut all = [0; 16];
                all[10..12].fill(0xff);
                all[12..].copy_from_slice(&address);
                words_8(&all)
            };
            prop_assert_eq!(
                changed(checksum, change(words_2(old), words_2(new))),
                changed(checksum, change(mapped(old), mapped(new)))
            );
        }
    }

    #[test]
    fn udp_without_checksum_keeps_none_and_zero_is_sent_as_ones() {
        assert_eq!(changed_udp(0, 77), 0);
        assert_eq!(changed_udp(0xdd2f, change(0x5555, 0x3285)), 0xffff);
    }
}
