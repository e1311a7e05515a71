//! VIPs as the XDP program finds them: by exact address and port, else by prefix and range of ports.
//!
//! An address of either family is 16 bytes here; IPv4 is written IPv4-mapped (`::ffff:a.b.c.d`). Ports of packets are in
//! network order, as bytes; ports of ranges are numbers.

use bytemuck::{Pod, Zeroable};

use crate::limits::SPANS_PER_PREFIX_MAX;

/// How packets get to the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Forward {
    /// Up the stack of this host: the VIP's upstream is local.
    #[default]
    Local = 0,
    /// Addresses and ports are translated, and back.
    Nat = 1,
    /// Only the link-layer addresses are rewritten; the backend has the VIP and answers directly.
    L2Dsr = 2,
    /// In an IPv4 or IPv6 packet; the backend answers directly.
    IpIp = 3,
    /// In a UDP packet (GUE variant 1: the inner IP header follows the UDP header at once); the backend answers directly.
    Gue = 4,
}

impl Forward {
    /// The mode stored as `raw`; an unknown number is [`Forward::Local`], which forwards nothing.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::Nat,
            2 => Self::L2Dsr,
            3 => Self::IpIp,
            4 => Self::Gue,
            _ => Self::Local,
        }
    }

    /// As in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Nat => "nat",
            Self::L2Dsr => "l2dsr",
            Self::IpIp => "ipip",
            Self::Gue => "gue",
        }
    }
}

/// Key of the map `VIPS`: one address, one port (0: any), one protocol.
///
/// Beside these the map has for each address [`VipKey::of_address`], so that echo requests and fragments, which carry no ports, are known
/// to be for a VIP. It leads to one of the address's VIPs; to a [`Forward::Local`] one where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct VipKey {
    /// The VIP.
    pub address: [u8; 16],
    /// Network order; zero answers for every port of the protocol that has no VIP of its own.
    pub port: [u8; 2],
    /// IP protocol number: 6 or 17; 0 in [`VipKey::of_address`].
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
}

impl VipKey {
    /// The entry that says that there are VIPs with this address, whatever their port and protocol: protocol 0, port 0, any one
    /// of their rows. Every address of an exact VIP has one. ICMP and malformed packets are asked about by it.
    #[inline(always)]
    pub const fn of_address(address: [u8; 16]) -> Self {
        Self { address, port: [0; 2], protocol: 0, zero: 0 }
    }
}

/// Value of the map `VIPS`: the row in `VIP_ROWS`.
pub type VipIndex = u32;

/// Key of the trie `VIP_PREFIXES`, whose prefix length counts the bits of `address`.
pub type PrefixKey = [u8; 16];

/// Value of the trie `VIP_PREFIXES`: the ranges of ports of one prefix, those of shorter prefixes after its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Spans {
    /// The first that holds the packet's protocol and port is the VIP; unused ones are zero.
    pub spans: [Span; SPANS_PER_PREFIX_MAX],
}

/// A range of ports of one protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Span {
    /// First port.
    pub first: u16,
    /// Last port, included.
    pub last: u16,
    /// Row in `VIP_ROWS`.
    pub vip: u16,
    /// IP protocol number; 0 is no span.
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
}

/// A row of the array `VIP_ROWS`: what is configured for a VIP. One cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct VipRow {
    /// Index of the lookup table of its upstream.
    pub table: u32,
    /// [`VipRow::AFFINITY`] and its neighbours.
    pub flags: u32,
    /// [`Forward`].
    pub forward: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Bytes of the server id in QUIC connection ids (QUIC-LB, plain form), 1–8; 0: not QUIC.
    pub quic_id_bytes: u8,
    /// The three configuration bits of the first byte of those connection ids.
    pub quic_configuration: u8,
    /// A UDP flow without a packet for so long is forgotten.
    pub idle_ms: u32,
    /// New flows per second allowed from one source (IPv4 address, IPv6 /64); 0: no limit.
    pub source_rate: u32,
    /// New flows that one source may open at once.
    pub source_burst: u32,
    /// SYNs per second beyond which handshakes are done with cookies (NAT) or, in other modes, remember nothing; 0: never.
    pub syn_rate: u32,
    /// How long an address keeps its backend under [`VipRow::AFFINITY`] without a new flow.
    pub affinity_ms: u32,
    /// Changes whenever the row is used for another VIP.
    pub identity: u32,
    /// The largest IP packet that leaves by the VIP's interface.
    pub mtu: u32,
    /// Zero.
    pub zero: [u32; 6],
}

impl VipRow {
    /// The backend is chosen by the client's address alone and kept for `affinity_ms`.
    pub const AFFINITY: u32 = 1;
    /// NAT keeps the client's address: the backends' way back leads through us.
    pub const KEEP_CLIENT: u32 = 2;
    /// The row is in use.
    pub const PRESENT: u32 = 4;
    /// The address is one of this host's: what is for no VIP of it goes up the stack.
    pub const OWN: u32 = 8;
}

/// The one entry of the array `SETTINGS`: what the programs look up before anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Settings {
    /// [`Settings::NAT`] and its neighbours.
    pub flags: u32,
    /// Mixed into every hash; the same on all nodes that must decide alike.
    pub seed: u32,
    /// VIP row + 1 whose frames are captured; 0: none.
    pub captured_vip: u32,
    /// Every so many-th frame of it; a power of two minus one, as a mask.
    pub capture_mask: u32,
    /// How long the generation before is asked for flows that are not known.
    pub straddle_ms: u32,
    /// A translated TCP flow without a packet for so long is forgotten, by `Tables` that expire on their own.
    pub tcp_idle_ms: u32,
    /// Zero.
    pub zero: [u32; 10],
}

impl Settings {
    /// There are VIPs with [`Forward::Nat`].
    pub const NAT: u32 = 1;
    /// There are VIPs with [`Forward::L2Dsr`], [`Forward::IpIp`] or [`Forward::Gue`].
    pub const DIRECT: u32 = 2;
    /// `NETWORKS` has entries.
    pub const GUARD: u32 = 4;
    /// `VIP_PREFIXES` has entries.
    pub const PREFIXES: u32 = 8;
    /// Who is not in the allow list is denied.
    pub const ALLOW_ONLY: u32 = 16;
}

/// Value of the trie `NETWORKS`, keyed by source address as [`PrefixKey`]; the longest prefix decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Guard {
    /// Packets to VIPs are dropped.
    Deny = 1,
    /// Packets to VIPs pass, even where a shorter prefix denies.
    Allow = 2,
}

const _: () = assert!(core::mem::size_of::<VipKey>() == 20);
const _: () = assert!(core::mem::size_of::<Spans>() == 64);
const _: () = assert!(core::mem::size_of::<VipRow>() == 64);
const _: () = assert!(core::mem::size_of::<Settings>() == 64);
