//! Lookup tables: for each upstream an array whose rows name a backend, now and one generation before.
//!
//! One inner map of `LOOKUP_TABLES`, filled by the master and swapped in whole: a packet sees one generation or the other.

use bytemuck::{Pod, Zeroable};

/// Rows that share an element of the map, which is one cache line.
pub const ROWS_PER_LINE: u32 = 16;
/// A row without a backend.
pub const NOBODY: u16 = u16::MAX;

/// A row: which backend gets a flow whose hash leads here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LookupRow {
    /// The slot now; [`NOBODY`].
    pub now: u16,
    /// The slot one generation before.
    pub before: u16,
}

/// Sixteen rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Line {
    /// Row `i` is `rows[i % 16]` of element `1 + i / 16`.
    pub rows: [LookupRow; ROWS_PER_LINE as usize],
}

/// Element 0, as long as a [`Line`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// Rows of the table.
    pub rows: u32,
    /// Grows with each change.
    pub generation: u32,
    /// When this generation was swapped in, nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// Zero.
    pub zero: [u64; 6],
}

const _: () = assert!(core::mem::size_of::<Line>() == 64);
const _: () = assert!(core::mem::size_of::<Head>() == 64);
