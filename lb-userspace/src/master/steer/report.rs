//! What is told of steering: VIPs with their counts, and where a flow goes.
//!
//! Effectful: reads BPF maps.

use std::net::{IpAddr, SocketAddr};

use lb_common::flow::{Flow, FlowKey, NatFlow};
use lb_common::hash;
use lb_common::limits::NAT_ENTRIES_MAX;
use lb_common::lookup::NOBODY;
use lb_common::vip::VipRow;

use super::{Known, Loaded, Steer};
use crate::config::model::steering::{Forward, Vip};
use crate::control::protocol::steering::{
    FlowBackend, FlowFound, FlowReport, ReasonCount, SteeredInterface, TableUse, Transport, VipBackend,
    VipReport, VipStatus,
};
use crate::state::event::Slot;
use crate::steer::contents::{Table, address_bytes};
use crate::table::BackendTable;
use crate::time::Time;

impl Steer {
    /// What is steered, with the counts as they are.
    pub fn report(&self, table: &BackendTable) -> VipReport {
        let Some(model) = &self.model else { return VipReport::default() };
        let census = self.loaded.as_ref().map(|loaded| loaded.expiry.census()).unwrap_or_default();
        let vips = model.steering.vips.iter().map(|vip| {
            let mut status = self.vip_status(vip, table);
            let row = self.loaded.as_ref().and_then(|loaded| loaded.plan.vips.get(&vip.name));
            let is_nat = status.forward == "nat" && census.is_counted;
            status.flows = row
                .filter(|_| is_nat)
                .map(|row| census.flows.get(&(*row as u16)).copied().unwrap_or_default());
            status
        });
        let mut report = VipReport { at_ns: Time::now().0, vips: vips.collect(), ..VipReport::default() };
        let Some(loaded) = &self.loaded else { return report };
        report.interfaces = loaded.interfaces();
        let reasons = loaded.maps.reasons().into_iter().filter(|(_, packets)| *packets > 0);
        report.reasons = reasons
            .map(|(reason, packets)| ReasonCount {
                reason: reason.name().to_owned(),
                is_answer: reason.is_answer(),
                packets,
            })
            .collect();
        let flows =
            TableUse { name: "flows".into(), entries: None, entries_max: model.steering.flows.into() };
        let entries = census.is_counted.then_some(census.entries);
        let nat = TableUse { name: "nat".into(), entries, entries_max: NAT_ENTRIES_MAX.into() };
        report.tables = vec![nat, flows];
        report
    }

    fn vip_status(&self, vip: &Vip, table: &BackendTable) -> VipStatus {
        let mut status = VipStatus {
            name: vip.name.clone(),
            address: vip.address.to_string(),
            protocol: vip.protocol.name().to_owned(),
            forward: match &vip.forward {
                Forward::Local { .. } => "local",
                Forward::Remote { mode, .. } => mode.name(),
            }
            .to_owned(),
            interface: vip.interface.clone(),
            mode: "off".to_owned(),
            upstream: vip.upstream().unwrap_or_default().to_owned(),
            ..VipStatus::default()
        };
        let Some(loaded) = &self.loaded else { return status };
        if let Some(attachment) = loaded.steered.get(&vip.interface) {
            attachment.mode.name().clone_into(&mut status.mode);
        }
        if matches!(vip.forward, Forward::Local { .. }) {
            "local".clone_into(&mut status.mode);
        }
        if let Some(row) = loaded.plan.vips.get(&vip.name) {
            let counted = loaded.maps.vip_traffic(*row);
            (status.packets, status.bytes) = (counted.packets, counted.bytes);
            (status.new_flows, status.dropped) = (counted.flows, counted.dropped);
        }
        let index = vip.upstream().and_then(|upstream| loaded.plan.tables.get(upstream));
        let lookup = index.and_then(|index| loaded.applied.tables.get(index));
        if let Some(lookup) = lookup {
            status.rows = lookup.rows.len() as u32;
            status.generation = lookup.generation;
        }
        let shares = lookup.map(Table::shares).unwrap_or_default();
        let backends = self.known.iter().filter(|(_, known)| Some(known.upstream.as_str()) == vip.upstream());
        if matches!(vip.forward, Forward::Remote { .. }) {
            status.backends = backends
                .map(|(slot, known)| {
                    let counted = loaded.maps.backend_traffic(slot.0);
                    VipBackend {
                        slot: slot.0,
                        name: known.name.clone(),
                        address: known.address.to_string(),
                        traffic_state: table.traffic(*slot).name().to_owned(),
                        weight: table.read(*slot).weight,
                        rows: shares.get(&(slot.0 as u16)).copied().unwrap_or_default(),
                        packets: counted.packets,
                        bytes: counted.bytes,
                        new_flows: counted.flows,
                        trouble: loaded
                            .trouble(known.address.ip())
                            .map(ToString::to_string)
                            .unwrap_or_default(),
                    }
                })
                .collect();
        }
        status
    }

    /// Where a flow goes, or would go.
    pub fn flow(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        transport: Transport,
        table: &BackendTable,
    ) -> FlowReport {
        let mut report = FlowReport {
            client,
            vip,
            transport,
            vip_name: None,
            forward: String::new(),
            found: FlowFound::Nothing,
            backend: None,
            why: "no VIP has this address, port and protocol".to_owned(),
        };
        let Some(of) = self.vip_of(vip, transport) else { return report };
        report.vip_name = Some(of.name.clone());
        let Forward::Remote { upstream, mode } = &of.forward else {
            "local".clone_into(&mut report.forward);
            "its packets go up the stack of this host".clone_into(&mut report.why);
            return report;
        };
        mode.name().clone_into(&mut report.forward);
        let Some(loaded) = &self.loaded else {
            "steering is off".clone_into(&mut report.why);
            return report;
        };
        let key = FlowKey {
            source: address_bytes(client.ip()),
            target: address_bytes(vip.ip()),
            source_port: client.port().to_be_bytes(),
            target_port: vip.port().to_be_bytes(),
            protocol: transport.number(),
            zero: [0; 3],
        };
        let now = Time::now();
        let known =
            if mode.is_direct() { loaded.known_flow(&key, now) } else { loaded.translated(&key, now) };
        if let Some((found, slot, instance)) = known {
            let row = table.read(slot);
            let keeps = row.instance == instance && row.traffic() as u32 != 0;
            report.found = found;
            if keeps {
                report.backend = Some(self.flow_backend(slot, table));
                "the flow is known, and its backend may keep it".clone_into(&mut report.why);
            } else {
                "the flow is known, but its backend is out: its next packet makes it forgotten"
                    .clone_into(&mut report.why);
            }
            return report;
        }
        self.by_row(loaded, upstream, of, &key, table, &mut report);
        report
    }

    /// By the lookup table, as the kernel does (`lb_common::forward::choose`), marks and kept clients left out.
    fn by_row(
        &self,
        loaded: &Loaded,
        upstream: &str,
        vip: &Vip,
        key: &FlowKey,
        table: &BackendTable,
        report: &mut FlowReport,
    ) {
        let lookup = loaded.plan.tables.get(upstream).and_then(|index| loaded.applied.tables.get(index));
        let Some(lookup) = lookup.filter(|lookup| !lookup.rows.is_empty()) else {
            "its upstream has no lookup table yet".clone_into(&mut report.why);
            return;
        };
        let seed = loaded.applied.settings.seed;
        let row = loaded.plan.vips.get(&vip.name).and_then(|row| loaded.applied.vip_rows.get(row));
        let by_source = row.is_some_and(|row| row.flags & VipRow::AFFINITY != 0);
        let mut place = if by_source { hash::of_source(key, seed) } else { hash::of_flow(key, seed) };
        let rows = lookup.rows.len() as u32;
        let first = hash::row(place, rows);
        let at = |row: u32| lookup.rows.get(row as usize).copied();
        let named = |slot: u16| (slot != NOBODY).then(|| self.flow_backend(Slot(slot.into()), table));
        let Some(there) = at(first) else { return };
        report.found = FlowFound::Row {
            row: first,
            rows,
            generation: lookup.generation,
            since_ms: Time::now().since(Time(lookup.since_ns)).as_millis() as u64,
            now: named(there.now),
            before: named(there.before),
        };
        let takes_new = |slot: u16| slot != NOBODY && table.traffic(Slot(slot.into())).takes_new();
        let mut slot = there.now;
        for tries in 0..=lb_common::limits::LOOKUP_TRIES_MAX {
            if takes_new(slot) {
                report.backend = named(slot);
                report.why = match tries {
                    0 => "no entry is known: a new flow goes by its row".to_owned(),
                    _ => format!("the backend of its row takes nothing new: {tries} rows further one does"),
                };
                return;
            }
            place = hash::next(place);
            slot = at(hash::row(place, rows)).map_or(NOBODY, |row| row.now);
        }
        "no backend of its rows takes new flows: dropped as no_backend".clone_into(&mut report.why);
    }

    /// The VIP that a packet is for: one port first, then ranges, then every port.
    fn vip_of(&self, address: SocketAddr, transport: Transport) -> Option<&Vip> {
        let vips = self.model.as_ref()?.steering.vips.iter();
        let ours = vips.filter(|vip| {
            vip.protocol.number() == transport.number()
                && vip.address.network.contains(&address.ip())
                && (vip.address.ports.is_every() || vip.address.ports.holds(address.port()))
        });
        ours.max_by_key(|vip| {
            let ports = vip.address.ports;
            (vip.address.network.prefix_len(), u32::MAX - ports.count())
        })
    }

    fn flow_backend(&self, slot: Slot, table: &BackendTable) -> FlowBackend {
        let known = self.known.get(&slot);
        let text = |of: fn(&Known) -> String| known.map(of).unwrap_or_default();
        FlowBackend {
            slot: slot.0,
            name: text(|known| known.name.clone()),
            address: text(|known| known.address.to_string()),
            traffic_state: table.traffic(slot).name().to_owned(),
        }
    }
}

impl Loaded {
    fn interfaces(&self) -> Vec<SteeredInterface> {
        let mtu = |index| self.ways.network().interface(index).map_or(0, |interface| interface.mtu);
        let interfaces = self.steered.values().map(|attachment| SteeredInterface {
            name: attachment.name.clone(),
            index: attachment.interface,
            mode: attachment.mode.name().to_owned(),
            outlives: true,
            mtu: mtu(attachment.interface),
        });
        interfaces.collect()
    }

    fn known_flow(&self, key: &FlowKey, now: Time) -> Option<(FlowFound, Slot, u64)> {
        let flow = self.maps.flow(key)?;
        let flags = if flow.flags & Flow::CLOSING != 0 { vec!["closing".to_owned()] } else { Vec::new() };
        let found = FlowFound::Known { idle_ms: idle_ms(flow.seen_at_ns, now), flags };
        Some((found, Slot(flow.slot), flow.instance))
    }

    fn translated(&self, key: &FlowKey, now: Time) -> Option<(FlowFound, Slot, u64)> {
        let (flow, is_half_open) = self.maps.nat(key)?;
        let other = self.maps.nat(&super::expiry::other_direction(key, &flow)).map(|(other, _)| other);
        let all = flow.flags | other.map_or(0, |other| other.flags);
        let names = [
            (NatFlow::ANSWERED, "answered"),
            (NatFlow::CLIENT_FINISHED, "client_finished"),
            (NatFlow::BACKEND_FINISHED, "backend_finished"),
            (NatFlow::RESET, "reset"),
            (NatFlow::COOKIE_OPENING, "cookie_opening"),
        ];
        let set = names.into_iter().filter(|(flag, _)| all & flag != 0);
        let seen_at_ns = other.map_or(flow.seen_at_ns, |other| other.seen_at_ns.max(flow.seen_at_ns));
        let found = FlowFound::Translated {
            source: socket(flow.source, flow.source_port),
            target: socket(flow.target, flow.target_port),
            idle_ms: idle_ms(seen_at_ns, now),
            is_half_open,
            flags: set.map(|(_, name)| name.to_owned()).collect(),
        };
        Some((found, Slot(flow.slot), flow.instance))
    }
}

fn idle_ms(seen_at_ns: u64, now: Time) -> u64 {
    now.since(Time(seen_at_ns)).as_millis() as u64
}

fn socket(address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(IpAddr::from(address).to_canonical(), u16::from_be_bytes(port))
}
