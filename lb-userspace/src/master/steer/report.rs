//! What is told of steering: VIPs with their counts, and where a flow goes.
//!
//! Effectful: reads BPF maps.

use super::{Known, Loaded, Steer};
use crate::config::model::Address;
use crate::config::model::steering::{Forward, Mode, NatSource, Vip};
use crate::control::protocol::steering::{
    FlowReport, ReasonCount, SteeredInterface, TableUse, VipBackend, VipReport, VipStatus,
};
use crate::state::event::Slot;
use crate::steer::contents::Table;
use crate::steer::flow_lookup::{Ground, Question, look_up};
use crate::steer::room;
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
        let table = |name: &str, map: &str, entries: Option<u64>| TableUse {
            name: name.to_owned(),
            entries,
            entries_max: loaded.programs.room(map).into(),
        };
        report.tables = vec![
            table("nat", room::NAT, census.is_counted.then_some(census.entries)),
            table("nat_half_open", room::NAT_HALF_OPEN, None),
            table("flows", room::FLOWS, None),
        ];
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
            keeps_client: matches!(vip.forward, Forward::Remote { mode: Mode::Nat(NatSource::Client), .. }),
            gue_port: match vip.forward {
                Forward::Remote { mode: Mode::Gue { port, .. }, .. } => Some(port),
                _ => None,
            },
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
        let upstream = self.model.as_ref().and_then(|model| model.upstreams.get(vip.upstream()?));
        // As it was written: that in the row grows while a backend warms up.
        let weight = |slot: Slot, known: &Known| {
            let mut configured = upstream.into_iter().flat_map(|upstream| &upstream.backends);
            let address = Address::Tcp(known.address);
            let found = configured.find(|backend| backend.address == address);
            found.map_or_else(|| table.read(slot).weight, |backend| backend.weight)
        };
        if matches!(vip.forward, Forward::Remote { .. }) {
            status.backends = backends
                .map(|(slot, known)| {
                    let counted = loaded.maps.backend_traffic(slot.0);
                    VipBackend {
                        slot: slot.0,
                        name: known.name.clone(),
                        address: known.address.to_string(),
                        traffic_state: table.traffic(*slot).name().to_owned(),
                        weight: weight(*slot, known),
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

    /// Who gets a flow, and why; `None` where nothing is steered.
    pub fn flow(&self, question: Question, table: &BackendTable) -> Option<FlowReport> {
        let loaded = self.loaded.as_ref()?;
        let names = |slot: u32| {
            let known = self.known.get(&Slot(slot))?;
            Some((known.name.clone(), known.address.to_string()))
        };
        let ground = Ground {
            contents: &loaded.applied,
            vips: &loaded.plan.vips,
            rows: &|slot| table.read(Slot(slot)),
            names: &names,
            remembered: &loaded.maps,
            now_ns: Time::now().0,
        };
        Some(look_up(question, &ground))
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
}
