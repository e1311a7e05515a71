//! Translated flows (the entries): how they are made, promoted and forgotten.
//!
//! A flow has two entries, each under the key that its packets carry. Who first inserts that of the replies has the port: insertion, not
//! the search before it, is the allocation. A TCP flow lies in `NAT_HALF_OPEN` until the client acknowledges what the backend answered, so that a flood of SYNs
//! takes the place of unfinished handshakes only.

use crate::checksum::{ONE_HOP, change, fold, words_8};
use crate::flow::{FlowKey, KeyWords, NatFlow, NatWords};
use crate::hash;
use crate::hop::HopRow;
use crate::limits::NAT_PORT_TRIES_MAX;
use crate::packet::{Frame, ethernet, tcp};
use crate::tables::Tables;
use crate::verdict::Reason;

/// Ranges of fewer ports are searched one after the other, so that a small one is searched whole.
const STRIDE_PORTS_MIN: u32 = 64 * NAT_PORT_TRIES_MAX;

/// A flow that is to be translated from now on.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// What the client's packets carry.
    pub key: &'a FlowKey,
    /// Row in `VIP_ROWS`.
    pub vip: u32,
    /// The client's address and port stay.
    pub keeps_client: bool,
    /// The backend's row.
    pub slot: u32,
    /// The backend's instance.
    pub instance: u64,
    /// The way to the backend.
    pub hop: &'a HopRow,
    /// Where the client's packets come from.
    pub client: Side,
    /// [`NatFlow`]'s flags that both entries begin with.
    pub flags: u16,
    /// What both entries begin with in [`NatFlow::sequence_delta`]: the client's, that of the replies.
    pub numbers: (u32, u32),
    /// Where the search for a port begins.
    pub hash: u32,
}

/// How packets go back to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The interface that its packets come from.
    pub interface: u32,
    /// As in [`NatWords::link`].
    pub link: u64,
    /// As in [`NatWords::link_rest`].
    pub link_rest: u32,
    /// As in [`NatWords::vlan`].
    pub vlan: u16,
}

impl Side {
    /// Where this frame came from.
    #[inline(always)]
    pub fn of<F: Frame>(frame: &F) -> Option<Self> {
        let first: u64 = frame.read(0)?;
        let second: u64 = frame.read(8)?;
        let (ours, peer) = (first & 0xffff_ffff_ffff, first >> 48 | (second & 0xffff_ffff) << 16);
        let kind = (second >> 32) as u16;
        let is_tagged = kind == ethernet::VLAN || kind == ethernet::SERVICE_VLAN;
        let vlan = if is_tagged { (second >> 48) as u16 & VLAN_MASK } else { 0 };
        Some(Self {
            interface: frame.ingress(),
            link: peer | ours << 48,
            link_rest: (ours >> 16) as u32,
            vlan,
        })
    }

    /// The one that a flow's packets came from so far.
    #[inline(always)]
    pub fn of_flow(flow: &NatFlow) -> Self {
        let words = flow.words();
        Self { interface: words.interface, link: words.link, link_rest: words.link_rest, vlan: words.vlan }
    }
}

/// The VLAN in a tag, whose other bits are priority.
const VLAN_MASK: u16 = 0x0fff_u16.to_be();

/// Where the entries of a flow lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// `NAT`.
    Known,
    /// `NAT_HALF_OPEN`. Nothing is inserted there that `NAT` has: another CPU may be moving it.
    HalfOpen,
}

impl Home {
    #[inline(always)]
    fn has<T: Tables>(self, tables: &T, key: &FlowKey) -> bool {
        match self {
            Self::Known => tables.nat(key).is_some(),
            Self::HalfOpen => tables.nat_half_open(key).is_some() || tables.nat(key).is_some(),
        }
    }

    #[inline(always)]
    fn find<'a, T: Tables>(self, tables: &'a T, key: &FlowKey) -> Option<&'a NatFlow> {
        match self {
            Self::Known => tables.nat(key),
            Self::HalfOpen => tables.nat_half_open(key),
        }
    }

    /// False when there is an entry, or no room.
    #[inline(always)]
    fn add<T: Tables>(self, tables: &T, key: &FlowKey, flow: &NatFlow) -> bool {
        if self == Self::Known {
            return tables.add_nat(key, flow);
        }
        if !tables.add_nat_half_open(key, flow) {
            return false;
        }
        // In this order: a flow that moves is in `NAT` before it leaves `NAT_HALF_OPEN`.
        if tables.nat(key).is_some() {
            tables.forget_nat_half_open(key);
            return false;
        }
        true
    }

    #[inline(always)]
    fn forget<T: Tables>(self, tables: &T, key: &FlowKey) {
        match self {
            Self::Known => tables.forget_nat(key),
            Self::HalfOpen => tables.forget_nat_half_open(key),
        }
    }
}

/// Makes both entries of a flow, in `home`. The client's is under `opening.key` afterwards; another CPU's, if that was faster.
///
/// # Errors
/// [`Reason::NatPortsExhausted`], [`Reason::NatTableFull`]; then nothing of it is left in the table.
#[inline(always)]
pub fn open<T: Tables>(tables: &T, home: Home, opening: &Opening<'_>) -> Result<(), Reason> {
    let key = opening.key.words();
    let hop = opening.hop;
    let (first, count) = match opening.keeps_client {
        true => (u16::from_be(key.source_port) as u32, 1),
        false => (hop.nat_port_first as u32, hop.nat_ports as u32),
    };
    if count == 0 {
        return Err(Reason::NatPortsExhausted);
    }
    let port = u16::from_ne_bytes(hop.port);
    let mut replies = KeyWords {
        source: hash::halves(&hop.address),
        target: if opening.keeps_client { key.source } else { hash::halves(&hop.nat_source) },
        source_port: if port == 0 { key.target_port } else { port },
        target_port: key.source_port,
        protocol: key.protocol,
    };
    if opening.keeps_client {
        // The client's own end is the only one there is. What an earlier flow of the same ends left there may go: it is not known
        // from the client's side any more.
        if let Some(left) = home.find(tables, replies.key())
            && left.words().source == key.target
            && left.words().source_port == key.target_port
        {
            home.forget(tables, replies.key());
        }
    }
    let outside = sum(key.source, key.target);
    let inside = sum(replies.source, replies.target);
    let outside_ports = outside + key.source_port as u32 + key.target_port as u32;
    let mut entry = NatWords {
        source: key.target,
        target: key.source,
        source_port: key.target_port,
        target_port: key.source_port,
        transport_delta: 0,
        network_delta: fold(change(inside, outside) as u32 + ONE_HOP as u32),
        instance: opening.instance,
        seen_at_ns: tables.now_ns(),
        slot: opening.slot,
        vip: opening.vip as u16,
        flags: opening.flags | NatFlow::TO_CLIENT,
        interface: opening.client.interface,
        sequence_delta: opening.numbers.1,
        link: opening.client.link,
        link_rest: opening.client.link_rest,
        vlan: opening.client.vlan,
        zero: 0,
    };
    replies.target_port = free_port(tables, home, &mut replies, first, count, opening.hash)?;
    let inside_ports = inside + replies.source_port as u32 + replies.target_port as u32;
    entry.transport_delta = change(inside_ports, outside_ports);
    if !home.add(tables, replies.key(), entry.flow()) {
        // Another CPU was faster, which is rare enough to let the client try again.
        let is_taken = home.has(tables, replies.key());
        return Err(if is_taken { Reason::NatPortsExhausted } else { Reason::NatTableFull });
    }
    entry.source = replies.target;
    entry.target = replies.source;
    entry.source_port = replies.target_port;
    entry.target_port = replies.source_port;
    entry.transport_delta = change(outside_ports, inside_ports);
    entry.network_delta = fold(change(outside, inside) as u32 + ONE_HOP as u32);
    entry.flags = opening.flags;
    entry.sequence_delta = opening.numbers.0;
    if home.add(tables, opening.key, entry.flow()) {
        return Ok(());
    }
    home.forget(tables, replies.key());
    if home.has(tables, opening.key) { Ok(()) } else { Err(Reason::NatTableFull) }
}

/// A port of ours to which no replies come from there, in network order; `replies` is changed.
#[inline(always)]
fn free_port<T: Tables>(
    tables: &T,
    home: Home,
    replies: &mut KeyWords,
    first: u32,
    count: u32,
    hash: u32,
) -> Result<u16, Reason> {
    // An odd stride of at most 63 meets as many different ports as are tried; beside the last one's neighbours it leaves no clusters.
    let stride = if count < STRIDE_PORTS_MIN { 1 } else { hash >> 26 | 1 };
    let mut offset = hash;
    for attempt in 0..NAT_PORT_TRIES_MAX {
        if attempt >= count {
            break;
        }
        offset %= count;
        replies.target_port = ((first + offset) as u16).to_be();
        if !home.has(tables, replies.key()) {
            return Ok(replies.target_port);
        }
        offset += stride;
    }
    Err(Reason::NatPortsExhausted)
}

/// The sum of two addresses.
#[inline(always)]
fn sum(source: [u64; 2], target: [u64; 2]) -> u32 {
    words_8(&bytemuck::must_cast(source)) + words_8(&bytemuck::must_cast(target))
}

/// The key of the packets that come back to what this entry makes of a packet: where the other entry of the flow is.
#[inline(always)]
pub fn other_key(flow: &NatFlow, protocol: u8) -> FlowKey {
    let words = flow.words();
    let ports = words.target_port as u32 | (words.source_port as u32) << 16;
    FlowKey::new(words.target, words.source, ports, protocol)
}

/// Whether an entry translates towards the ends that packets with `key` come from and go to.
#[inline(always)]
fn leads_back(entry: &NatFlow, key: &FlowKey) -> bool {
    let (entry, key) = (entry.words(), key.words());
    entry.target == key.source
        && entry.source == key.target
        && entry.target_port == key.source_port
        && entry.source_port == key.target_port
}

/// Moves a flow whose handshake is finished from `NAT_HALF_OPEN` to `NAT`; `flow` is the client's entry, `key` what its packets carry.
///
/// # Errors
/// [`Reason::UnknownFlow`] when the backend has not answered, or the entry of its answers was evicted; [`Reason::NatTableFull`]: the flow
/// stays half open, and the client's next packet tries again.
#[inline(always)]
pub fn promote<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow) -> Result<(), Reason> {
    let replies = other_key(flow, key.protocol);
    let Some(reply) = tables.nat_half_open(&replies) else { return Err(Reason::UnknownFlow) };
    if reply.flags & NatFlow::ANSWERED == 0 || !leads_back(reply, key) {
        return Err(Reason::UnknownFlow);
    }
    // What is there already was put there by another CPU, which moves the same flow: in `NAT` nothing else has this key while `NAT_HALF_OPEN` has it.
    let is_first = tables.add_nat(&replies, reply);
    if !is_first && tables.nat(&replies).is_none() {
        return Err(Reason::NatTableFull);
    }
    if !tables.add_nat(key, flow) && tables.nat(key).is_none() {
        if is_first {
            tables.forget_nat(&replies);
        }
        return Err(Reason::NatTableFull);
    }
    tables.forget_nat_half_open(key);
    tables.forget_nat_half_open(&replies);
    Ok(())
}

/// Forgets both entries of a flow; `flow` is the one under `key`. Those of another flow that has its port by now stay.
#[inline(always)]
pub fn forget<T: Tables>(tables: &T, home: Home, key: &FlowKey, flow: &NatFlow) {
    let other = other_key(flow, key.protocol);
    if home.find(tables, &other).is_some_and(|entry| leads_back(entry, key)) {
        home.forget(tables, &other);
    }
    home.forget(tables, key);
}

/// The client's packets come another way from now on: replies go back there.
#[inline(always)]
pub fn redirect<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow, side: Side) {
    let other = other_key(flow, key.protocol);
    replace(tables, key, flow, side);
    if let Some(reply) = tables.nat(&other) {
        replace(tables, &other, reply, side);
    }
}

/// The handshake by cookie is finished on both sides: sequence numbers move by `delta`. `flow` is the entry of the replies.
#[inline(always)]
pub fn shift<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow, delta: u32) {
    let other = other_key(flow, key.protocol);
    let mut entry = *flow.words();
    (entry.flags, entry.sequence_delta) = (NatFlow::TO_CLIENT | NatFlow::SHIFTED | NatFlow::ANSWERED, delta);
    entry.seen_at_ns = tables.now_ns();
    tables.replace_nat(key, entry.flow());
    if let Some(client) = tables.nat(&other) {
        entry = *client.words();
        (entry.flags, entry.sequence_delta) = (NatFlow::SHIFTED, delta);
        tables.replace_nat(&other, entry.flow());
    }
}

#[inline(always)]
fn replace<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow, side: Side) {
    let mut entry = *flow.words();
    (entry.interface, entry.link) = (side.interface, side.link);
    (entry.link_rest, entry.vlan) = (side.link_rest, side.vlan);
    tables.replace_nat(key, entry.flow());
}

/// Whether a bare SYN begins a new flow in place of this one.
#[inline(always)]
pub const fn is_over(flow: &NatFlow) -> bool {
    const FINISHED: u16 = NatFlow::CLIENT_FINISHED | NatFlow::BACKEND_FINISHED;
    flow.flags & NatFlow::RESET != 0 || flow.flags & FINISHED == FINISHED
}

/// Notes a packet of the flow with these TCP flags (0: not TCP): the time in the entry of its direction, what ends a flow in both.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow, tcp_flags: u8) {
    let is_to_client = flow.flags & NatFlow::TO_CLIENT != 0;
    let finished = if is_to_client { NatFlow::BACKEND_FINISHED } else { NatFlow::CLIENT_FINISHED };
    let mut flags = flow.flags;
    if is_to_client {
        flags |= NatFlow::ANSWERED;
    }
    if tcp_flags & tcp::FIN != 0 {
        flags |= finished;
    }
    if tcp_flags & tcp::RST != 0 {
        flags |= NatFlow::RESET;
    }
    let news = flags & !flow.flags & (finished | NatFlow::RESET);
    tables.touch_nat(key, flow, flags);
    if news == 0 {
        return;
    }
    let other = other_key(flow, key.protocol);
    if let Some(entry) = tables.nat(&other) {
        tables.touch_nat(&other, entry, entry.flags | news);
    }
}
