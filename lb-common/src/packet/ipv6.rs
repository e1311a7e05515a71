//! IPv6 headers and what may stand between them and the transport's (RFC 8200).

use bytemuck::{Pod, Zeroable};

use super::parse::Part;

/// The fixed header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Version (4 bits), traffic class (8), flow label (20).
    pub version_class_label: u32,
    /// Bytes after this header.
    pub payload: u16,
    /// What follows.
    pub next: u8,
    /// Hop limit.
    pub hops: u8,
    /// Source address.
    pub source: [u64; 2],
    /// Destination address.
    pub target: [u64; 2],
}

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = 40;
/// Where the hop limit is.
pub const HOPS_AT: usize = 7;
/// Where the source address is; the destination follows.
pub const SOURCE_AT: usize = 8;

/// Hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Bytes of a fragment header.
pub const FRAGMENT_BYTES: usize = 8;
/// Authentication header.
pub const AUTHENTICATION: u8 = 51;
/// Destination options.
pub const DESTINATION: u8 = 60;

/// The header of a part of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentHeader {
    /// What follows.
    pub next: u8,
    /// Zero.
    pub zero: u8,
    /// The offset, and the flag that more parts follow.
    pub fragment: u16,
    /// Which datagram.
    pub identification: [u8; 4],
}

impl FragmentHeader {
    /// How much of a datagram it is.
    #[inline(always)]
    pub const fn part(&self) -> Part {
        Part::of(self.fragment, 0xfff8_u16.to_be(), 1_u16.to_be())
    }
}

impl Header {
    /// Bytes of this header and all that follows.
    #[inline(always)]
    pub const fn total_bytes(&self) -> usize {
        HEADER_BYTES + u16::from_be(self.payload) as usize
    }

    /// Version field.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (u32::from_be(self.version_class_label) >> 28) as u8
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        (u32::from_be(self.version_class_label) >> 20) as u8
    }
}

/// Whether `next` is an extension header that other headers follow, of the common form: next, length, content.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION)
}

/// Bytes of an extension header.
#[inline(always)]
pub const fn extension_bytes(kind: u8, length: u8) -> usize {
    if kind == AUTHENTICATION { (length as usize + 2) << 2 } else { (length as usize + 1) << 3 }
}

const _: () = assert!(core::mem::size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(core::mem::size_of::<FragmentHeader>() == FRAGMENT_BYTES);
