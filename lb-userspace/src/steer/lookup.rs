//! Where a flow goes, or would go if it began now, and why: `lbctl flow lookup`.
//!
//! The kernel decides with `lb_common::forward`; this says the same in words, and a test holds both against each other.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use lb_common::backend::BackendRow;
use lb_common::flow::{Flow, FlowKey, Kept, NatFlow};
use lb_common::hash;
use lb_common::limits::LOOKUP_TRIES_MAX;
use lb_common::lookup::{LookupRow, NOBODY};
use lb_common::vip::{Forward, Guard, Settings, VipIndex, VipKey, VipRow};

use super::contents::{Contents, Prefix, Table, address_bytes};

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who sends.
    pub client: SocketAddr,
    /// To whom.
    pub vip: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

impl Asked {
    /// What its packets have as key in `FLOWS`, `NAT` and `NAT_HALF_OPEN`.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            source: address_bytes(self.client.ip()),
            target: address_bytes(self.vip.ip()),
            source_port: self.client.port().to_be_bytes(),
            target_port: self.vip.port().to_be_bytes(),
            protocol: self.protocol,
            ..FlowKey::default()
        }
    }
}

/// What packets have left behind of the flow, as found in the maps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Left {
    /// In `FLOWS`.
    pub flow: Option<Flow>,
    /// In `NAT` or `NAT_HALF_OPEN`.
    pub nat: Option<NatFlow>,
    /// In `AFFINITY`, for its source.
    pub kept: Option<Kept>,
}

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Row of the VIP that answers for it.
    pub vip: Option<VipIndex>,
    /// The row of the lookup table that it leads to, where the flow is not known.
    pub place: Option<Place>,
    /// The slot of the backend that gets its next packet.
    pub slot: Option<u32>,
    /// Why.
    pub why: Why,
}

/// A row of a lookup table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the table.
    pub table: u32,
    /// Index of the row.
    pub row: u32,
    /// Rows of the table.
    pub rows: u32,
    /// Its generation.
    pub generation: u32,
    /// When it was made.
    pub since_ns: u64,
    /// Whose the row is.
    pub leads_to: LookupRow,
}

/// Why a flow goes where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No VIP has this address, port and protocol.
    NoVip,
    /// The source is in the deny list.
    Denied,
    /// The source is not in the allow list, which is the only one.
    NotAllowed,
    /// The VIP is of this host.
    Local,
    /// It is remembered.
    Known,
    /// It is translated.
    Translated,
    /// The client's address keeps the backend.
    Kept,
    /// Its row.
    Row,
    /// Its row leads to a backend that takes no new flows; so many rows further one does.
    FurtherRow(u32),
    /// None of the rows that are asked leads to a backend that takes new flows.
    Nobody,
    /// The way to the backend is not known.
    NoWay,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVip => f.write_str(
                "no VIP has this address, port and protocol: packets go up the stack of this host",
            ),
            Self::Denied => f.write_str("the source is in the deny list: packets are dropped"),
            Self::NotAllowed => f.write_str("the source is not in the allow list: packets are dropped"),
            Self::Local => f.write_str("the VIP is local: packets go up the stack of this host"),
            Self::Known => f.write_str("the flow is known, and its backend is there"),
            Self::Translated => f.write_str("the flow is translated, and its backend is there"),
            Self::Kept => f.write_str("the client's address keeps this backend"),
            Self::Row => f.write_str("the flow is not known, and its row of the lookup table leads there"),
            Self::FurtherRow(rows) => write!(
                f,
                "the flow is not known; its row leads to a backend that takes no new flows, and {rows} further on one does"
            ),
            Self::Nobody => f.write_str("no backend takes new flows: packets are dropped"),
            Self::NoWay => f.write_str("the way to the backend is not known: packets are dropped"),
        }
    }
}

/// Where the next packet of a flow goes, which is its first where nothing of it is known. `backend` gives rows of `BACKENDS`.
///
/// A QUIC packet whose connection id names a backend goes to that one; only the packet tells.
pub fn lookup(
    contents: &Contents,
    backend: impl Fn(u32) -> Option<BackendRow>,
    asked: &Asked,
    left: &Left,
    now_ns: u64,
) -> Answer {
    let vip = vip(contents, asked);
    let Some((index, row)) = vip.and_then(|index| Some((index, contents.vip_rows.get(&index)?))) else {
        return Answer { vip: None, place: None, slot: None, why: Why::NoVip };
    };
    let nowhere = |why: Why| Answer { vip: Some(index), place: None, slot: None, why };
    if let Some(why) = refusal(contents, asked.client.ip()) {
        return nowhere(why);
    }
    if Forward::from_raw(row.forward) == Forward::Local {
        return nowhere(Why::Local);
    }
    let view = View { contents, backend: &backend, row, index };
    if let Some((slot, why)) = view.remembered(left) {
        return view.reached(slot, None, why);
    }
    if let Some(slot) = left.kept.and_then(|kept| view.kept(&kept, now_ns)) {
        return view.reached(slot, None, Why::Kept);
    }
    view.by_row(asked)
}

/// The VIP of an address, port and protocol: single port, then every port, then the longest prefix.
fn vip(contents: &Contents, asked: &Asked) -> Option<VipIndex> {
    let address = address_bytes(asked.vip.ip());
    let port = asked.vip.port();
    let key = |port: u16| VipKey { address, port: port.to_be_bytes(), protocol: asked.protocol, zero: 0 };
    let exact = contents.vips.get(&key(port)).or_else(|| contents.vips.get(&key(0)));
    exact.copied().or_else(|| {
        let spans = longest(&address, |prefix| contents.prefixes.get(prefix))?.spans;
        let holds = |first: u16, last: u16| first <= port && port <= last;
        let mut found =
            spans.iter().filter(|span| span.protocol == asked.protocol && holds(span.first, span.last));
        found.next().map(|span| u32::from(span.vip))
    })
}

fn refusal(contents: &Contents, source: IpAddr) -> Option<Why> {
    let is_allow_only = contents.settings.flags & Settings::ALLOW_ONLY != 0;
    match longest(&address_bytes(source), |prefix| contents.networks.get(prefix)) {
        Some(Guard::Deny) => Some(Why::Denied),
        Some(Guard::Allow) => None,
        None => is_allow_only.then_some(Why::NotAllowed),
    }
}

/// What is found by the longest prefix that holds `address`.
fn longest<'a, T>(address: &[u8; 16], get: impl Fn(&Prefix) -> Option<&'a T>) -> Option<&'a T> {
    let all = u128::from_be_bytes(*address);
    let prefixes = (0..=128u32).rev().map(|bits| {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Prefix { address: (all & mask).to_be_bytes(), bits }
    });
    prefixes.into_iter().find_map(|prefix| get(&prefix))
}

/// The tables, as a flow of one VIP sees them.
struct View<'a, B> {
    contents: &'a Contents,
    backend: &'a B,
    row: &'a VipRow,
    index: VipIndex,
}

impl<B: Fn(u32) -> Option<BackendRow>> View<'_, B> {
    /// The backend of a flow that is known, where it still is the same and not OUT.
    fn remembered(&self, left: &Left) -> Option<(u32, Why)> {
        let known = left.flow.map(|flow| (flow.slot, flow.instance, Why::Known));
        let translated = left.nat.map(|nat| (nat.slot, nat.instance, Why::Translated));
        let (slot, instance, why) = translated.or(known)?;
        let backend = (self.backend)(slot)?;
        (backend.instance == instance && backend.traffic() as u32 != 0).then_some((slot, why))
    }

    fn kept(&self, kept: &Kept, now_ns: u64) -> Option<u32> {
        let backend = (self.backend)(kept.slot)?;
        let age_ms = now_ns.saturating_sub(kept.seen_at_ns) / 1_000_000;
        let is_young = self.row.flags & VipRow::AFFINITY != 0 && age_ms <= u64::from(self.row.affinity_ms);
        (is_young && backend.instance == kept.instance && backend.traffic().takes_new()).then_some(kept.slot)
    }

    fn by_row(&self, asked: &Asked) -> Answer {
        let nobody = Answer { vip: Some(self.index), place: None, slot: None, why: Why::Nobody };
        let table = self.contents.tables.get(&self.row.table).filter(|table| !table.rows.is_empty());
        let Some(table) = table else { return nobody };
        let seed = self.contents.settings.seed;
        let key = asked.key();
        let is_kept = self.row.flags & VipRow::AFFINITY != 0;
        let mut place = if is_kept { hash::of_source(&key, seed) } else { hash::of_flow(&key, seed) };
        let first = self.place(table, place);
        for further in 0..=LOOKUP_TRIES_MAX {
            let slot = self.place(table, place).leads_to.now;
            if self.takes_new(slot) {
                let why = if further == 0 { Why::Row } else { Why::FurtherRow(further) };
                return self.reached(u32::from(slot), Some(first), why);
            }
            place = hash::next(place);
        }
        Answer { place: Some(first), ..nobody }
    }

    fn place(&self, table: &Table, place: u64) -> Place {
        let rows = table.rows.len() as u32;
        let row = hash::row(place, rows);
        let nobody = LookupRow { now: NOBODY, before: NOBODY };
        Place {
            table: self.row.table,
            row,
            rows,
            generation: table.generation,
            since_ns: table.since_ns,
            leads_to: table.rows.get(row as usize).copied().unwrap_or(nobody),
        }
    }

    fn takes_new(&self, slot: u16) -> bool {
        slot != NOBODY && (self.backend)(u32::from(slot)).is_some_and(|backend| backend.traffic().takes_new())
    }

    fn reached(&self, slot: u32, place: Option<Place>, why: Why) -> Answer {
        let has_way = self.contents.hops.get(&slot).is_some_and(|hop| hop.interface != 0);
        Answer { vip: Some(self.index), place, slot: Some(slot), why: if has_way { why } else { Why::NoWay } }
    }
}

#[cfg(test)]
mod tests;
