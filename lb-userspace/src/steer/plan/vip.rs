//! VIPs: their rows, and the keys by which packets find them.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::limits::{LOOKUP_TABLES_MAX, SPANS_PER_PREFIX_MAX, VIPS_MAX};
use lb_common::vip::{Forward as ForwardWord, Span, Spans, VipKey, VipRow};

use crate::config::model::steering::{Forward, Mode, NatSource, Vip, VipProtocol};
use crate::steer::contents::{Contents, Prefix, address_bytes};
use crate::steer::identity;

use super::Inputs;

/// The row of each VIP. One that is there keeps its row; a new one gets a row that was not in use, so that flows of a VIP
/// that is gone are not taken for its own.
pub fn indices(vips: &[Vip], applied: &Contents) -> Vec<u32> {
    let known: BTreeMap<u32, u32> =
        applied.vip_rows.iter().map(|(index, row)| (row.identity, *index)).collect();
    let mut allocation = Allocation::new(applied.vip_rows.keys().copied(), VIPS_MAX);
    let kept: Vec<Option<u32>> = vips
        .iter()
        .map(|vip| known.get(&identity_of(vip)).copied().filter(|index| allocation.keep(*index)))
        .collect();
    kept.into_iter().map(|index| index.unwrap_or_else(|| allocation.new_index())).collect()
}

/// The lookup table of each upstream that VIPs forward to: the one that it had in `before`, or, where there was no plan before, the one that its
/// VIPs used. Never one that a VIP of another upstream uses until its row is written.
pub fn table_indices(
    vips: &[Vip],
    before: &BTreeMap<String, u32>,
    applied: &Contents,
) -> BTreeMap<String, u32> {
    let users = users(vips, applied);
    let mut allocation = Allocation::new(applied.tables.keys().copied(), LOOKUP_TABLES_MAX);
    let mut tables = BTreeMap::new();
    let upstreams: BTreeSet<&str> = vips.iter().filter_map(remote_upstream).map(|(_, name)| name).collect();
    let is_there = |index: &u32| applied.tables.contains_key(index);
    for upstream in &upstreams {
        if let Some(index) = before.get(*upstream).copied().filter(is_there)
            && allocation.keep(index)
        {
            tables.insert((*upstream).to_owned(), index);
        }
    }
    for upstream in &upstreams {
        let mut own = users.iter().filter(|(_, names)| names.iter().eq([upstream])).map(|(index, _)| *index);
        if !tables.contains_key(*upstream)
            && let Some(index) = own.find(|index| is_there(index) && allocation.keep(*index))
        {
            tables.insert((*upstream).to_owned(), index);
        }
    }
    for upstream in upstreams {
        tables.entry(upstream.to_owned()).or_insert_with(|| allocation.new_index());
    }
    tables
}

/// By lookup table, the upstreams to which the VIPs that use it are to forward.
fn users<'a>(vips: &'a [Vip], applied: &Contents) -> BTreeMap<u32, BTreeSet<&'a str>> {
    let known: BTreeMap<u32, u32> = applied.vip_rows.values().map(|row| (row.identity, row.table)).collect();
    let mut users = BTreeMap::<u32, BTreeSet<&str>>::new();
    for (vip, upstream) in vips.iter().filter_map(remote_upstream) {
        if let Some(index) = known.get(&identity_of(vip)) {
            users.entry(*index).or_default().insert(upstream);
        }
    }
    users
}

fn remote_upstream(vip: &Vip) -> Option<(&Vip, &str)> {
    match &vip.forward {
        Forward::Local { .. } => None,
        Forward::Remote { upstream, .. } => Some((vip, upstream)),
    }
}

fn identity_of(vip: &Vip) -> u32 {
    identity::of_vip(&vip.address, vip.protocol.number())
}

/// Indices given out below a bound that validation keeps to.
struct Allocation {
    before: BTreeSet<u32>,
    taken: BTreeSet<u32>,
    end: u32,
}

impl Allocation {
    fn new(before: impl Iterator<Item = u32>, end: u32) -> Self {
        Self { before: before.collect(), taken: BTreeSet::new(), end }
    }

    /// False where somebody else has it already.
    fn keep(&mut self, index: u32) -> bool {
        index < self.end && self.taken.insert(index)
    }

    /// One that nobody had; where there is none, one that nobody has any more.
    fn new_index(&mut self) -> u32 {
        let mut free = (0..self.end).filter(|index| !self.taken.contains(index));
        let fresh = free.clone().find(|index| !self.before.contains(index));
        let index = fresh.or_else(|| free.next()).expect("validation bounds how many there are");
        self.taken.insert(index);
        index
    }
}

/// A VIP and its row.
type Placed<'a> = (&'a Vip, u32);

/// Rows, keys and prefixes of all VIPs.
pub fn fill(inputs: &Inputs<'_>, rows: &[u32], tables: &BTreeMap<String, u32>, contents: &mut Contents) {
    let vips: Vec<Placed<'_>> = inputs.model.steering.vips.iter().zip(rows.iter().copied()).collect();
    for (vip, index) in &vips {
        let table = remote_upstream(vip).and_then(|(_, upstream)| tables.get(upstream)).copied();
        let mut row = vip_row(vip, table.unwrap_or_default());
        // Where the interface is not there, nothing leaves by it.
        row.mtu = inputs.interfaces.get(&vip.interface).map_or(u32::MAX, |port| port.mtu);
        if vip.address.single().is_some_and(|address| inputs.own.contains(&address)) {
            row.flags |= VipRow::OWN;
        }
        contents.vip_rows.insert(*index, row);
    }
    let (spanned, exact): (Vec<Placed<'_>>, Vec<Placed<'_>>) =
        vips.iter().partition(|(vip, _)| vip.needs_span(vips.iter().map(|(other, _)| *other)));
    for (vip, row) in &exact {
        contents.vips.insert(exact_key(vip), *row);
    }
    for address in exact.iter().map(|(vip, _)| vip.address.network).collect::<BTreeSet<_>>() {
        let here = exact.iter().filter(|(vip, _)| vip.address.network == address);
        // Echo requests to an address that the host has as well are the host's to answer.
        let speaker = here.min_by_key(|(vip, row)| (!is_local(vip), *row));
        let key = VipKey::of_address(address_bytes(address.addr()));
        contents.vips.extend(speaker.map(|(_, row)| (key, *row)));
    }
    for (vip, _) in &spanned {
        contents.prefixes.insert(Prefix::from(vip.address.network), spans(vip, &spanned));
    }
}

fn is_local(vip: &Vip) -> bool {
    matches!(vip.forward, Forward::Local { .. })
}

fn exact_key(vip: &Vip) -> VipKey {
    VipKey {
        address: address_bytes(vip.address.network.addr()),
        port: vip.address.ports.single().unwrap_or_default().to_be_bytes(),
        protocol: vip.protocol.number(),
        zero: 0,
    }
}

/// The ranges of one network: its own and those of the networks around it, the nearest network first, fewer ports before more.
fn spans(of: &Vip, spanned: &[Placed<'_>]) -> Spans {
    let mut around: Vec<&Placed<'_>> =
        spanned.iter().filter(|(vip, _)| vip.address.network.contains(&of.address.network)).collect();
    around.sort_by_key(|(vip, row)| {
        let VipAddressOrder { prefix_bits, ports } = VipAddressOrder::of(vip);
        (std::cmp::Reverse(prefix_bits), ports, *row)
    });
    let mut spans = Spans { spans: [Span::default(); SPANS_PER_PREFIX_MAX] };
    for (span, (vip, row)) in spans.spans.iter_mut().zip(around) {
        *span = Span {
            first: vip.address.ports.first(),
            last: vip.address.ports.last(),
            vip: *row as u16,
            protocol: vip.protocol.number(),
            zero: 0,
        };
    }
    spans
}

/// By what the more specific of two VIPs is told.
struct VipAddressOrder {
    prefix_bits: u8,
    ports: u32,
}

impl VipAddressOrder {
    fn of(vip: &Vip) -> Self {
        Self { prefix_bits: vip.address.network.prefix_len(), ports: vip.address.ports.count() }
    }
}

fn vip_row(vip: &Vip, table: u32) -> VipRow {
    let mut row = VipRow {
        table,
        flags: VipRow::PRESENT,
        forward: forward_word(vip) as u8,
        protocol: vip.protocol.number(),
        identity: identity_of(vip),
        ..VipRow::default()
    };
    if let Forward::Remote { mode: Mode::Nat(NatSource::Client), .. } = &vip.forward {
        row.flags |= VipRow::KEEP_CLIENT;
    }
    if let Some(persistence) = vip.persistence {
        row.flags |= VipRow::AFFINITY;
        row.affinity_ms = millis(persistence);
    }
    if let Some(rate) = vip.new_flows {
        (row.source_rate, row.source_burst) = (rate.per_source.get(), rate.burst.get());
    }
    match vip.protocol {
        VipProtocol::Tcp { syn_rate } => row.syn_rate = syn_rate.map_or(0, u32::from),
        VipProtocol::Udp { idle_timeout, quic } => {
            row.idle_ms = millis(idle_timeout);
            row.quic_id_bytes = quic.map_or(0, |quic| quic.server_id_bytes);
            row.quic_configuration = quic.map_or(0, |quic| quic.configuration);
        }
    }
    row
}

fn forward_word(vip: &Vip) -> ForwardWord {
    match &vip.forward {
        Forward::Local { .. } => ForwardWord::Local,
        Forward::Remote { mode, .. } => mode.kind(),
    }
}

/// No duration of the configuration is longer than 30 days.
fn millis(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
