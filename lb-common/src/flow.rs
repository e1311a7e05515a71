//! Flows as the XDP program remembers them: known ones by backend, translated ones with what to write into each packet.

use bytemuck::{Pod, Zeroable};

/// A packet's addresses, ports and protocol, as the packet carries them: key of `FLOWS`, `NAT` and `NAT_HALF_OPEN`.
///
/// Aligned, because the verifier asks that of what lies on a program's stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Source address; IPv4 is IPv4-mapped.
    pub source: [u8; 16],
    /// Destination address.
    pub target: [u8; 16],
    /// Source port, network order.
    pub source_port: [u8; 2],
    /// Destination port, network order.
    pub target_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub zero: [u8; 3],
}

impl FlowKey {
    /// The key of addresses and ports as they lie in a packet; `ports` are the source's, then the destination's.
    #[inline(always)]
    pub fn new(source: [u64; 2], target: [u64; 2], ports: u32, protocol: u8) -> Self {
        bytemuck::must_cast([
            source[0],
            source[1],
            target[0],
            target[1],
            ports as u64 | (protocol as u64) << 32,
        ])
    }

    /// The key of words as [`Self::new`] makes them.
    #[inline(always)]
    pub fn of_words(words: [u64; 5]) -> Self {
        bytemuck::must_cast(words)
    }

    /// The key in words: of byte arrays the compiler makes loops (LLVM 22, BPF).
    #[inline(always)]
    pub fn words(&self) -> &KeyWords {
        bytemuck::must_cast_ref(self)
    }

    /// The key of the packets that answer.
    #[inline(always)]
    pub fn reversed(&self) -> Self {
        let words = self.words();
        let ports = words.target_port as u32 | (words.source_port as u32) << 16;
        Self::new(words.target, words.source, ports, self.protocol)
    }
}

/// A [`FlowKey`] in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct KeyWords {
    /// See [`FlowKey::source`], and so on.
    pub source: [u64; 2],
    /// Destination address.
    pub target: [u64; 2],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub target_port: u16,
    /// IP protocol number, then zeros.
    pub protocol: u32,
}

impl KeyWords {
    /// As the tables are asked.
    #[inline(always)]
    pub fn key(&self) -> &FlowKey {
        bytemuck::must_cast_ref(self)
    }
}

/// Value of `FLOWS`, for the modes in which backends answer directly: where the flow goes.
///
/// What is written into its packets is in the backend's [`crate::hop::HopRow`], so that a neighbour that changes is obeyed
/// by the next packet of every flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Flow {
    /// The backend's instance; the entry is dead when the row in `BACKENDS` has another.
    pub instance: u64,
    /// When the last packet came, coarse nanoseconds of `CLOCK_MONOTONIC`; written at most once in 100 ms.
    pub seen_at_ns: u64,
    /// Row in `BACKENDS` and `HOPS`.
    pub slot: u32,
    /// Row in `VIP_ROWS`.
    pub vip: u16,
    /// [`Flow::CLOSING`], and in the upper half what [`Flow::mark_of`] gives for the VIP.
    pub flags: u16,
}

impl Flow {
    /// A FIN or RST was seen: a SYN begins a new flow.
    pub const CLOSING: u16 = 1;

    /// What the flags of a flow have of its VIP's `identity`, so that it ends when its row is another VIP's.
    #[inline(always)]
    pub const fn mark_of(identity: u32) -> u16 {
        (identity as u16) << 8
    }

    /// Whether the flow is of the VIP with this `identity`, by eight bits of it.
    #[inline(always)]
    pub const fn is_of(&self, identity: u32) -> bool {
        self.flags & 0xff00 == Self::mark_of(identity)
    }
}

/// Value of `NAT` and `NAT_HALF_OPEN`: what to write into the packets of one direction.
///
/// Each flow has two entries: client → VIP, and backend → whom it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatFlow {
    /// New source address.
    pub source: [u8; 16],
    /// New destination address.
    pub target: [u8; 16],
    /// New source port, network order.
    pub source_port: [u8; 2],
    /// New destination port, network order.
    pub target_port: [u8; 2],
    /// What this rewriting adds to the TCP or UDP checksum (RFC 1624), ports and pseudo header; and to that of IPv4.
    pub transport_delta: u16,
    /// See `transport_delta`.
    pub network_delta: u16,
    /// The backend's instance.
    pub instance: u64,
    /// When the last packet of this direction came.
    pub seen_at_ns: u64,
    /// The backend's row.
    pub slot: u32,
    /// Row in `VIP_ROWS`.
    pub vip: u16,
    /// [`NatFlow::TO_CLIENT`] and its neighbours.
    pub flags: u16,
    /// The interface that the client's packets come from; in both entries, so that the client's packets can see that it changed.
    pub interface: u32,
    /// Added to sequence numbers of the backend, subtracted from what the client acknowledges (cookies); in both entries. While
    /// [`NatFlow::COOKIE_OPENING`]: the client's first sequence number in its entry, the cookie in that of the replies. In
    /// `NAT_HALF_OPEN`: the backend's first sequence number, in the entry of the replies.
    pub sequence_delta: u32,
    /// Link-layer address that the client's packets come from, then ours there, then the outer tag; in both entries.
    pub link: [u8; 14],
    /// The inner tag, of two; in both entries.
    pub inner_tag: [u8; 2],
}

/// A [`NatFlow`] in words, as it is made and copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatWords {
    /// See [`NatFlow::source`], and so on.
    pub source: [u64; 2],
    /// New destination address.
    pub target: [u64; 2],
    /// New source port.
    pub source_port: u16,
    /// New destination port.
    pub target_port: u16,
    /// What the rewriting adds to the TCP or UDP checksum.
    pub transport_delta: u16,
    /// What it adds to that of IPv4.
    pub network_delta: u16,
    /// The backend's instance.
    pub instance: u64,
    /// When the last packet came.
    pub seen_at_ns: u64,
    /// The backend's row.
    pub slot: u32,
    /// Row in `VIP_ROWS`.
    pub vip: u16,
    /// [`NatFlow::TO_CLIENT`] and its neighbours.
    pub flags: u16,
    /// The interface that the client's packets come from.
    pub interface: u32,
    /// See [`NatFlow::sequence_delta`].
    pub sequence_delta: u32,
    /// The first eight bytes of [`NatFlow::link`].
    pub link: u64,
    /// The next four.
    pub link_rest: u32,
    /// The outer tag, see [`ethernet::tag`](crate::packet::ethernet::tag).
    pub tag: u16,
    /// The inner tag, likewise.
    pub inner_tag: u16,
}

impl NatWords {
    /// As the tables hold it.
    #[inline(always)]
    pub fn flow(&self) -> &NatFlow {
        bytemuck::must_cast_ref(self)
    }
}

impl NatFlow {
    /// The entry in words.
    #[inline(always)]
    pub fn words(&self) -> &NatWords {
        bytemuck::must_cast_ref(self)
    }

    /// The entry is of the direction backend → client.
    pub const TO_CLIENT: u16 = 1;
    /// The client's side has sent FIN.
    pub const CLIENT_FINISHED: u16 = 2;
    /// The backend's side has sent FIN.
    pub const BACKEND_FINISHED: u16 = 4;
    /// The backend has sent RST, and nobody anything since.
    pub const RESET: u16 = 8;
    /// A packet came from the backend.
    pub const ANSWERED: u16 = 16;
    /// The handshake with the client was done by cookie; that with the backend is not finished.
    pub const COOKIE_OPENING: u16 = 32;
    /// The handshake with the client was done by cookie: sequence numbers move by `sequence_delta`.
    pub const SHIFTED: u16 = 64;
    /// RST was seen from the client's side, and nothing since. Anybody could have made it up: it ends nothing at once.
    pub const CLIENT_RESET: u16 = 128;
    /// A RST was seen, and nothing since.
    pub const ANY_RESET: u16 = Self::RESET | Self::CLIENT_RESET;
    /// Both sides have sent FIN.
    pub const FINISHED: u16 = Self::CLIENT_FINISHED | Self::BACKEND_FINISHED;
    /// Where the two bits begin that keep what the cookie said of the size of segments.
    pub const CLASS_SHIFT: u32 = 8;
}

/// What is to be done to flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlagChange {
    /// To be there afterwards.
    pub set: u16,
    /// Not to be there, unless in `set`.
    pub clear: u16,
}

impl FlagChange {
    /// None.
    pub const NONE: Self = Self { set: 0, clear: 0 };

    /// These are to be there, too.
    #[inline(always)]
    pub const fn set(set: u16) -> Self {
        Self { set, clear: 0 }
    }

    /// The flags afterwards.
    #[inline(always)]
    pub const fn of(self, flags: u16) -> u16 {
        flags & !self.clear | self.set
    }
}

/// Row of the array `SYN_WINDOWS`: the SYNs to one VIP in a second and the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SynWindow {
    /// The second, counted since the machine started.
    pub second: u32,
    /// SYNs in it.
    pub now: u32,
    /// SYNs in the second before.
    pub before: u32,
    /// Zero.
    pub zero: u32,
}

/// Key of `FRAGMENTS`: a datagram whose later fragments carry no ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FragmentKey {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub target: [u8; 16],
    /// Identification; of IPv4 the last two bytes.
    pub identification: [u8; 4],
    /// IP protocol number of the datagram.
    pub protocol: u8,
    /// Zero.
    pub zero: [u8; 3],
}

/// Value of `FRAGMENTS`: the ports that the first fragment had, source then target, and when it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentPorts {
    /// Source port, then target port, network order.
    pub ports: [u8; 4],
    /// Zero.
    pub zero: [u8; 4],
    /// Coarse nanoseconds of `CLOCK_MONOTONIC`.
    pub seen_at_ns: u64,
}

/// Key of `SOURCES`: a source whose new flows are counted; IPv6 with the last 8 bytes zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct SourceKey {
    /// The address.
    pub address: [u8; 16],
    /// Row in `VIP_ROWS`.
    pub vip: u32,
}

/// Value of `SOURCES`, and the one entry of the per-CPU array `ANSWERS`: a token bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Source {
    /// When the bucket was filled up to `tokens_milli`.
    pub filled_at_ns: u64,
    /// Thousandths of what may be done now.
    pub tokens_milli: u64,
}

/// Value of `AFFINITY`, keyed by [`SourceKey`] with the whole address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Kept {
    /// The backend's instance.
    pub instance: u64,
    /// When the source last opened a flow.
    pub seen_at_ns: u64,
    /// The backend's row.
    pub slot: u32,
    /// Zero.
    pub zero: u32,
}

/// Key of `QUIC_SERVERS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct QuicServerKey {
    /// The server id, zero-padded at the end.
    pub id: [u8; 8],
    /// Index of the lookup table of the upstream.
    pub table: u32,
    /// Zero.
    pub zero: u32,
}

/// What one stage leaves for the next, beside the frame: value of the one entry of the per-CPU array `HAND_OVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct HandOver {
    /// Row in `VIP_ROWS`.
    pub vip: u32,
    /// The backend that was chosen; [`HandOver::NO_SLOT`].
    pub slot: u32,
    /// Largest IP packet that would have had room: to `Stage::Answer`, 0 where the time to live has ended. To `Stage::CookieOpen`: what the
    /// cookie has kept.
    pub mtu: u32,
    /// To `Stage::CookieOpen`: what is to be added to the client's first sequence number.
    pub probe: u32,
    /// Not zero where a port was taken back for the flow: there is no second try.
    pub reclaimed: u32,
}

impl HandOver {
    /// No backend was chosen.
    pub const NO_SLOT: u32 = u32::MAX;
    /// Which VIP it is for has not been asked.
    pub const NO_VIP: u32 = u32::MAX;
}

const _: () = assert!(core::mem::size_of::<FlowKey>() == 40);
const _: () = assert!(core::mem::size_of::<Flow>() == 24);
const _: () = assert!(core::mem::size_of::<NatFlow>() == 88);
const _: () = assert!(core::mem::size_of::<SynWindow>() == 16);
const _: () = assert!(core::mem::size_of::<FragmentKey>() == 40);
const _: () = assert!(core::mem::size_of::<SourceKey>() == 20);
const _: () = assert!(core::mem::size_of::<QuicServerKey>() == 16);
const _: () = assert!(cfg!(target_endian = "little"));
