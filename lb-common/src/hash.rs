//! The hash that places flows: the same on every node, in the kernel and on the host.
//!
//! Multiply and shift (the finalizer of MurmurHash3) over 8 bytes at a time: BPF has no wide product. An attacker who knows
//! the seed can choose his row; what he gains is one backend, which he could have had by trying.

use crate::flow::FlowKey;

/// The two halves of an address as numbers.
#[inline(always)]
pub fn halves(address: &[u8; 16]) -> [u64; 2] {
    bytemuck::must_cast(*address)
}

/// Where the flow's row is looked for: by the source's address and port and the protocol.
#[inline(always)]
pub fn of_flow(key: &FlowKey, seed: u32) -> u64 {
    of(&key.source, u16::from_le_bytes(key.source_port), key.protocol, seed)
}

/// As [`of_flow`], by the source's address alone.
#[inline(always)]
pub fn of_source(key: &FlowKey, seed: u32) -> u64 {
    of(&key.source, 0, key.protocol, seed)
}

/// What tells a flow from all others: its whole key. `place` is its hash by source.
#[inline(always)]
pub fn of_whole(key: &FlowKey, place: u64) -> u64 {
    let [first, last] = halves(&key.target);
    let ports: [u8; 4] = bytemuck::must_cast([key.source_port, key.target_port]);
    mix(place ^ first ^ last.rotate_left(17) ^ (u32::from_le_bytes(ports) as u64) << 16)
}

/// Another row for the same flow, where the one before has no backend.
#[inline(always)]
pub const fn next(hash: u64) -> u64 {
    mix(hash ^ 0x9e37_79b9_7f4a_7c15)
}

/// The row among `rows`: the upper half of the hash times `rows`, without division.
#[inline(always)]
pub const fn row(hash: u64, rows: u32) -> u32 {
    (((hash >> 32) * rows as u64) >> 32) as u32
}

#[inline(always)]
fn of(address: &[u8; 16], port: u16, protocol: u8, seed: u32) -> u64 {
    let [first, last] = halves(address);
    let rest = (seed as u64) << 32 | (protocol as u64) << 16 | port as u64;
    mix(mix(mix(rest) ^ first) ^ last)
}

/// A permutation of 64 bits in which each bit depends on all (Appleby, MurmurHash3, `fmix64`).
#[inline(always)]
const fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

const _: () = assert!(cfg!(target_endian = "little"));

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    fn key(source: u64, port: u16) -> FlowKey {
        FlowKey::new([0, source], [1, 2], u32::from(port) | 443 << 16, 6)
    }

    /// Nodes of different versions must place flows alike: these values, computed apart from this code, never change.
    #[test]
    fn hash_is_the_same_for_ever() {
        assert_eq!(of_flow(&key(1, 2), 3), GOLDEN[0]);
        assert_eq!(of_source(&key(1, 2), 3), GOLDEN[1]);
        assert_eq!(of_whole(&key(1, 2), GOLDEN[0]), GOLDEN[2]);
        assert_eq!(next(GOLDEN[0]), GOLDEN[3]);
    }

    const GOLDEN: [u64; 4] =
        [0x580b_2a4a_a135_77c9, 0xcb31_1188_e329_97ec, 0xae6b_144b_16e5_4004, 0xfd03_b237_5976_a959];

    #[test]
    fn every_part_of_the_key_counts() {
        let base = key(1, 2);
        let hash = |key: &FlowKey| of_flow(key, 0);
        assert_ne!(hash(&base), hash(&key(2, 2)));
        assert_ne!(hash(&base), hash(&key(1, 3)));
        assert_ne!(hash(&base), hash(&FlowKey { protocol: 17, ..base }));
        assert_ne!(of_flow(&base, 0), of_flow(&base, 1));
        assert_eq!(hash(&base), hash(&FlowKey { target: [9; 16], target_port: [9; 2], ..base }));
        assert_eq!(of_source(&base, 0), of_source(&key(1, 3), 0));
        let whole = |key: &FlowKey| of_whole(key, 77);
        assert_ne!(whole(&base), whole(&FlowKey { target: [9; 16], ..base }));
        assert_ne!(whole(&base), whole(&FlowKey { target_port: [9; 2], ..base }));
        assert_ne!(whole(&base), whole(&FlowKey { source_port: [9; 2], ..base }));
    }

    #[test]
    fn neighbouring_addresses_and_ports_fill_rows_evenly() {
        let mut rows = vec![0_u32; 1021];
        for source in 0..500 {
            for port in 0..200 {
                rows[row(of_flow(&key(source, port), 7), 1021) as usize] += 1;
            }
        }
        // 100,000 in 1,021 rows: 98 each, with a standard deviation of ten.
        let (least, most) = (rows.iter().min(), rows.iter().max());
        assert!(least > Some(&50) && most < Some(&150), "{least:?} to {most:?}");
    }
}
