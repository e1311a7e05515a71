//! Which backend gets a flow that is not known.

use crate::flow::FlowKey;
use crate::hash;
use crate::limits::{LOOKUP_TRIES_MAX, MARKS_MAX};
use crate::lookup::{Head, LookupRow, NOBODY};
use crate::tables::Tables;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The first packet of a flow: only a backend that takes new ones.
    First,
    /// A later packet of a TCP connection whose first one we have not kept: the backend that got that one.
    Later,
}

/// The backend for a flow. `place` says where in the table it is looked for.
///
/// Between the first packet of a connection and the second, which is remembered, the table may change. So a row also has the
/// backend of one generation before, which later packets are given to for some time after a change; and a first packet that
/// did not follow what its row will say by then leaves a mark (see [`Marks`]). Nothing is kept for others, so a flood of SYNs
/// takes no room from anybody.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, table: u32, key: &FlowKey, place: u64, asks: Asks) -> Option<u32> {
    let head = tables.lookup_head(table)?;
    let row = tables.lookup_row(table, hash::row(place, head.rows))?;
    match asks {
        Asks::First => first(tables, table, key, place, &head, row),
        Asks::Later => later(tables, table, key, place, &head, row),
    }
}

#[inline(always)]
fn first<T: Tables>(
    tables: &T,
    table: u32,
    key: &FlowKey,
    place: u64,
    head: &Head,
    row: LookupRow,
) -> Option<u32> {
    let slot = taker(tables, table, place, head, row)?;
    // Looked at before the time, which costs more.
    let straddles = row.now != row.before && is_recent(tables, head);
    if straddles || slot != row.now as u32 {
        Marks::of(tables, key).set(tables, head.generation, slot);
    }
    Some(slot)
}

#[inline(always)]
fn later<T: Tables>(
    tables: &T,
    table: u32,
    key: &FlowKey,
    place: u64,
    head: &Head,
    row: LookupRow,
) -> Option<u32> {
    let recent = is_recent(tables, head);
    if recent || !takes_new(tables, row.now) {
        if let Some(slot) = Marks::of(tables, key).get(tables, head.generation)
            && keeps(tables, slot)
        {
            return Some(slot as u32);
        }
        if recent && keeps(tables, row.before) {
            return Some(row.before as u32);
        }
        if keeps(tables, row.now) {
            return Some(row.now as u32);
        }
    }
    taker(tables, table, place, head, row)
}

/// The backend of the row, or of rows that follow from it, that takes new flows.
#[inline(always)]
fn taker<T: Tables>(tables: &T, table: u32, place: u64, head: &Head, row: LookupRow) -> Option<u32> {
    let (mut place, mut slot) = (place, row.now);
    for _ in 0..LOOKUP_TRIES_MAX {
        if takes_new(tables, slot) {
            return Some(slot as u32);
        }
        place = hash::next(place);
        slot = tables.lookup_row(table, hash::row(place, head.rows))?.now;
    }
    takes_new(tables, slot).then_some(slot as u32)
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

/// Where a flow's mark would be, in an array without chains: 40 bits of the flow's hash, 8 of the generation, 16 of slot.
struct Marks {
    index: u32,
    fingerprint: u64,
}

impl Marks {
    const FINGERPRINT: u64 = !0 << 24;
    /// A mark is obeyed for so many generations after its own.
    const GENERATIONS: u8 = 8;

    #[inline(always)]
    fn of<T: Tables>(tables: &T, key: &FlowKey) -> Self {
        let hash = hash::of_whole(key, tables.settings().seed);
        Self { index: hash as u32 & (MARKS_MAX - 1), fingerprint: hash & Self::FINGERPRINT }
    }

    #[inline(always)]
    fn set<T: Tables>(&self, tables: &T, generation: u32, slot: u32) {
        tables
            .set_mark(self.index, self.fingerprint | (generation as u64 & 0xff) << 16 | slot as u64 & 0xffff);
    }

    #[inline(always)]
    fn get<T: Tables>(&self, tables: &T, generation: u32) -> Option<u16> {
        let mark = tables.mark(self.index);
        let age = (generation as u8).wrapping_sub((mark >> 16) as u8);
        (mark & Self::FINGERPRINT == self.fingerprint && age < Self::GENERATIONS).then_some(mark as u16)
    }
}

const _: () = assert!(MARKS_MAX.is_power_of_two());
