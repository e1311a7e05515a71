//! Lookup tables: who has a seat in them, and how one generation follows another.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::lookup::{LookupRow, NOBODY};

use super::{CHANGE_EVERY, Candidate, Inputs, STRADDLE};
use crate::steer::contents::{Seat, Table};
use crate::steer::identity;
use crate::steer::maglev::{self, Member, NO_MEMBER};

/// A table is made anew at once where more than one in so many flows would find its row's backend unable to take it. Below
/// that the kernel finds another row (in 99.997 % of cases within the rows that it asks).
const UNABLE_SHARE: u64 = 8;

/// The table that follows on `applied`, and when it is to be looked at again.
///
/// A change waits until [`CHANGE_EVERY`] has passed since the last one; unless somebody in the table is gone, whose slot may have
/// become another's, or too many cannot take flows.
pub fn next(
    candidates: &[Candidate<'_>],
    inputs: &Inputs<'_>,
    applied: Option<&Table>,
) -> (Table, Option<u64>) {
    let rows = inputs.model.steering.lookup_rows;
    let seats = seats(candidates);
    let Some(applied) = applied.filter(|table| table.rows.len() == rows as usize) else {
        let generation = applied.map_or(0, |table| table.generation);
        let fresh = Table { generation, ..Table::empty(rows) };
        return (follow(&fresh, seats, candidates, inputs.now_ns), None);
    };
    let gone = Gone::of(applied, candidates);
    if !gone.is_now {
        let has_nobody_new = seats.is_empty() || seats == applied.seats;
        let due_at_ns = applied.since_ns.saturating_add(CHANGE_EVERY.as_nanos() as u64);
        let waits = inputs.now_ns < due_at_ns && !is_urgent(&applied.seats, &seats);
        if has_nobody_new || waits {
            return (gone.cleared(applied), (!has_nobody_new).then_some(due_at_ns));
        }
    }
    (follow(&gone.cleared(applied), seats, candidates, inputs.now_ns), None)
}

/// Who gets new flows: IN and WARMING, those with a way first, those that are not backup first.
fn seats(candidates: &[Candidate<'_>]) -> Vec<Seat> {
    let takes_new =
        |candidate: &&Candidate<'_>| candidate.backend.state.takes_new() && candidate.backend.weight > 0;
    let mut able: Vec<&Candidate<'_>> = candidates.iter().filter(takes_new).collect();
    if able.iter().any(|candidate| candidate.has_way) {
        able.retain(|candidate| candidate.has_way);
    }
    if able.iter().any(|candidate| !candidate.is_backup) {
        able.retain(|candidate| !candidate.is_backup);
    }
    let seats = able.into_iter().map(|candidate| Seat {
        slot: candidate.backend.slot,
        identity: identity::of_backend(candidate.backend.address),
        weight: candidate.backend.weight,
    });
    seats.collect()
}

fn is_urgent(applied: &[Seat], seats: &[Seat]) -> bool {
    let is_able = |seat: &&Seat| seats.iter().any(|able| able.slot == seat.slot);
    let weight = |able: bool| -> u64 {
        applied.iter().filter(|seat| is_able(seat) == able).map(|seat| u64::from(seat.weight)).sum()
    };
    let (able, unable) = (weight(true), weight(false));
    unable * UNABLE_SHARE >= able + unable
}

/// Slots in a table that stand for nobody of the upstream any more.
struct Gone<'c> {
    slots: Vec<u16>,
    /// Whether a row leads to one of them.
    is_now: bool,
    candidates: &'c [Candidate<'c>],
}

impl<'c> Gone<'c> {
    fn of(table: &Table, candidates: &'c [Candidate<'c>]) -> Self {
        let instances: BTreeMap<u16, u64> =
            candidates.iter().map(|candidate| (candidate.backend.slot, candidate.backend.instance)).collect();
        let is_gone = |slot: u16| match (instances.get(&slot), table.instances.get(&slot)) {
            (None, _) => true,
            (Some(instance), Some(was)) => instance != was,
            (Some(_), None) => false,
        };
        let used = used(&table.rows);
        let mut slots: Vec<u16> = (0..NOBODY).filter(|slot| used[usize::from(*slot)]).collect();
        slots.retain(|slot| is_gone(*slot));
        let is_now = table.rows.iter().any(|row| slots.contains(&row.now));
        Self { slots, is_now, candidates }
    }

    /// The table without them, as far as it was before; `now` is somebody else's to change.
    fn cleared(&self, table: &Table) -> Table {
        let mut table = table.clone();
        if !self.slots.is_empty() {
            let left = |slot: u16| if self.slots.contains(&slot) { NOBODY } else { slot };
            let cleared = table.rows.iter().map(|row| match (left(row.now), left(row.before)) {
                (now, NOBODY) => LookupRow { now, before: now },
                (now, before) => LookupRow { now, before },
            });
            table.rows = cleared.collect();
        }
        if !self.slots.is_empty() || table.instances.is_empty() {
            table.instances = instances(&table.rows, self.candidates);
        }
        table
    }
}

/// For each slot whether it is in the rows.
fn used(rows: &[LookupRow]) -> Vec<bool> {
    let mut used = vec![false; usize::from(u16::MAX) + 1];
    for row in rows {
        used[usize::from(row.now)] = true;
        used[usize::from(row.before)] = true;
    }
    used
}

/// The instance of every slot in the rows.
fn instances(rows: &[LookupRow], candidates: &[Candidate<'_>]) -> BTreeMap<u16, u64> {
    let used = used(rows);
    let backends = candidates.iter().map(|candidate| candidate.backend);
    backends
        .filter(|backend| used[usize::from(backend.slot)])
        .map(|backend| (backend.slot, backend.instance))
        .collect()
}

/// The generation after `table`: what was `now` is `before`; a row that stays as it is goes on straddling the change that it had
/// lately. The same generation where every row leads where it led.
fn follow(table: &Table, seats: Vec<Seat>, candidates: &[Candidate<'_>], now_ns: u64) -> Table {
    let members: Vec<Member> =
        seats.iter().map(|seat| Member { identity: seat.identity, weight: seat.weight }).collect();
    let slot = |index: u16| seats.get(usize::from(index)).map_or(NOBODY, |seat| seat.slot);
    let now = maglev::table(&members, table.rows.len() as u32);
    let now: Vec<u16> =
        now.into_iter().map(|index| if index == NO_MEMBER { NOBODY } else { slot(index) }).collect();
    if table.generation > 0 && table.rows.iter().map(|row| row.now).eq(now.iter().copied()) {
        return Table { seats, ..table.clone() };
    }
    let is_recent = now_ns.saturating_sub(table.since_ns) < STRADDLE.as_nanos() as u64;
    let before = |row: &LookupRow, now: u16| match row.now {
        NOBODY => now,
        was if was == now && is_recent => row.before,
        was => was,
    };
    let pairs = table.rows.iter().zip(now);
    let rows: Arc<[LookupRow]> =
        pairs.map(|(row, now)| LookupRow { now, before: before(row, now) }).collect();
    Table {
        generation: table.generation.wrapping_add(1),
        since_ns: now_ns,
        instances: instances(&rows, candidates),
        rows,
        seats,
    }
}
