//! UDP headers (RFC 768).

use bytemuck::{Pod, Zeroable};

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Source port, then destination port in memory.
    pub ports: u32,
    /// Bytes of header and content.
    pub length: u16,
    /// Checksum; over IPv4 zero where there is none.
    pub checksum: u16,
}

/// IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Bytes of a header.
pub const HEADER_BYTES: usize = 8;
/// Where the checksum is.
pub const CHECKSUM_AT: usize = 6;

impl Header {
    /// Bytes of header and content.
    #[inline(always)]
    pub const fn total_bytes(&self) -> usize {
        u16::from_be(self.length) as usize
    }
}

const _: () = assert!(core::mem::size_of::<Header>() == HEADER_BYTES);
