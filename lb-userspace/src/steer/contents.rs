//! What the maps of the XDP program hold, or are to hold.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytemuck::Zeroable;
use ipnet::IpNet;
use lb_common::hop::HopRow;
use lb_common::lookup::{Head, Line, LookupRow, NOBODY, ROWS_PER_LINE};
use lb_common::vip::{Guard, PrefixKey, Settings, Spans, VipIndex, VipKey, VipRow};

/// The maps that the master fills, each by its key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// `SETTINGS`.
    pub settings: Settings,
    /// `VIPS`.
    pub vips: BTreeMap<VipKey, VipIndex>,
    /// `VIP_PREFIXES`.
    pub prefixes: BTreeMap<Prefix, Spans>,
    /// `VIP_ROWS`; those that are [`VipRow::PRESENT`].
    pub vip_rows: BTreeMap<u32, VipRow>,
    /// `LOOKUP_TABLES`.
    pub tables: BTreeMap<u32, Table>,
    /// `HOPS`, by slot.
    pub hops: BTreeMap<u32, HopRow>,
    /// `QUIC_SERVERS`: lookup table and server id to slot.
    pub quic_servers: BTreeMap<(u32, [u8; 8]), u32>,
    /// `NETWORKS`. Shared, because there may be a million of them.
    pub networks: Arc<Networks>,
    /// `PORTS`: interfaces that packets may be sent to, and by which one they leave then.
    pub ports: BTreeMap<u32, u32>,
}

/// The deny and allow lists.
pub type Networks = BTreeMap<Prefix, Guard>;

/// A key of a trie: the first bits of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address; IPv4 is IPv4-mapped.
    pub address: PrefixKey,
    /// How many bits of it, 96 more than written for IPv4.
    pub bits: u32,
}

impl From<IpNet> for Prefix {
    fn from(network: IpNet) -> Self {
        let before = if network.addr().is_ipv4() { 96 } else { 0 };
        Self { address: address_bytes(network.addr()), bits: before + u32::from(network.prefix_len()) }
    }
}

/// An address as the maps have it: IPv4 is IPv4-mapped.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A lookup table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Grows with each change of who a row leads to.
    pub generation: u32,
    /// When this generation was made, nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// The rows.
    pub rows: Arc<[LookupRow]>,
    /// What `now` was made from, in the order of slots; empty where the table was found in the kernel, or nobody is in it.
    pub seats: Vec<Seat>,
    /// The instance that each slot in the table stands for; without a slot where the table was found in the kernel.
    pub instances: BTreeMap<u16, u64>,
}

/// A backend that a lookup table was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its row in `BACKENDS`.
    pub slot: u16,
    /// [`super::identity::of_backend`].
    pub identity: u64,
    /// Its weight.
    pub weight: u32,
}

impl Table {
    /// A table that leads to nobody.
    pub fn empty(rows: u32) -> Self {
        Self {
            generation: 0,
            since_ns: 0,
            rows: vec![LookupRow { now: NOBODY, before: NOBODY }; rows as usize].into(),
            seats: Vec::new(),
            instances: BTreeMap::new(),
        }
    }

    /// A table as it is found in the kernel: element 0, and those after it.
    pub fn found(head: Head, lines: &[Line]) -> Self {
        let rows = lines.iter().flat_map(|line| line.rows).take(head.rows as usize).collect();
        Self { generation: head.generation, since_ns: head.since_ns, rows, ..Self::empty(0) }
    }

    /// Whether the maps of both hold the same.
    pub fn holds_same(&self, other: &Self) -> bool {
        (self.generation, self.since_ns) == (other.generation, other.since_ns) && self.rows == other.rows
    }

    /// Element 0 of the map.
    pub fn head(&self) -> Head {
        Head {
            rows: self.rows.len() as u32,
            generation: self.generation,
            since_ns: self.since_ns,
            ..Head::zeroed()
        }
    }

    /// The elements after it.
    pub fn lines(&self) -> Vec<Line> {
        let nobody = LookupRow { now: NOBODY, before: NOBODY };
        let lines = self.rows.chunks(ROWS_PER_LINE as usize).map(|chunk| {
            let mut rows = [nobody; ROWS_PER_LINE as usize];
            rows.iter_mut().zip(chunk).for_each(|(row, from)| *row = *from);
            Line { rows }
        });
        lines.collect()
    }

    /// How many rows lead to each slot.
    pub fn shares(&self) -> BTreeMap<u16, u32> {
        let mut shares = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.now != NOBODY) {
            *shares.entry(row.now).or_default() += 1;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back_from_the_kernel_as_it_went() {
        let rows: Vec<LookupRow> = (0..251).map(|row| LookupRow { now: row, before: row / 2 }).collect();
        let table = Table { generation: 3, since_ns: 7, rows: rows.into(), ..Table::empty(0) };
        assert_eq!(table.lines().len(), 16);
        assert_eq!(Table::found(table.head(), &table.lines()), table);
    }

    #[test]
    fn networks_of_both_families_share_a_trie() {
        let prefix = |text: &str| Prefix::from(text.parse::<IpNet>().unwrap());
        assert_eq!(prefix("10.0.0.0/8").bits, 104);
        assert_eq!(prefix("10.0.0.0/8").address[10..], [0xff, 0xff, 10, 0, 0, 0]);
        assert_eq!(prefix("2001:db8::/32").bits, 32);
    }
}
