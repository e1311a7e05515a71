//! Translated flows (the entries): how they are made, promoted and forgotten.
//!
//! A flow has two entries, each under the key that its packets carry. Who first inserts that of the replies has the port: insertion, not
//! the search before it, is the allocation. A TCP flow lies in `NAT_HALF_OPEN` until the client acknowledges what the backend answered, so that a flood of SYNs
//! takes the place of unfinished handshakes only.

use super::port::{Search, is_taken};
use crate::checksum::{ONE_HOP, change, fold, words_8};
use crate::flow::{FlagChange, FlowKey, NatFlow, NatWords};
use crate::hop::HopRow;
use crate::packet::{Frame, ethernet, tcp};
use crate::tables::Tables;
use crate::verdict::Reason;

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

impl Opening<'_> {
    /// For its port.
    #[inline(always)]
    pub fn search(&self) -> Search {
        Search::new(self.key, self.keeps_client, self.hop, self.hash)
    }
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
    /// As in [`NatWords::tag`].
    pub tag: u16,
    /// As in [`NatWords::inner_tag`]; never without an outer one.
    pub inner_tag: u16,
}

impl Side {
    /// Where this frame came from.
    #[inline(always)]
    pub fn of<F: Frame>(frame: &F) -> Option<Self> {
        let first: u64 = frame.read(0)?;
        let second: u64 = frame.read(8)?;
        let (ours, peer) = (first & 0xffff_ffff_ffff, first >> 48 | (second & 0xffff_ffff) << 16);
        let (tag, inner_tag) = tags(frame, (second >> 32) as u16, (second >> 48) as u16)?;
        Some(Self {
            interface: frame.ingress(),
            link: peer | ours << 48,
            link_rest: (ours >> 16) as u32,
            tag,
            inner_tag,
        })
    }

    /// The one that a flow's packets came from so far.
    #[inline(always)]
    pub fn of_flow(flow: &NatFlow) -> Self {
        let words = flow.words();
        Self {
            interface: words.interface,
            link: words.link,
            link_rest: words.link_rest,
            tag: words.tag,
            inner_tag: words.inner_tag,
        }
    }
}

/// The outer and the inner tag of a frame; `kind` and `control` are what lies where the outer one would be.
#[inline(always)]
fn tags<F: Frame>(frame: &F, kind: u16, control: u16) -> Option<(u16, u16)> {
    let (mut outer, mut inner) = (0, 0);
    if ethernet::is_tag(kind) {
        let behind: u32 = frame.read(ethernet::TYPE_AT + ethernet::TAG_BYTES)?;
        (outer, inner) = (ethernet::tag(kind, control), ethernet::tag(behind as u16, (behind >> 16) as u16));
        if outer == 0 {
            (outer, inner) = (inner, 0);
        }
    }
    // Here the ways of all kinds of tags join.
    let settle = |tag: u16| frame.settle(tag as usize, 0xffff) as u16;
    Some((settle(outer), settle(inner)))
}

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
    let mut search = opening.search();
    let replies = &search.replies;
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
        tag: opening.client.tag,
        inner_tag: opening.client.inner_tag,
    };
    let _found = search.free_port(tables)?;
    let replies = &search.replies;
    let inside_ports = inside + replies.source_port as u32 + replies.target_port as u32;
    entry.transport_delta = change(inside_ports, outside_ports);
    if !home.add(tables, replies.key(), entry.flow()) {
        // Another CPU was faster, which is rare enough to let the client try again.
        return Err(if is_taken(tables, replies.key()) {
            Reason::NatPortsExhausted
        } else {
            Reason::NatTableFull
        });
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
    if home.find(tables, opening.key).is_some() { Ok(()) } else { Err(Reason::NatTableFull) }
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

/// The entry of the replies of a half-open flow; `flow` is the client's, `key` what its packets carry. `None`: it was evicted.
#[inline(always)]
pub fn reply<'a, T: Tables>(tables: &'a T, key: &FlowKey, flow: &NatFlow) -> Option<&'a NatFlow> {
    tables.nat_half_open(&other_key(flow, key.protocol)).filter(|reply| leads_back(reply, key))
}

/// Notes in both entries of a half-open flow that its backend has answered; `flow` is the entry of the replies.
#[inline(always)]
pub fn note_answered<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow) {
    let answered = FlagChange::set(NatFlow::ANSWERED);
    tables.touch_nat(key, flow, answered);
    let other = other_key(flow, key.protocol);
    if let Some(client) = tables.nat_half_open(&other).filter(|client| leads_back(client, key)) {
        tables.touch_nat(&other, client, answered);
    }
}

/// Moves a flow that both sides agree on from `NAT_HALF_OPEN` to `NAT`; `flow` is the client's entry, `key` what its packets carry, `reply` the
/// entry of the replies.
///
/// # Errors
/// [`Reason::NatTableFull`]: the flow stays half open, and the client's next packet tries again.
#[inline(always)]
pub fn promote<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow, reply: &NatFlow) -> Result<(), Reason> {
    let replies = other_key(flow, key.protocol);
    let mut entry = *reply.words();
    entry.sequence_delta = 0;
    // What is there already was put there by another CPU, which moves the same flow, or by a flow that took the port.
    let is_first = tables.add_nat(&replies, entry.flow());
    if !is_first && !tables.nat(&replies).is_some_and(|entry| leads_back(entry, key)) {
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
    entry.link_rest = side.link_rest;
    (entry.tag, entry.inner_tag) = (side.tag, side.inner_tag);
    tables.replace_nat(key, entry.flow());
}

/// Whether a bare SYN begins a new flow in place of this one. Not where only the client's side says that it has ended, since that can be made up:
/// then the SYN goes to the same backend, which knows. With numbers that were moved it could not begin anew there.
#[inline(always)]
pub const fn is_over(flow: &NatFlow) -> bool {
    const MOVED_AND_RESET: u16 = NatFlow::SHIFTED | NatFlow::CLIENT_RESET;
    flow.flags & NatFlow::RESET != 0
        || flow.flags & NatFlow::FINISHED == NatFlow::FINISHED
        || flow.flags & MOVED_AND_RESET == MOVED_AND_RESET
}

/// Notes a packet of the flow with these TCP flags (0: not TCP): the time in the entry of its direction, what ends a flow in both.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, key: &FlowKey, flow: &NatFlow, tcp_flags: u8) {
    const ENDINGS: u16 = NatFlow::FINISHED | NatFlow::ANY_RESET;
    let change = change_by(flow.flags & NatFlow::TO_CLIENT != 0, tcp_flags);
    let is_news = (change.of(flow.flags) ^ flow.flags) & ENDINGS != 0;
    tables.touch_nat(key, flow, change);
    if !is_news {
        return;
    }
    let other = other_key(flow, key.protocol);
    if let Some(entry) = tables.nat(&other) {
        tables.touch_nat(&other, entry, FlagChange { set: change.set & ENDINGS, ..change });
    }
}

/// What a packet does to the flags of its flow.
#[inline(always)]
const fn change_by(is_to_client: bool, tcp_flags: u8) -> FlagChange {
    let (finished, reset) = if is_to_client {
        (NatFlow::BACKEND_FINISHED, NatFlow::RESET)
    } else {
        (NatFlow::CLIENT_FINISHED, NatFlow::CLIENT_RESET)
    };
    let mut change = FlagChange::set(if is_to_client { NatFlow::ANSWERED } else { 0 });
    if tcp_flags & tcp::FIN != 0 {
        change.set |= finished;
    }
    if tcp_flags & tcp::RST != 0 {
        change.set |= reset;
    } else {
        // Who goes on has not been reset, or will say so again.
        change.clear = NatFlow::ANY_RESET;
    }
    if is_to_client && tcp_flags & tcp::SYN != 0 {
        // The backend has taken a new connection of the same ends.
        change.clear = NatFlow::FINISHED | NatFlow::ANY_RESET;
    }
    change
}
