//! Which backend gets a flow that is not known: the one that its connection id or its client's address names, else that of its row.

use super::quic;
use crate::flow::{FlowKey, Kept, SourceKey};
use crate::hash;
use crate::limits::{LOOKUP_TRIES_MAX, MARKS_MAX, TOUCH_NS};
use crate::lookup::{Head, LookupRow, NOBODY};
use crate::packet::Frame;
use crate::packet::parse::Packet;
use crate::tables::Tables;
use crate::vip::VipRow;

/// Where a flow is looked for.
pub struct Places {
    flow: u64,
    marks: Marks,
}

impl Places {
    /// The places of the flow. Made before the ways part, so that the verifier goes through it once.
    #[inline(always)]
    pub fn of<F: Frame, T: Tables>(frame: &F, tables: &T, key: &FlowKey) -> Self {
        let flow = hash::of_flow(key, tables.settings().seed);
        let whole = hash::of_whole(key, flow);
        let settle = |hash: u64| frame.settle(hash as usize, usize::MAX) as u64;
        Self { flow: settle(flow), marks: Marks { hash: settle(whole) } }
    }
}

/// The backend for a packet of no known flow.
#[inline(always)]
pub fn backend<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    vip: u32,
    row: &VipRow,
    places: &Places,
) -> Option<u32> {
    by_connection_id(frame, tables, packet, row).or_else(|| by_flow(frame, tables, packet, vip, row, places))
}

/// The backend that the packet's connection id names, if it may keep flows.
#[inline(always)]
pub fn by_connection_id<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    row: &VipRow,
) -> Option<u32> {
    quic::server(frame, tables, packet, row).filter(|slot| keeps(tables, *slot)).map(u32::from)
}

/// The backend for what has the ends of a flow, whatever it carries.
#[inline(always)]
pub fn by_flow<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    vip: u32,
    row: &VipRow,
    places: &Places,
) -> Option<u32> {
    let source = SourceKey { address: packet.key.source, vip };
    let mut place = places.flow;
    if has_affinity(frame, row) {
        if let Some(slot) = kept(frame, tables, packet, &source, row.affinity_ms) {
            return Some(slot);
        }
        place = hash::of_source(&packet.key, tables.settings().seed);
    }
    let slot = by_place(frame, tables, row.table, packet, place, &places.marks)?;
    // A SYN, whose sender may be made up, takes nobody's place: of who goes on the next packet comes here as well, or it is translated and noted
    // there. But it changes what there is, lest the next packet go by it.
    if has_affinity(frame, row) && (!packet.is_bare_syn() || tables.kept(&source).is_some()) {
        keep(tables, &source, slot);
    }
    Some(slot)
}

#[inline(always)]
fn has_affinity<F: Frame>(frame: &F, row: &VipRow) -> bool {
    frame.settle(row.flags as usize, VipRow::AFFINITY as usize) != 0
}

/// The backend that the client's address has, if it may get this packet.
#[inline(always)]
fn kept<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    source: &SourceKey,
    affinity_ms: u32,
) -> Option<u32> {
    let kept = tables.kept(source)?;
    let age_ns = tables.now_ns().saturating_sub(kept.seen_at_ns);
    let backend = tables.backend(kept.slot)?;
    let traffic = backend.traffic();
    let may = if frame.is_set(packet.opens) { traffic.takes_new() } else { traffic as u32 != 0 };
    if backend.instance != kept.instance || !may || age_ns / 1_000_000 > affinity_ms as u64 {
        return None;
    }
    if age_ns > TOUCH_NS {
        keep(tables, source, kept.slot);
    }
    Some(kept.slot)
}

/// The client's address keeps this backend from now on.
#[inline(always)]
pub fn keep<T: Tables>(tables: &T, source: &SourceKey, slot: u32) {
    let Some(backend) = tables.backend(slot) else { return };
    let kept = Kept { instance: backend.instance, seen_at_ns: tables.now_ns(), slot, zero: 0 };
    tables.set_kept(source, &kept);
}

/// The backend of the row at `place`: for a packet that opens a flow one that takes new flows, for a later one of TCP the one that got
/// the first.
///
/// Between the first packet of a connection and the second, which is remembered, the table may change. So a row also has the
/// backend of one generation before, which later packets are given to for some time after a change; and a first packet that
/// did not follow what its row will say by then leaves a mark (see [`Marks`]); any other takes the one away that an earlier
/// connection may have left. Nothing is kept for others, so a flood of SYNs
/// takes no room from anybody.
#[inline(always)]
fn by_place<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    table: u32,
    packet: &Packet,
    place: u64,
    marks: &Marks,
) -> Option<u32> {
    let head = tables.lookup_head(table)?;
    let row = tables.lookup_row(table, hash::row(place, head.rows))?;
    if !frame.is_set(packet.opens)
        && let Some(slot) = earlier(tables, marks, &head, row)
    {
        return Some(slot as u32);
    }
    let slot = taker(tables, table, place, &head, row)?;
    // What costs more, the time, is looked at last.
    let strays = slot != row.now || row.now != row.before && is_recent(tables, &head);
    if frame.is_set(packet.opens) {
        if strays {
            marks.set(tables, head.generation, slot);
        } else {
            marks.clear(tables);
        }
    }
    Some(slot as u32)
}

/// The backend that got the first packet, where the row's own cannot be the one or need not be.
#[inline(always)]
fn earlier<T: Tables>(tables: &T, marks: &Marks, head: &Head, row: LookupRow) -> Option<u16> {
    let is_recent = is_recent(tables, head);
    if !is_recent && takes_new(tables, row.now) {
        return Some(row.now);
    }
    if let Some(slot) = marks.get(tables, head.generation)
        && keeps(tables, slot)
    {
        return Some(slot);
    }
    if is_recent && keeps(tables, row.before) {
        return Some(row.before);
    }
    keeps(tables, row.now).then_some(row.now)
}

/// The backend of the row, or of rows that follow from it, that takes new flows.
#[inline(always)]
fn taker<T: Tables>(tables: &T, table: u32, place: u64, head: &Head, row: LookupRow) -> Option<u16> {
    let (mut place, mut slot) = (place, row.now);
    for _ in 0..LOOKUP_TRIES_MAX {
        if takes_new(tables, slot) {
            return Some(slot);
        }
        place = hash::next(place);
        slot = tables.lookup_row(table, hash::row(place, head.rows))?.now;
    }
    takes_new(tables, slot).then_some(slot)
}

#[inline(always)]
fn takes_new<T: Tables>(tables: &T, slot: u16) -> bool {
    slot != NOBODY && tables.backend(slot as u32).is_some_and(|backend| backend.traffic().takes_new())
}

/// Whether it may keep the flows that it has.
#[inline(always)]
fn keeps<T: Tables>(tables: &T, slot: u16) -> bool {
    slot != NOBODY && tables.backend(slot as u32).is_some_and(|backend| backend.traffic() as u32 != 0)
}

#[inline(always)]
fn is_recent<T: Tables>(tables: &T, head: &Head) -> bool {
    let straddle_ns = tables.settings().straddle_ms as u64 * 1_000_000;
    tables.now_ns().saturating_sub(head.since_ns) < straddle_ns
}

/// Where a flow's mark would be, in pairs of places, the younger mark first: 40 bits of the flow's hash, 8 of the generation, 16 of
/// slot. In a pair a handshake survives one other that comes upon it; alone, one of 65,536 for each SYN between its own and its ACK would not.
struct Marks {
    hash: u64,
}

impl Marks {
    const FINGERPRINT: u64 = !0 << 24;
    /// A mark is obeyed for so many generations after its own: longer than a handshake, at four changes a second.
    const GENERATIONS: u8 = 16;

    #[inline(always)]
    fn set<T: Tables>(&self, tables: &T, generation: u32, slot: u16) {
        let mark = self.hash & Self::FINGERPRINT | (generation as u64 & 0xff) << 16 | slot as u64;
        let older = tables.mark(self.younger());
        if older != 0 && !self.is_mine(older) {
            tables.set_mark(self.older(), older);
        }
        tables.set_mark(self.younger(), mark);
    }

    /// Removes the mark of an earlier connection with the same ends: their client uses its ports again.
    #[inline(always)]
    fn clear<T: Tables>(&self, tables: &T) {
        for place in [self.younger(), self.older()] {
            if self.is_mine(tables.mark(place)) {
                tables.set_mark(place, 0);
            }
        }
    }

    #[inline(always)]
    fn get<T: Tables>(&self, tables: &T, generation: u32) -> Option<u16> {
        let mut mark = tables.mark(self.younger());
        if !self.is_mine(mark) {
            mark = tables.mark(self.older());
        }
        let age = (generation as u8).wrapping_sub((mark >> 16) as u8);
        (self.is_mine(mark) && age < Self::GENERATIONS).then_some(mark as u16)
    }

    #[inline(always)]
    fn is_mine(&self, mark: u64) -> bool {
        (mark ^ self.hash) & Self::FINGERPRINT == 0
    }

    #[inline(always)]
    fn younger(&self) -> u32 {
        self.hash as u32 & (MARKS_MAX - 2)
    }

    #[inline(always)]
    fn older(&self) -> u32 {
        self.younger() | 1
    }
}

const _: () = assert!(MARKS_MAX.is_power_of_two());
