//! Rows of the backend table: which are taken, and which may be used again.

use std::collections::{BTreeMap, BTreeSet};

use super::event::Slot;
use crate::time::Time;
use lb_common::limits::BACKENDS_MAX;

/// The rows that are in use or not yet free again.
#[derive(Debug)]
pub(super) struct Slots {
    /// How many the table has.
    rows: u32,
    used: BTreeSet<Slot>,
    /// Where to look first: a row that became free is used again as late as possible.
    next: u32,
    releasing: BTreeMap<Slot, Release>,
}

/// A row that is no longer in the picture but may still be in use by a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Release {
    /// The first picture without it; `None` until that is published.
    without: Option<u64>,
    /// Requests on it may go on until then; `None` when nothing is active on it any more.
    until: Option<Time>,
}

impl Default for Slots {
    fn default() -> Self {
        Self::of(BACKENDS_MAX)
    }
}

impl Slots {
    /// Of a table with so many rows.
    pub fn of(rows: u32) -> Self {
        Self { rows, used: BTreeSet::new(), next: 0, releasing: BTreeMap::new() }
    }

    /// A free row; `None` when the table is full.
    pub fn allocate(&mut self) -> Option<Slot> {
        let slot = (0..self.rows)
            .map(|offset| Slot((self.next + offset) % self.rows))
            .find(|slot| !self.used.contains(slot))?;
        self.used.insert(slot);
        self.next = (slot.0 + 1) % self.rows;
        Some(slot)
    }

    /// Takes a row that is in use already.
    pub fn take(&mut self, slot: Slot) {
        self.used.insert(slot);
        self.next = (slot.0 + 1) % self.rows;
    }

    /// Begins to give a row back. `until`: requests may still be active on it, until then.
    pub fn release(&mut self, slot: Slot, until: Option<Time>) {
        self.releasing.insert(slot, Release { without: None, until });
    }

    /// Rows that are not free.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    /// Whether the row is on its way out with requests active.
    pub fn is_draining(&self, slot: Slot) -> bool {
        self.releasing.get(&slot).is_some_and(|release| release.until.is_some())
    }

    /// Nothing is active on the row any more, or need not be waited for.
    pub fn drained(&mut self, slot: Slot) {
        if let Some(release) = self.releasing.get_mut(&slot) {
            release.until = None;
        }
    }

    /// A picture was published that has none of the rows being released.
    pub fn published(&mut self, number: u64) {
        for release in self.releasing.values_mut() {
            release.without.get_or_insert(number);
        }
    }

    /// Whether a picture without some row has yet to be published.
    pub fn needs_publish(&self) -> bool {
        self.releasing.values().any(|release| release.without.is_none())
    }

    /// The rows that no worker knows any more and nothing is active on: they are free now.
    pub fn take_free(&mut self, acknowledged: u64) -> Vec<Slot> {
        let is_free = |release: &Release| {
            release.until.is_none() && release.without.is_some_and(|number| number <= acknowledged)
        };
        let free: Vec<Slot> =
            self.releasing.iter().filter(|(_, release)| is_free(release)).map(|(&slot, _)| slot).collect();
        for slot in &free {
            self.releasing.remove(slot);
            self.used.remove(slot);
        }
        free
    }

    /// Rows whose wait for active requests is over.
    pub fn overdue(&self, now: Time) -> Vec<Slot> {
        let is_overdue = |release: &Release| release.until.is_some_and(|until| until <= now);
        self.releasing.iter().filter(|(_, release)| is_overdue(release)).map(|(&slot, _)| slot).collect()
    }

    /// When the next of them is.
    pub fn deadline(&self) -> Option<Time> {
        self.releasing.values().filter_map(|release| release.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_table_gives_no_row() {
        let mut slots = Slots::default();
        let all: BTreeSet<Slot> = (0..BACKENDS_MAX).filter_map(|_| slots.allocate()).collect();
        assert_eq!(all.len(), BACKENDS_MAX as usize);
        assert_eq!(slots.allocate(), None);
    }

    #[test]
    fn row_is_free_only_when_acknowledged_and_drained() {
        let mut slots = Slots::default();
        let slot = slots.allocate().unwrap();
        slots.release(slot, Some(Time(5)));
        assert!(slots.needs_publish());
        assert_eq!(slots.take_free(9), []);
        slots.published(3);
        assert_eq!(slots.take_free(9), []);
        slots.drained(slot);
        assert_eq!(slots.take_free(2), []);
        assert_eq!(slots.take_free(3), [slot]);
        assert_ne!(slots.allocate(), Some(slot), "a row is used again as late as possible");
    }
}
