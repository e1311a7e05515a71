//! How to reach a backend: everything that is written in front of its packets, ready-made by the master.

use bytemuck::{Pod, Zeroable};

/// A row of the array `HOPS`, at the backend's slot: two cache lines. The master rewrites it when a route or neighbour changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct HopRow {
    /// The interface that leads to it; 0: nobody knows the way, drop.
    pub interface: u32,
    /// Largest IP packet on that way, outer headers included.
    pub mtu: u16,
    /// The backend's port, network order; zero keeps that of the packet.
    pub port: [u8; 2],
    /// Link-layer header: destination, source, then the type or one VLAN tag and the type; written up to `link_bytes`.
    pub link: [u8; 18],
    /// 14, or 18 with a VLAN tag.
    pub link_bytes: u8,
    /// 20: outer IPv4 header; 40: outer IPv6 header; 0: the mode has none.
    pub outer_bytes: u8,
    /// First port of our own that NAT may use towards this backend; see `nat_ports`.
    pub nat_port_first: u16,
    /// How many of them, from the first on.
    pub nat_ports: u16,
    /// The outer header with length, checksum and flow entropy still to be filled in; for GUE the UDP header is made from constants.
    pub outer: [u8; 40],
    /// Sum of the 16-bit words of an outer IPv4 header as it stands, read as the machine reads words, folded, not complemented.
    pub outer_sum: u16,
    /// GUE: destination port, network order.
    pub gue_port: [u8; 2],
    /// Zero.
    pub zero: [u8; 4],
    /// The backend's address: new destination in NAT.
    pub address: [u8; 16],
    /// Our address towards it: new source in NAT where the client's is not kept.
    pub nat_source: [u8; 16],
    /// Zero.
    pub reserved: [u8; 16],
}

impl Default for HopRow {
    fn default() -> Self {
        Self::zeroed()
    }
}

impl HopRow {
    /// The row in words, as it is copied into packets: of byte arrays the compiler makes loops (LLVM 22, BPF).
    #[inline(always)]
    pub fn words(&self) -> &HopWords {
        bytemuck::must_cast_ref(self)
    }
}

/// A [`HopRow`] in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HopWords {
    before: u64,
    /// `link`: the first 16 bytes.
    pub link: [u64; 2],
    /// `link`: the last two bytes.
    pub link_end: u16,
    between: [u16; 3],
    /// `outer`.
    pub outer: [u64; 5],
    after: [u64; 7],
}

const _: () = assert!(core::mem::size_of::<HopRow>() == 128);
const _: () = assert!(core::mem::offset_of!(HopRow, link) == core::mem::offset_of!(HopWords, link));
const _: () = assert!(core::mem::offset_of!(HopRow, outer) == core::mem::offset_of!(HopWords, outer));
