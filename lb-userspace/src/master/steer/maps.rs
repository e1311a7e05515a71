//! The maps of the steering programs: written change by change, read back when a master takes over, and read for reports.
//!
//! Effectful: reads and writes BPF maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, ArrayOfMaps, DevMapHash, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray};
use bytemuck::{Pod, Zeroable};
use lb_common::counter::Traffic;
use lb_common::flow::{Flow, FlowKey, Kept, NatFlow, SourceKey};
use lb_common::hop::HopRow;
use lb_common::limits::{BACKENDS_MAX, LOOKUP_TABLES_MAX, VIPS_MAX};
use lb_common::lookup::{Head, Line};
use lb_common::verdict::Reason;
use lb_common::vip::{Guard, Settings, Spans, VipKey, VipRow};

use super::object::Steering;
use super::sys;
use crate::master::kernel::reason;
use crate::steer::change::Change;
use crate::steer::contents::{Contents, Networks, Prefix, Table};
use crate::steer::flow_lookup::Remembered;

/// Inner maps may differ in size (`BPF_F_INNER_MAP`), and are filled through memory (`BPF_F_MMAPABLE`).
const LOOKUP_TABLE_FLAGS: u32 = 1 << 12 | 1 << 10;

/// Handles of the maps.
pub struct Maps {
    settings: Array<MapData, [u8; 64]>,
    vips: HashMap<MapData, [u8; 20], u32>,
    prefixes: LpmTrie<MapData, [u8; 16], [u8; 64]>,
    vip_rows: Array<MapData, [u8; 64]>,
    networks: LpmTrie<MapData, [u8; 16], u32>,
    tables: ArrayOfMaps<MapData, Array<MapData, [u8; 64]>>,
    hops: Array<MapData, [u8; 128]>,
    quic_servers: HashMap<MapData, [u8; 16], u32>,
    ports: DevMapHash<MapData>,
    flows: HashMap<MapData, [u8; 40], [u8; 24]>,
    nat: HashMap<MapData, [u8; 40], [u8; 88]>,
    nat_half_open: HashMap<MapData, [u8; 40], [u8; 88]>,
    affinity: HashMap<MapData, [u8; 20], [u8; 24]>,
    vip_counts: PerCpuArray<MapData, [u8; 32]>,
    backend_counts: PerCpuArray<MapData, [u8; 32]>,
    reasons: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Those of a loaded object.
    ///
    /// # Errors
    /// The committed object has other maps: our own mistake.
    pub fn of(object: &mut Steering) -> anyhow::Result<Self> {
        Ok(Self {
            settings: typed(object, "SETTINGS")?,
            vips: typed(object, "VIPS")?,
            prefixes: typed(object, "VIP_PREFIXES")?,
            vip_rows: typed(object, "VIP_ROWS")?,
            networks: typed(object, "NETWORKS")?,
            tables: typed(object, "LOOKUP_TABLES")?,
            hops: typed(object, "HOPS")?,
            quic_servers: typed(object, "QUIC_SERVERS")?,
            ports: typed(object, "PORTS")?,
            flows: typed(object, "FLOWS")?,
            nat: typed(object, "NAT")?,
            nat_half_open: typed(object, "NAT_HALF_OPEN")?,
            affinity: typed(object, "AFFINITY")?,
            vip_counts: typed(object, "VIP_COUNTS")?,
            backend_counts: typed(object, "BACKEND_COUNTS")?,
            reasons: typed(object, "REASONS")?,
        })
    }

    /// Writes one change.
    ///
    /// # Errors
    /// What the kernel says; a map may be full.
    pub fn perform(&mut self, change: &Change) -> anyhow::Result<()> {
        match change {
            Change::SetHop { slot, row } => {
                self.hops.set(*slot, bytemuck::cast::<HopRow, [u8; 128]>(**row), 0)
            }
            Change::SetPort { interface, through } => {
                return self.ports.insert(*interface, *through, None, 0).map_err(reason);
            }
            Change::SetTable { index, table } => return self.set_table(*index, table),
            Change::KnowTable { .. } => Ok(()),
            Change::SetQuicServer { key, slot } => {
                self.quic_servers.insert(bytemuck::cast::<_, [u8; 16]>(*key), slot, 0)
            }
            Change::SetVipRow { vip, row } => {
                self.vip_rows.set(*vip, bytemuck::cast::<VipRow, [u8; 64]>(**row), 0)
            }
            Change::SetNetwork { prefix, guard } => self.networks.insert(&trie_key(prefix), *guard as u32, 0),
            Change::SetSettings(settings) => {
                self.settings.set(0, bytemuck::cast::<Settings, [u8; 64]>(**settings), 0)
            }
            Change::SetVip { key, vip } => self.vips.insert(bytemuck::cast::<_, [u8; 20]>(*key), vip, 0),
            Change::SetPrefix { prefix, spans } => {
                self.prefixes.insert(&trie_key(prefix), bytemuck::cast::<Spans, [u8; 64]>(**spans), 0)
            }
            Change::RemoveVip { key } => gone(self.vips.remove(&bytemuck::cast::<_, [u8; 20]>(*key))),
            Change::RemovePrefix { prefix } => gone(self.prefixes.remove(&trie_key(prefix))),
            Change::RemoveVipRow { vip } => self.vip_rows.set(*vip, [0; 64], 0),
            Change::RemoveNetwork { prefix } => gone(self.networks.remove(&trie_key(prefix))),
            Change::RemoveQuicServer { key } => {
                gone(self.quic_servers.remove(&bytemuck::cast::<_, [u8; 16]>(*key)))
            }
            // A table without rows: nobody is found in it.
            Change::RemoveTable { index } => return self.set_table(*index, &Table::empty(0)),
            Change::RemoveHop { slot } => self.hops.set(*slot, [0; 128], 0),
            Change::RemovePort { interface } => gone(self.ports.remove(*interface)),
        }
        .map_err(reason)
    }

    /// Fills a new inner map and puts it in the place of the old one: a packet sees the one or the other.
    fn set_table(&mut self, index: u32, table: &Table) -> anyhow::Result<()> {
        let mut lines: Vec<Line> = vec![bytemuck::cast(table.head())];
        lines.extend(table.lines());
        let inner =
            Array::<MapData, [u8; 64]>::create(lines.len() as u32, LOOKUP_TABLE_FLAGS).map_err(reason)?;
        sys::fill(inner.map(), bytemuck::cast_slice(&lines)).context("map a lookup table")?;
        self.tables.set(index, &inner, 0).map_err(reason)
    }

    /// What an earlier master left, as far as it can be read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn contents(&self) -> anyhow::Result<Contents> {
        let mut contents = Contents { settings: self.settings()?, ..Contents::default() };
        for entry in self.vips.iter() {
            let (key, vip) = entry.map_err(reason)?;
            contents.vips.insert(bytemuck::cast::<[u8; 20], VipKey>(key), vip);
        }
        for entry in self.prefixes.iter() {
            let (key, spans) = entry.map_err(reason)?;
            contents.prefixes.insert(prefix(&key), bytemuck::cast::<[u8; 64], Spans>(spans));
        }
        for vip in 0..VIPS_MAX {
            let row: VipRow = bytemuck::cast(self.vip_rows.get(&vip, 0).map_err(reason)?);
            if row.flags & VipRow::PRESENT != 0 {
                contents.vip_rows.insert(vip, row);
            }
        }
        for slot in 0..BACKENDS_MAX {
            let row: HopRow = bytemuck::cast(self.hops.get(&slot, 0).map_err(reason)?);
            if row != HopRow::default() {
                contents.hops.insert(slot, row);
            }
        }
        for index in 0..LOOKUP_TABLES_MAX {
            if let Some(table) = self.table(index) {
                contents.tables.insert(index, table);
            }
        }
        for entry in self.quic_servers.iter() {
            let (key, slot) = entry.map_err(reason)?;
            let key: lb_common::flow::QuicServerKey = bytemuck::cast(key);
            contents.quic_servers.insert((key.table, key.id), slot);
        }
        contents.networks = Arc::new(self.networks()?);
        for interface in self.ports.keys() {
            let interface = interface.map_err(reason)?;
            let through = self.ports.get(interface, 0).map_err(reason)?;
            contents.ports.insert(interface, through.if_index);
        }
        Ok(contents)
    }

    /// A lookup table as it is; `None` where there is none, or an empty one.
    fn table(&self, index: u32) -> Option<Table> {
        let inner = self.tables.get(&index, 0).ok()?;
        // Nobody writes into a table that is in use.
        let bytes = sys::read(inner.map()).ok()?;
        let (head, lines) = bytes.split_first_chunk::<{ size_of::<Head>() }>()?;
        let head: Head = bytemuck::cast(*head);
        let lines: Vec<Line> =
            lines.chunks_exact(size_of::<Line>()).map(bytemuck::pod_read_unaligned).collect();
        (head.rows > 0).then(|| Table::found(head, &lines))
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        Ok(bytemuck::cast(self.settings.get(&0, 0).map_err(reason)?))
    }

    fn networks(&self) -> anyhow::Result<Networks> {
        let mut networks = Networks::new();
        for entry in self.networks.iter() {
            let (key, guard) = entry.map_err(reason)?;
            let guard = if guard == Guard::Allow as u32 { Guard::Allow } else { Guard::Deny };
            networks.insert(prefix(&key), guard);
        }
        Ok(networks)
    }

    /// What was counted for a VIP.
    pub fn vip_traffic(&self, vip: u32) -> Traffic {
        traffic(&self.vip_counts, vip)
    }

    /// What was counted for a backend.
    pub fn backend_traffic(&self, slot: u32) -> Traffic {
        traffic(&self.backend_counts, slot)
    }

    /// Zeroes what was counted for a VIP or a backend that had the row before.
    pub fn forget_traffic(&mut self, vips: &[u32], slots: &[u32]) {
        for (map, rows) in [(&mut self.vip_counts, vips), (&mut self.backend_counts, slots)] {
            for row in rows {
                let cpus = map.get(row, 0).map(|values| values.len()).unwrap_or_default();
                if let Ok(zeroes) = aya::maps::PerCpuValues::try_from(vec![[0; 32]; cpus]) {
                    let _ = map.set(*row, zeroes, 0);
                }
            }
        }
    }

    /// How often each reason was counted.
    pub fn reasons(&self) -> BTreeMap<Reason, u64> {
        let count = |reason: &Reason| -> u64 {
            self.reasons.get(&(*reason as u32), 0).map_or(0, |values| values.iter().sum())
        };
        Reason::ALL.into_iter().map(|reason| (reason, count(&reason))).collect()
    }
}

impl Remembered for Maps {
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(&bytemuck::cast::<_, [u8; 40]>(*key), 0).ok().map(bytemuck::cast)
    }

    fn nat(&self, key: &FlowKey) -> Option<(NatFlow, bool)> {
        let key: [u8; 40] = bytemuck::cast(*key);
        let known = self.nat.get(&key, 0).ok().map(|flow| (bytemuck::cast(flow), false));
        known.or_else(|| self.nat_half_open.get(&key, 0).ok().map(|flow| (bytemuck::cast(flow), true)))
    }

    fn kept(&self, key: &SourceKey) -> Option<Kept> {
        self.affinity.get(&bytemuck::cast::<_, [u8; 20]>(*key), 0).ok().map(bytemuck::cast)
    }
}

fn typed<T>(object: &mut Steering, name: &str) -> anyhow::Result<T>
where
    T: TryFrom<Map, Error = MapError>,
{
    T::try_from(object.take(name)?).map_err(reason).with_context(|| format!("map {name}"))
}

fn trie_key(prefix: &Prefix) -> Key<[u8; 16]> {
    Key::new(prefix.bits, prefix.address)
}

fn prefix(key: &Key<[u8; 16]>) -> Prefix {
    Prefix { address: key.data(), bits: key.prefix_len() }
}

/// What is not there any more is removed.
fn gone(outcome: Result<(), MapError>) -> Result<(), MapError> {
    match outcome {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        outcome => outcome,
    }
}

fn traffic(map: &PerCpuArray<MapData, [u8; 32]>, row: u32) -> Traffic {
    let mut sum = Traffic::zeroed();
    for one in map.get(&row, 0).iter().flat_map(|values| values.iter()) {
        let one: Traffic = from_bytes(one);
        sum.packets = sum.packets.wrapping_add(one.packets);
        sum.bytes = sum.bytes.wrapping_add(one.bytes);
        sum.flows = sum.flows.wrapping_add(one.flows);
        sum.dropped = sum.dropped.wrapping_add(one.dropped);
    }
    sum
}

fn from_bytes<T: Pod>(bytes: &[u8]) -> T {
    bytemuck::pod_read_unaligned(bytes)
}
