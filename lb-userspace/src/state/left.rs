//! What a master that was killed left in the backend table, and how its successor takes it up.
//!
//! Packets go on while no master runs: a backend keeps its row and its instance, so that flows to it stay known, and its
//! state, until probes say otherwise. Only rows of configured backends are left: instances of programs end with their master.

use std::collections::BTreeMap;

use super::State;
use super::backend::Written;
use super::event::{Effect, InstanceId, Slot};
use super::step::Turn;
use crate::config::model::{Address, Model};
use lb_common::backend::{BackendRow, TrafficState};

/// Rows found in the table.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// By what the backend is.
    pub rows: BTreeMap<u64, LeftRow>,
    /// Those that were being given up when their backend came back, on another row.
    leaving: Vec<LeftRow>,
}

/// A row as it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftRow {
    pub slot: Slot,
    pub written: Written,
}

impl State {
    /// Takes up rows that an earlier master left. To be called before the first event.
    pub fn take_up(&mut self, rows: &[(Slot, BackendRow)]) {
        for &(slot, row) in rows {
            let written = Written {
                instance: InstanceId(row.instance),
                state: TrafficState::from_raw(row.state),
                weight: row.weight,
                identity: row.identity,
            };
            self.next_instance = self.next_instance.max(row.instance.saturating_add(1));
            self.slots.take(slot);
            let found = LeftRow { slot, written };
            match self.left.rows.insert(row.identity, found) {
                None => {}
                Some(twin) if twin.written.instance < written.instance => self.left.leaving.push(twin),
                Some(twin) => {
                    self.left.rows.insert(row.identity, twin);
                    self.left.leaving.push(found);
                }
            }
        }
    }
}

impl Turn<'_> {
    /// Gives up the rows whose backends the configuration does not have any more. Of whose upstream they were nobody knows: they have the
    /// time of the most patient one.
    pub(super) fn give_up_left(&mut self, model: &Model) {
        let waits = model.upstreams.values().map(|upstream| upstream.drain_timeout);
        let wait = waits.max().unwrap_or_default();
        let left = std::mem::take(&mut self.state.left);
        for row in left.leaving.into_iter().chain(left.rows.into_values()) {
            self.push_leaving_row(row.slot, row.written.instance, row.written.identity);
            self.state.slots.release(row.slot, Some(self.now + wait));
            self.effects.push(Effect::WatchDrain { slot: row.slot });
        }
    }
}

/// What a configured backend is known by: its upstream's name and its address (FNV-1a, 64 bits; never 0).
pub fn identity(upstream: &str, address: &Address) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let text = format!("{upstream}/{address}");
    let hash = text.bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    hash.max(1)
}
