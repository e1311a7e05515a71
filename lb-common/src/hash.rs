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
