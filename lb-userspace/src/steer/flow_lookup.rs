//! Who gets a flow, and why: `lbctl flow lookup`.
//!
//! The answer is not made from rules told a second time: a packet of the flow is put through the decisions that the kernel runs, on
//! tables that hold what the kernel's do.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::backend::{BackendRow, TrafficState};
use lb_common::flow::{Flow, FlowKey, Kept, NatFlow, SourceKey};
use lb_common::forward::{forward, vip};
use lb_common::hash;
use lb_common::hop::HopRow;
use lb_common::host::{HostFrame, HostTables, Packet, World};
use lb_common::limits::BACKENDS_MAX;
use lb_common::lookup::NOBODY;
use lb_common::packet::parse::parse;
use lb_common::verdict::{Reason, Verdict};
use lb_common::vip::{Forward, Settings, VipRow};

use super::contents::{Contents, Networks, Prefix, Table};
use crate::control::protocol::steering::{FlowBackend, FlowFound, FlowReport, Transport};

/// A flow that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub client: SocketAddr,
    /// To whom.
    pub vip: SocketAddr,
    /// Over what.
    pub transport: Transport,
}

/// What the kernel remembers.
pub trait Remembered {
    /// `FLOWS`.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// `NAT`, or `NAT_HALF_OPEN`: then true.
    fn nat(&self, key: &FlowKey) -> Option<(NatFlow, bool)>;
    /// `AFFINITY`.
    fn kept(&self, key: &SourceKey) -> Option<Kept>;
}

/// What the answer is made from.
pub struct Ground<'a> {
    /// What the maps hold.
    pub contents: &'a Contents,
    /// The row of each VIP, by its name.
    pub vips: &'a BTreeMap<String, u32>,
    /// Rows of `BACKENDS`.
    pub rows: &'a dyn Fn(u32) -> BackendRow,
    /// Name and address of the backend in a slot.
    pub names: &'a dyn Fn(u32) -> Option<(String, String)>,
    /// What the kernel remembers.
    pub remembered: &'a dyn Remembered,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

/// The answer.
pub fn look_up(question: Question, ground: &Ground<'_>) -> FlowReport {
    let Question { client, vip, transport } = question;
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, vip) = (canonical(client), canonical(vip));
    let nothing = |why: &str| FlowReport {
        client,
        vip,
        transport,
        vip_name: None,
        forward: String::new(),
        found: FlowFound::Nothing,
        backend: None,
        why: why.to_owned(),
    };
    if client.is_ipv4() != vip.is_ipv4() {
        return nothing("client and VIP are not of the same address family");
    }
    let mut look = Look::new(Question { client, vip, transport }, ground);
    let Some(index) = look.vip else {
        return nothing("no VIP has this address, port and protocol: up the stack of this host");
    };
    let row = ground.contents.vip_rows.get(&index).copied().unwrap_or_default();
    let name = ground.vips.iter().find(|(_, row)| **row == index).map(|(name, _)| name.clone());
    let found = look.remember(&row, index);
    let verdict = look.decide();
    let slot = look.chosen();
    FlowReport {
        vip_name: name,
        forward: Forward::from_raw(row.forward).name().to_owned(),
        why: look.why(verdict, slot, &found),
        backend: slot.filter(|_| !matches!(verdict, Verdict::Drop(_))).map(|slot| look.backend(slot)),
        found: look.told(found, &row),
        ..nothing("")
    }
}

/// A look-up under way.
struct Look<'a> {
    question: Question,
    ground: &'a Ground<'a>,
    tables: HostTables,
    key: FlowKey,
    vip: Option<u32>,
    opens: bool,
}

/// What was remembered of the flow.
enum Found {
    Flow(Flow),
    Nat(NatFlow, bool),
    Kept(Kept),
    Nothing,
}

impl<'a> Look<'a> {
    fn new(question: Question, ground: &'a Ground<'a>) -> Self {
        let mut tables = HostTables::new(World {
            settings: Settings { captured_vip: 0, ..ground.contents.settings },
            vips: ground.contents.vips.iter().map(|(key, vip)| (*key, *vip)).collect(),
            prefixes: prefixes(ground.contents),
            ..World::default()
        });
        tables.now_ns = ground.now_ns;
        let frame = HostFrame::new(&packet(question, Packet::SYN).frame(), 0);
        let parsed = parse(&frame).ok();
        let vip = parsed.as_ref().and_then(|packet| vip::of_packet(&tables, packet));
        let key = parsed.map(|packet| packet.key).unwrap_or_default();
        let mut look = Self { question, ground, tables, key, vip, opens: true };
        if let Some(vip) = vip {
            look.fill(vip);
        }
        look
    }

    /// What else is needed to decide about packets to this VIP.
    fn fill(&mut self, vip: u32) {
        let contents = self.ground.contents;
        let world = &mut self.tables.world;
        let rows = contents.vip_rows.keys().max().map_or(0, |last| last + 1);
        world.vip_rows =
            (0..rows).map(|row| contents.vip_rows.get(&row).copied().unwrap_or_default()).collect();
        let index = contents.vip_rows.get(&vip).map_or(0, |row| row.table);
        let nobody = Table::empty(0);
        world.tables = (0..=index)
            .map(|each| contents.tables.get(&each).filter(|_| each == index).unwrap_or(&nobody))
            .map(|table| (table.head(), table.rows.to_vec()))
            .collect();
        world.backends = (0..BACKENDS_MAX).map(self.ground.rows).collect();
        world.hops = (0..BACKENDS_MAX)
            .map(|slot| contents.hops.get(&slot).copied().unwrap_or_default())
            .collect::<Vec<HopRow>>();
        world.networks = around(&contents.networks, &self.key.source);
    }

    /// Puts what the kernel remembers of the flow into the tables.
    fn remember(&mut self, row: &VipRow, vip: u32) -> Found {
        let (key, tables) = (self.key, &self.tables);
        if let Some((nat, is_half_open)) = self.ground.remembered.nat(&key) {
            let into = |half: bool| if half { &tables.half_open } else { &tables.nat };
            into(is_half_open).set(&key, nat);
            let back = FlowKey {
                source: nat.target,
                target: nat.source,
                source_port: nat.target_port,
                target_port: nat.source_port,
                ..key
            };
            if let Some((back_flow, is_half_open)) = self.ground.remembered.nat(&back) {
                into(is_half_open).set(&back, back_flow);
            }
            self.opens = is_half_open;
            return Found::Nat(nat, is_half_open);
        }
        if let Some(flow) = self.ground.remembered.flow(&key) {
            tables.flows.set(&key, flow);
            // Whoever has closed begins anew with the same ports.
            self.opens = flow.flags & Flow::CLOSING != 0;
            return Found::Flow(flow);
        }
        let source = SourceKey { address: key.source, vip };
        match self.ground.remembered.kept(&source).filter(|_| row.flags & VipRow::AFFINITY != 0) {
            Some(kept) => {
                tables.affinity.set(&source, kept);
                Found::Kept(kept)
            }
            None => Found::Nothing,
        }
    }

    /// The decision about the flow's next packet.
    fn decide(&self) -> Verdict {
        let flags = if self.opens { Packet::SYN } else { Packet::ACK };
        forward(&mut HostFrame::new(&packet(self.question, flags).frame(), 0), &self.tables)
    }

    /// Who was counted.
    fn chosen(&self) -> Option<u32> {
        (0..BACKENDS_MAX).find(|slot| self.tables.backend_count(*slot).packets > 0)
    }

    fn state(&self, slot: u32) -> TrafficState {
        (self.ground.rows)(slot).traffic()
    }

    fn backend(&self, slot: u32) -> FlowBackend {
        let unknown = || (format!("slot {slot}"), String::new());
        let (name, address) = (self.ground.names)(slot).unwrap_or_else(unknown);
        FlowBackend { slot, name, address, traffic_state: self.state(slot).name().to_owned() }
    }

    fn why(&self, verdict: Verdict, slot: Option<u32>, found: &Found) -> String {
        let known = match found {
            Found::Flow(flow) => Some(flow.slot),
            Found::Nat(flow, _) => Some(flow.slot),
            Found::Kept(_) | Found::Nothing => None,
        };
        let fate = match (verdict, slot) {
            (Verdict::Pass, _) => return "the VIP is local: up the stack of this host".to_owned(),
            (Verdict::Drop(reason), _) => format!("dropped: {}", reason.text()),
            (_, None) => self.answered().to_owned(),
            (_, Some(slot)) if known == Some(slot) => {
                return match self.state(slot) {
                    TrafficState::Draining => {
                        "the flow is known, and a backend that drains keeps the flows that it has"
                    }
                    _ => "the flow is known",
                }
                .to_owned();
            }
            (_, Some(slot)) if matches!(found, Found::Kept(kept) if kept.slot == slot) => {
                return "the client's address keeps this backend".to_owned();
            }
            (_, Some(slot)) => match self.place().is_some_and(|(_, table)| table.now == slot as u16) {
                true => "the row of the lookup table leads to it",
                false => "the row's backend takes no new flows, and the rows that follow from it lead here",
            }
            .to_owned(),
        };
        match known {
            Some(before) if slot != Some(before) => {
                let name = self.backend(before).name;
                format!("{fate}; the flow was known, but {name} has died, or the flow has ended")
            }
            _ => fate,
        }
    }

    /// What was answered in a backend's stead.
    fn answered(&self) -> &'static str {
        Reason::ALL
            .into_iter()
            .find(|reason| self.tables.reason_count(*reason) > 0)
            .map_or("nobody was asked", Reason::text)
    }

    /// The flow's row of the lookup table.
    fn place(&self) -> Option<(u32, lb_common::lookup::LookupRow)> {
        let row = self.tables.world.vip_rows.get(self.vip? as usize)?;
        let (head, rows) = self.tables.world.tables.get(row.table as usize)?;
        let seed = self.tables.world.settings.seed;
        let hash = match row.flags & VipRow::AFFINITY != 0 {
            true => hash::of_source(&self.key, seed),
            false => hash::of_flow(&self.key, seed),
        };
        let index = hash::row(hash, head.rows);
        Some((index, *rows.get(index as usize)?))
    }

    fn told(&self, found: Found, row: &VipRow) -> FlowFound {
        let idle_ms = |seen_at_ns: u64| self.ground.now_ns.saturating_sub(seen_at_ns) / 1_000_000;
        match found {
            Found::Flow(flow) => FlowFound::Known {
                idle_ms: idle_ms(flow.seen_at_ns),
                flags: flags(flow.flags, &[(Flow::CLOSING, "closing")]),
            },
            Found::Nat(flow, is_half_open) => FlowFound::Translated {
                source: socket(&flow.source, flow.source_port),
                target: socket(&flow.target, flow.target_port),
                idle_ms: idle_ms(flow.seen_at_ns),
                is_half_open,
                flags: flags(
                    flow.flags,
                    &[
                        (NatFlow::ANSWERED, "answered"),
                        (NatFlow::CLIENT_FINISHED, "client_finished"),
                        (NatFlow::BACKEND_FINISHED, "backend_finished"),
                        (NatFlow::RESET, "reset"),
                        (NatFlow::COOKIE_OPENING, "cookie_opening"),
                    ],
                ),
            },
            Found::Kept(_) | Found::Nothing => {
                let table = self.ground.contents.tables.get(&row.table);
                let (Some((place, lead)), Some(table)) = (self.place(), table) else {
                    return FlowFound::Nothing;
                };
                let backend = |slot: u16| (slot != NOBODY).then(|| self.backend(slot.into()));
                FlowFound::Row {
                    row: place,
                    rows: table.rows.len() as u32,
                    generation: table.generation,
                    since_ms: idle_ms(table.since_ns),
                    now: backend(lead.now),
                    before: backend(lead.before),
                }
            }
        }
    }
}

fn packet(question: Question, flags: u8) -> Packet {
    match question.transport {
        Transport::Tcp => Packet::tcp(question.client, question.vip, flags, &[]),
        Transport::Udp => Packet::udp(question.client, question.vip, &[]),
    }
}

fn prefixes(contents: &Contents) -> Vec<([u8; 16], u32, lb_common::vip::Spans)> {
    contents.prefixes.iter().map(|(prefix, spans)| (prefix.address, prefix.bits, *spans)).collect()
}

/// The networks that hold an address: at most one for each length, of a million.
fn around(networks: &Networks, address: &[u8; 16]) -> Vec<([u8; 16], u32, lb_common::vip::Guard)> {
    let bits = u128::from_be_bytes(*address);
    let prefix = |length: u32| {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        Prefix { address: (bits & mask).to_be_bytes(), bits: length }
    };
    let held = (0..=128).map(prefix).filter_map(|prefix| Some((prefix, *networks.get(&prefix)?)));
    held.map(|(prefix, guard)| (prefix.address, prefix.bits, guard)).collect()
}

fn flags(raw: u16, names: &[(u16, &str)]) -> Vec<String> {
    names.iter().filter(|(flag, _)| raw & flag != 0).map(|(_, name)| (*name).to_owned()).collect()
}

/// An address of the maps.
fn socket(address: &[u8; 16], port: [u8; 2]) -> SocketAddr {
    let address = std::net::Ipv6Addr::from(*address).to_canonical();
    SocketAddr::new(address, u16::from_be_bytes(port))
}

#[cfg(test)]
mod tests;
