//! From what the maps hold to what they are to hold, one write at a time, in an order that is safe after each.
//!
//! Whatever leads somewhere is written after what it leads to, and removed before it: backends, lookup tables, rows of VIPs, VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::flow::QuicServerKey;
use lb_common::hop::HopRow;
use lb_common::vip::{Guard, Settings, Spans, VipIndex, VipKey, VipRow};

use super::contents::{Contents, Prefix, Table};

/// One write into one map.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields are keys and values of the maps")]
pub enum Change {
    /// `HOPS`.
    SetHop { slot: u32, row: Box<HopRow> },
    /// `PORTS`: packets that are sent to the interface leave by `through`.
    SetPort { interface: u32, through: u32 },
    /// `LOOKUP_TABLES`: a new inner map takes the place of the old one.
    SetTable { index: u32, table: Table },
    /// Nothing is written: the table holds these rows already, and now it is known whom they stand for.
    KnowTable { index: u32, table: Table },
    /// `QUIC_SERVERS`.
    SetQuicServer { key: QuicServerKey, slot: u32 },
    /// `VIP_ROWS`.
    SetVipRow { vip: VipIndex, row: Box<VipRow> },
    /// `NETWORKS`.
    SetNetwork { prefix: Prefix, guard: Guard },
    /// `SETTINGS`.
    SetSettings(Box<Settings>),
    /// `VIPS`.
    SetVip { key: VipKey, vip: VipIndex },
    /// `VIP_PREFIXES`.
    SetPrefix { prefix: Prefix, spans: Box<Spans> },
    /// `VIPS`.
    RemoveVip { key: VipKey },
    /// `VIP_PREFIXES`.
    RemovePrefix { prefix: Prefix },
    /// `VIP_ROWS`: zeroes.
    RemoveVipRow { vip: VipIndex },
    /// `NETWORKS`.
    RemoveNetwork { prefix: Prefix },
    /// `QUIC_SERVERS`.
    RemoveQuicServer { key: QuicServerKey },
    /// `LOOKUP_TABLES`: no inner map.
    RemoveTable { index: u32 },
    /// `HOPS`: zeroes.
    RemoveHop { slot: u32 },
    /// `PORTS`.
    RemovePort { interface: u32 },
}

/// What is to be written so that `applied` becomes `desired`.
pub fn changes(applied: &Contents, desired: &Contents) -> Vec<Change> {
    let mut changes = Vec::new();
    let port = |interface: &u32, through: &u32| Change::SetPort { interface: *interface, through: *through };
    set(&applied.ports, &desired.ports, port, &mut changes);
    let hop = |slot: &u32, row: &HopRow| Change::SetHop { slot: *slot, row: Box::new(*row) };
    set(&applied.hops, &desired.hops, hop, &mut changes);
    let table = |index: &u32, table: &Table| match applied.tables.get(index) {
        Some(applied) if applied.holds_same(table) => {
            Change::KnowTable { index: *index, table: table.clone() }
        }
        _ => Change::SetTable { index: *index, table: table.clone() },
    };
    set(&applied.tables, &desired.tables, table, &mut changes);
    let server = |key: &(u32, [u8; 8]), slot: &u32| Change::SetQuicServer { key: quic_key(key), slot: *slot };
    set(&applied.quic_servers, &desired.quic_servers, server, &mut changes);
    let row = |vip: &u32, row: &VipRow| Change::SetVipRow { vip: *vip, row: Box::new(*row) };
    set(&applied.vip_rows, &desired.vip_rows, row, &mut changes);
    let is_same_guard = Arc::ptr_eq(&applied.networks, &desired.networks);
    if !is_same_guard {
        let network = |prefix: &Prefix, guard: &Guard| Change::SetNetwork { prefix: *prefix, guard: *guard };
        set(&applied.networks, &desired.networks, network, &mut changes);
    }
    let between = settings_between(&applied.settings, &desired.settings);
    change_settings(&applied.settings, &between, &mut changes);
    let prefix =
        |prefix: &Prefix, spans: &Spans| Change::SetPrefix { prefix: *prefix, spans: Box::new(*spans) };
    set(&applied.prefixes, &desired.prefixes, prefix, &mut changes);
    set(&applied.vips, &desired.vips, |key, vip| Change::SetVip { key: *key, vip: *vip }, &mut changes);

    remove(&applied.vips, &desired.vips, |key| Change::RemoveVip { key: *key }, &mut changes);
    remove(
        &applied.prefixes,
        &desired.prefixes,
        |prefix| Change::RemovePrefix { prefix: *prefix },
        &mut changes,
    );
    remove(&applied.vip_rows, &desired.vip_rows, |vip| Change::RemoveVipRow { vip: *vip }, &mut changes);
    change_settings(&between, &desired.settings, &mut changes);
    if !is_same_guard {
        let network = |prefix: &Prefix| Change::RemoveNetwork { prefix: *prefix };
        remove(&applied.networks, &desired.networks, network, &mut changes);
    }
    let server = |key: &(u32, [u8; 8])| Change::RemoveQuicServer { key: quic_key(key) };
    remove(&applied.quic_servers, &desired.quic_servers, server, &mut changes);
    remove(&applied.tables, &desired.tables, |index| Change::RemoveTable { index: *index }, &mut changes);
    remove(&applied.hops, &desired.hops, |slot| Change::RemoveHop { slot: *slot }, &mut changes);
    remove(&applied.ports, &desired.ports, |port| Change::RemovePort { interface: *port }, &mut changes);
    changes
}

/// Settings that are right while VIPs of both sides are there: what either has needs looking at. Nobody is denied for not
/// being in the allow list before the list is there, and nobody is let in before the list is gone.
fn settings_between(applied: &Settings, desired: &Settings) -> Settings {
    Settings { flags: applied.flags | desired.flags, ..*desired }
}

fn change_settings(from: &Settings, to: &Settings, changes: &mut Vec<Change>) {
    if from != to {
        changes.push(Change::SetSettings(Box::new(*to)));
    }
}

fn quic_key((table, id): &(u32, [u8; 8])) -> QuicServerKey {
    QuicServerKey { id: *id, table: *table, zero: 0 }
}

fn set<K: Ord, V: PartialEq>(
    applied: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
    change: impl Fn(&K, &V) -> Change,
    changes: &mut Vec<Change>,
) {
    let different = desired.iter().filter(|(key, value)| applied.get(key) != Some(value));
    changes.extend(different.map(|(key, value)| change(key, value)));
}

fn remove<K: Ord, V>(
    applied: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
    change: impl Fn(&K) -> Change,
    changes: &mut Vec<Change>,
) {
    changes.extend(applied.keys().filter(|key| !desired.contains_key(key)).map(change));
}

impl Contents {
    /// What the maps hold after `change`. Who performs changes keeps count of them by this, so that one that fails is tried again.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::SetHop { slot, row } => drop(self.hops.insert(slot, *row)),
            Change::SetPort { interface, through } => drop(self.ports.insert(interface, through)),
            Change::SetTable { index, table } | Change::KnowTable { index, table } => {
                drop(self.tables.insert(index, table))
            }
            Change::SetQuicServer { key, slot } => drop(self.quic_servers.insert((key.table, key.id), slot)),
            Change::SetVipRow { vip, row } => drop(self.vip_rows.insert(vip, *row)),
            Change::SetNetwork { prefix, guard } => {
                Arc::make_mut(&mut self.networks).insert(prefix, guard);
            }
            Change::SetSettings(settings) => self.settings = *settings,
            Change::SetVip { key, vip } => drop(self.vips.insert(key, vip)),
            Change::SetPrefix { prefix, spans } => drop(self.prefixes.insert(prefix, *spans)),
            Change::RemoveVip { key } => drop(self.vips.remove(&key)),
            Change::RemovePrefix { prefix } => drop(self.prefixes.remove(&prefix)),
            Change::RemoveVipRow { vip } => drop(self.vip_rows.remove(&vip)),
            Change::RemoveNetwork { prefix } => drop(Arc::make_mut(&mut self.networks).remove(&prefix)),
            Change::RemoveQuicServer { key } => drop(self.quic_servers.remove(&(key.table, key.id))),
            Change::RemoveTable { index } => drop(self.tables.remove(&index)),
            Change::RemoveHop { slot } => drop(self.hops.remove(&slot)),
            Change::RemovePort { interface } => drop(self.ports.remove(&interface)),
        }
    }

    /// Slots that a lookup table or a connection id leads to.
    pub fn slots(&self) -> BTreeSet<u32> {
        let rows = self.tables.values().flat_map(|table| table.rows.iter());
        let slots =
            rows.flat_map(|row| [row.now, row.before]).filter(|slot| *slot != lb_common::lookup::NOBODY);
        slots.map(u32::from).chain(self.quic_servers.values().copied()).collect()
    }
}

#[cfg(test)]
pub(in crate::steer) mod tests;
