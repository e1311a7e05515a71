//! IPv4 headers (RFC 791).
//!
//! The fields of headers are words as they lie in the packet, in network order: of byte arrays the compiler makes a load for each
//! byte (LLVM 22, BPF).

use bytemuck::{Pod, Zeroable};

use super::parse::Part;
use crate::hash::halves;

/// A header without its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Version in the upper half; header length in words in the lower.
    pub version_words: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of header and content.
    pub total: u16,
    /// Identification.
    pub identification: u16,
    /// Flags in the upper three bits, then the fragment's offset in eights of bytes.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// What the content is.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: u16,
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub target: u32,
}

/// Bytes of a header without options.
pub const HEADER_BYTES: usize = 20;
/// Where the time to live is; the protocol follows, then the checksum.
pub const TTL_AT: usize = 8;
/// Where the checksum is.
pub const CHECKSUM_AT: usize = 10;
/// Where the source address is; the destination follows.
pub const SOURCE_AT: usize = 12;
/// The offset, in [`Header::fragment`].
pub const OFFSET_MASK: u16 = 0x1fff;
/// "More fragments follow", in [`Header::fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// "Do not fragment", in [`Header::fragment`].
pub const DO_NOT_FRAGMENT: u16 = 0x4000;

impl Header {
    /// Bytes of the header with its options, 0–60.
    #[inline(always)]
    pub const fn header_bytes(&self) -> usize {
        ((self.version_words & 15) as usize) << 2
    }

    /// Bytes of header and content.
    #[inline(always)]
    pub const fn total_bytes(&self) -> usize {
        u16::from_be(self.total) as usize
    }

    /// How much of a datagram it is.
    #[inline(always)]
    pub const fn part(&self) -> Part {
        Part::of(self.fragment, OFFSET_MASK.to_be(), MORE_FRAGMENTS.to_be())
    }
}

/// The address as all tables hold it: IPv4-mapped.
#[inline(always)]
pub fn mapped(address: u32) -> [u8; 16] {
    bytemuck::must_cast(mapped_halves(address))
}

/// The two halves of [`mapped`].
#[inline(always)]
pub const fn mapped_halves(address: u32) -> [u64; 2] {
    [0, MAPPED | (address as u64) << 32]
}

/// The IPv4 address in a mapped one.
#[inline(always)]
pub fn unmapped(address: &[u8; 16]) -> u32 {
    (halves(address)[1] >> 32) as u32
}

/// Whether the address is IPv4-mapped.
#[inline(always)]
pub fn is_mapped(address: &[u8; 16]) -> bool {
    are_mapped_halves(halves(address))
}

/// Whether the two halves are those of a mapped address.
#[inline(always)]
pub const fn are_mapped_halves([first, last]: [u64; 2]) -> bool {
    first | (last ^ MAPPED) << 32 == 0
}

/// What stands before the IPv4 address in the second half.
const MAPPED: u64 = u32::from_ne_bytes([0, 0, 0xff, 0xff]) as u64;

const _: () = assert!(core::mem::size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(cfg!(target_endian = "little"));
