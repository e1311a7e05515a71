//! What is configured, as rows of the tables: VIPs, backends, next hops, lookup tables. Plain data, for both sides.

use std::net::{IpAddr, SocketAddr};
use std::vec;
use std::vec::Vec;

use bytemuck::Zeroable;

use crate::backend::{BackendRow, TrafficState};
use crate::flow::QuicServerKey;
use crate::hop::HopRow;
use crate::host::packet::{address_bytes, internet_sum};
use crate::lookup::{Head, LookupRow, NOBODY};
use crate::vip::{Forward, Guard, PrefixKey, Settings, Span, Spans, VipKey, VipRow};

/// The written tables of a node.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// `SETTINGS`.
    pub settings: Settings,
    /// `VIPS`.
    pub vips: Vec<(VipKey, u32)>,
    /// `VIP_PREFIXES`: address and bits.
    pub prefixes: Vec<(PrefixKey, u32, Spans)>,
    /// `VIP_ROWS`.
    pub vip_rows: Vec<VipRow>,
    /// `NETWORKS`: address and bits.
    pub networks: Vec<(PrefixKey, u32, Guard)>,
    /// `LOOKUP_TABLES`: head and rows.
    pub tables: Vec<(Head, Vec<LookupRow>)>,
    /// `BACKENDS`, by slot.
    pub backends: Vec<BackendRow>,
    /// `HOPS`, by slot.
    pub hops: Vec<HopRow>,
    /// `QUIC_SERVERS`.
    pub quic_servers: Vec<(QuicServerKey, u32)>,
}

/// What is written in front of the packets to a backend.
#[derive(Clone, Copy, Debug)]
pub enum HopKind {
    /// A link-layer header only.
    Plain,
    /// An outer IP header from the first address to the second.
    IpIp(IpAddr, IpAddr),
    /// An outer IP header and UDP to this port.
    Gue(IpAddr, IpAddr, u16),
}

impl World {
    /// Adds a VIP with a row of its own; returns the row. The lookup table is `table`.
    pub fn add_vip(&mut self, address: SocketAddr, protocol: u8, forward: Forward, table: u32) -> u32 {
        let vip = self.add_vip_row(protocol, forward, table);
        let key = VipKey {
            address: address_bytes(address.ip()),
            port: address.port().to_be_bytes(),
            protocol,
            zero: 0,
        };
        self.vips.push((key, vip));
        let of_address = VipKey::of_address(key.address);
        match self.vips.iter_mut().find(|(key, _)| *key == of_address) {
            Some((_, known)) if forward == Forward::Local => *known = vip,
            Some(_) => {}
            None => self.vips.push((of_address, vip)),
        }
        vip
    }

    /// Adds a VIP of every address in `network`/`bits` (bits of the address in its own family) and the ports `first` to `last`.
    pub fn add_prefix_vip(
        &mut self,
        (network, bits): (IpAddr, u32),
        (first, last): (u16, u16),
        protocol: u8,
        forward: Forward,
        table: u32,
    ) -> u32 {
        let vip = self.add_vip_row(protocol, forward, table);
        let mut spans = Spans::default();
        spans.spans[0] = Span { first, last, vip: vip as u16, protocol, zero: 0 };
        self.prefixes.push((address_bytes(network), mapped_bits(network, bits), spans));
        self.settings.flags |= Settings::PREFIXES;
        vip
    }

    /// Adds a network to the deny and allow lists.
    pub fn add_network(&mut self, network: IpAddr, bits: u32, guard: Guard) {
        self.networks.push((address_bytes(network), mapped_bits(network, bits), guard));
        self.settings.flags |= Settings::GUARD;
    }

    /// Adds a backend that is IN; returns its slot. Its instance is the slot + 1,000.
    pub fn add_backend(&mut self, hop: HopRow) -> u32 {
        let slot = self.backends.len() as u32;
        self.backends.push(BackendRow {
            instance: u64::from(slot) + 1_000,
            state: TrafficState::In as u32,
            weight: 1,
            ..Default::default()
        });
        self.hops.push(hop);
        slot
    }

    /// Adds a lookup table in which the slots take turns; returns its index.
    pub fn add_table(&mut self, rows: u32, slots: &[u32]) -> u32 {
        let row = |index: u32| {
            let slot = slots.get(index as usize % slots.len().max(1)).map_or(NOBODY, |slot| *slot as u16);
            LookupRow { now: slot, before: slot }
        };
        let head = Head { rows, generation: 1, ..Default::default() };
        self.tables.push((head, (0..rows).map(row).collect()));
        self.tables.len() as u32 - 1
    }

    /// The next generation of a lookup table, swapped in at `now_ns`: the slots take turns in it.
    pub fn next_generation(&mut self, table: u32, slots: &[u32], now_ns: u64) {
        let (head, rows) = &mut self.tables[table as usize];
        head.generation = head.generation.wrapping_add(1);
        head.since_ns = now_ns;
        for (index, row) in rows.iter_mut().enumerate() {
            row.before = row.now;
            row.now = slots.get(index % slots.len().max(1)).map_or(NOBODY, |slot| *slot as u16);
        }
    }

    /// Takes a backend out of, or back into, rotation.
    pub fn set_state(&mut self, slot: u32, state: TrafficState) {
        self.backends[slot as usize].state = state as u32;
    }

    fn add_vip_row(&mut self, protocol: u8, forward: Forward, table: u32) -> u32 {
        self.settings.flags |= match forward {
            Forward::Local => 0,
            Forward::Nat => Settings::NAT,
            Forward::L2Dsr | Forward::IpIp | Forward::Gue => Settings::DIRECT,
        };
        let vip = self.vip_rows.len() as u32;
        self.vip_rows.push(VipRow {
            table,
            flags: VipRow::PRESENT,
            forward: forward as u8,
            protocol,
            idle_ms: 60_000,
            identity: vip + 1,
            mtu: 1500,
            ..Default::default()
        });
        vip
    }
}

impl HopKind {
    /// The way to a backend at `address` over `interface`. The link-layer header has no VLAN tag.
    pub fn hop(self, interface: u32, address: SocketAddr) -> HopRow {
        let mut hop = HopRow::zeroed();
        hop.interface = interface;
        hop.mtu = 1500;
        hop.port = address.port().to_be_bytes();
        hop.address = address_bytes(address.ip());
        let (outer, gue_port) = match self {
            Self::Plain => (vec![], 0),
            Self::IpIp(from, to) => (outer(from, to, if address.is_ipv4() { 4 } else { 41 }), 0),
            Self::Gue(from, to, port) => (outer(from, to, 17), port),
        };
        hop.outer[..outer.len()].copy_from_slice(&outer);
        hop.outer_bytes = outer.len() as u8;
        hop.outer_sum = if outer.len() == 20 { internet_sum(&outer, 0).to_be() } else { 0 };
        hop.gue_port = gue_port.to_be_bytes();
        let is_ipv4 = if outer.is_empty() { address.is_ipv4() } else { outer.len() == 20 };
        hop.link[..6].copy_from_slice(&[2, 0, 0, 0, 9, *address_bytes(address.ip()).last().unwrap_or(&0)]);
        hop.link[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        hop.link[12..14].copy_from_slice(if is_ipv4 { &[8, 0] } else { &[0x86, 0xdd] });
        hop.link_bytes = 14;
        hop
    }
}

/// An outer IP header without length, identification, checksum.
fn outer(from: IpAddr, to: IpAddr, protocol: u8) -> Vec<u8> {
    let mut header = vec![];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.extend([0x60, 0, 0, 0, 0, 0, protocol, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        _ => panic!("an outer header of {from} and {to}"),
    }
    header
}

/// Leading bits of the 16-byte form of an address.
fn mapped_bits(address: IpAddr, bits: u32) -> u32 {
    if address.is_ipv4() { 96 + bits } else { bits }
}
