//! What the maps are to hold: from the configuration, the rows of backends and the ways to them.

mod hop;
mod table;
mod vip;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::backend::TrafficState;
use lb_common::vip::{Guard as GuardWord, Settings};

use super::contents::{Contents, Networks, Prefix};
use crate::config::model::steering::{Forward, Guard, Mode, Vip, VipProtocol};
use crate::config::model::{Address, Backend as Configured, Model};
use crate::master::steer::next_hop::NextHop;

/// The generation before is asked for flows that are not known for so long: a SYN that was lost once or twice is sent again within it
/// (RFC 6298, section 2: after 1 s, then after 2 s).
pub const STRADDLE: Duration = Duration::from_secs(3);
/// A lookup table changes no more often than this, so that a burst of changes is one generation and not many.
pub const CHANGE_EVERY: Duration = Duration::from_millis(250);
/// A translated TCP flow without a packet for so long is forgotten (RFC 5382, REQ-5: no less than 2 hours 4 minutes).
pub const NAT_TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// Mixed into every hash. The same on all nodes, which must decide alike.
const SEED: u32 = 0x6c62_6374;

/// What the plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration.
    pub model: &'a Model,
    /// [`networks`] of its `[guard]`; made once per configuration.
    pub networks: &'a Arc<Networks>,
    /// Every backend with an IP address that has a row, those that leave included.
    pub backends: &'a [Backend],
    /// The ways that are known.
    pub hops: &'a BTreeMap<IpAddr, NextHop>,
    /// The interfaces that carry our program, by name.
    pub interfaces: &'a BTreeMap<String, Port>,
    /// Addresses of this host.
    pub own: &'a BTreeSet<IpAddr>,
    /// [`Plan::tables`] of the plan before, where there was one since the master began.
    pub tables: &'a BTreeMap<String, u32>,
    /// What is captured.
    pub capture: Option<&'a Capture>,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

/// An interface that carries our program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub index: u32,
    /// The largest IP packet that it takes.
    pub mtu: u32,
    /// The numbers of those that it is made of, as a bond is: frames come from them, and leave by it.
    pub members: Vec<u32>,
}

/// A backend with what its row in `BACKENDS` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The name of its upstream.
    pub upstream: String,
    /// Its row.
    pub slot: u16,
    /// Its instance.
    pub instance: u64,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its traffic state.
    pub state: TrafficState,
    /// Its weight, already reduced while warming.
    pub weight: u32,
}

/// A capture that is running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The name of the VIP.
    pub vip: String,
    /// [`Settings::capture_mask`].
    pub mask: u32,
}

/// What the maps are to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Every map.
    pub contents: Contents,
    /// The row of each VIP, by its name.
    pub vips: BTreeMap<String, u32>,
    /// The lookup table of each upstream.
    pub tables: BTreeMap<String, u32>,
    /// When the plan is to be made again although nothing has happened, nanoseconds of `CLOCK_MONOTONIC`: a lookup table has changed
    /// lately and waits for its next change.
    pub due_at_ns: Option<u64>,
}

/// The plan, as near to `applied` as it may be: rows and tables keep their index, and what has not changed is shared.
pub fn plan(inputs: &Inputs<'_>, applied: &Contents) -> Plan {
    let vips = &inputs.model.steering.vips;
    let rows = vip::indices(vips, applied);
    let tables = vip::table_indices(vips, inputs.tables, applied);
    let mut plan = Plan {
        vips: vips.iter().map(|vip| vip.name.clone()).zip(rows.iter().copied()).collect(),
        ..Plan::default()
    };
    let contents = &mut plan.contents;
    contents.networks = Arc::clone(inputs.networks);
    vip::fill(inputs, &rows, &tables, contents);
    for (upstream, index) in &tables {
        let backends = of_upstream(inputs, upstream);
        let (table, due_at_ns) = table::next(&backends, inputs, applied.tables.get(index));
        contents.tables.insert(*index, table);
        plan.due_at_ns = [plan.due_at_ns, due_at_ns].into_iter().flatten().min();
    }
    hop::fill(inputs, applied, contents);
    fill_quic_servers(inputs, &tables, contents);
    let ways = contents.hops.values().map(|hop| hop.interface).filter(|interface| *interface != 0);
    let ports = inputs.interfaces.values().flat_map(|port| {
        let members = port.members.iter().map(|member| (*member, port.index));
        members.chain([(port.index, port.index)])
    });
    contents.ports = ports.chain(ways.map(|interface| (interface, interface))).collect();
    contents.settings = settings(inputs, &plan.vips, contents);
    plan.tables = tables;
    plan
}

/// The lists of `[guard]` as the map has them.
pub fn networks(guard: &Guard) -> Networks {
    let denied = guard.deny.iter().map(|network| (Prefix::from(*network), GuardWord::Deny));
    let allowed = guard.allow.iter().map(|network| (Prefix::from(*network), GuardWord::Allow));
    denied.chain(allowed).collect()
}

/// A backend of an upstream with what only the configuration and the routes know of it.
struct Candidate<'a> {
    backend: &'a Backend,
    /// Gets traffic only where no other may.
    is_backup: bool,
    /// Whether a way to it is known.
    has_way: bool,
}

fn of_upstream<'a>(inputs: &Inputs<'a>, upstream: &str) -> Vec<Candidate<'a>> {
    let configured = configured(inputs.model, upstream);
    let candidates = inputs.backends.iter().filter(|backend| backend.upstream == upstream);
    let mut candidates: Vec<Candidate<'_>> = candidates
        .map(|backend| Candidate {
            backend,
            is_backup: configured.get(&backend.address).is_some_and(|configured| configured.backup),
            has_way: inputs.hops.contains_key(&backend.address.ip()),
        })
        .collect();
    candidates.sort_by_key(|candidate| candidate.backend.slot);
    candidates
}

/// What the configuration says of the backends of an upstream; those that leave are not among them.
fn configured<'a>(model: &'a Model, upstream: &str) -> BTreeMap<SocketAddr, &'a Configured> {
    let backends = model.upstreams.get(upstream).into_iter().flat_map(|upstream| &upstream.backends);
    let by_address = backends.filter_map(|backend| match backend.address {
        Address::Tcp(address) => Some((address, backend)),
        Address::Unix(_) => None,
    });
    by_address.collect()
}

/// Where connection ids lead to.
fn fill_quic_servers(inputs: &Inputs<'_>, tables: &BTreeMap<String, u32>, contents: &mut Contents) {
    let reads_ids = |vip: &&Vip| matches!(vip.protocol, VipProtocol::Udp { quic: Some(_), .. });
    let vips = inputs.model.steering.vips.iter().filter(reads_ids);
    for upstream in vips.filter_map(Vip::upstream).collect::<BTreeSet<_>>() {
        let Some(table) = tables.get(upstream) else { continue };
        let configured = configured(inputs.model, upstream);
        for backend in inputs.backends.iter().filter(|backend| backend.upstream == upstream) {
            let server_id =
                configured.get(&backend.address).map_or(&[][..], |configured| &configured.server_id);
            let mut id = [0; 8];
            id.iter_mut().zip(server_id).for_each(|(byte, written)| *byte = *written);
            if !server_id.is_empty() {
                contents.quic_servers.insert((*table, id), u32::from(backend.slot));
            }
        }
    }
}

fn settings(inputs: &Inputs<'_>, rows: &BTreeMap<String, u32>, contents: &Contents) -> Settings {
    let steering = &inputs.model.steering;
    let modes = || {
        steering.vips.iter().filter_map(|vip| match &vip.forward {
            Forward::Local { .. } => None,
            Forward::Remote { mode, .. } => Some(*mode),
        })
    };
    let flags = [
        (modes().any(|mode| !mode.is_direct()), Settings::NAT),
        (modes().any(Mode::is_direct), Settings::DIRECT),
        (!contents.networks.is_empty(), Settings::GUARD),
        (!contents.prefixes.is_empty(), Settings::PREFIXES),
        (steering.guard.is_allow_only(), Settings::ALLOW_ONLY),
    ];
    let captured =
        inputs.capture.and_then(|capture| Some((rows.get(&capture.vip)?.checked_add(1)?, capture.mask)));
    Settings {
        flags: flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum(),
        seed: SEED,
        captured_vip: captured.map_or(0, |(vip, _)| vip),
        capture_mask: captured.map_or(0, |(_, mask)| mask),
        straddle_ms: STRADDLE.as_millis() as u32,
        tcp_idle_ms: NAT_TCP_IDLE.as_millis() as u32,
        ..Settings::default()
    }
}

#[cfg(test)]
pub(in crate::steer) mod tests;
