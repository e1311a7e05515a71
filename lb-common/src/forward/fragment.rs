//! Stage `Fragment`: parts of datagrams, of which only the first has ports. It leaves them for the others.
//!
//! A part that overtakes the first is dropped: it would have to wait somewhere, and whoever sends it sends the datagram again.

use super::deliver::{Way, deliver};
use super::{Stage, Step, drop, limit, nat, vip};
use crate::flow::{FragmentKey, FragmentPorts};
use crate::packet::parse::{self, ICMP, ICMPV6, Network, Packet, Part, Unparsed, network, parse_beginning};
use crate::packet::translate::Extent;
use crate::packet::{Frame, tcp, udp};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::Settings;

const PASS: Step = Step::Done(Verdict::Pass);
/// Parts come within this time of the first; as long as Linux waits for them (`net.ipv4.ipfrag_time`).
const PARTS_NS: u64 = 30_000_000_000;

/// The stage.
#[inline(always)]
pub fn fragment<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(network) = network(frame) else { return PASS };
    let network = network.joined(frame);
    match (network.protocol, network.part) {
        (ICMP | ICMPV6, Part::Whole) => Step::Next(Stage::Icmp),
        (tcp::PROTOCOL | udp::PROTOCOL, Part::Later) => later(frame, tables, &network),
        (tcp::PROTOCOL | udp::PROTOCOL, _) => first(frame, tables, &network),
        _ => unknown(tables, &network.target()),
    }
}

/// Remembers the ports of what is ours, then as any packet.
#[inline(always)]
fn first<F: Frame, T: Tables>(frame: &F, tables: &T, network: &Network) -> Step {
    let packet = match parse_beginning(frame) {
        Ok(packet) => packet,
        Err(Unparsed::Fault(_)) => return Step::Next(Stage::Malformed),
        Err(_) => return PASS,
    };
    match vip::of_packet(tables, &packet) {
        Some(vip) if tables.vip_row(vip).is_none_or(vip::is_local) => {
            // What nobody has the beginning of is never put together.
            let is_denied = limit::is_denied(tables, &packet.key.source);
            return if is_denied { drop(tables, vip, Reason::Denied) } else { PASS };
        }
        None if !is_reply(tables, &packet) => return PASS,
        _ => {}
    }
    if matches!(network.part, Part::First) {
        let ([a, b], [c, d]) = (packet.key.source_port, packet.key.target_port);
        let ports = FragmentPorts { ports: [a, b, c, d], zero: [0; 4], seen_at_ns: tables.now_ns() };
        tables.set_fragment(&key(network), &ports);
    }
    Step::Next(Stage::Beginning)
}

/// Whether it is of a flow that we translate.
#[inline(always)]
fn is_reply<T: Tables>(tables: &T, packet: &Packet) -> bool {
    tables.settings().flags & Settings::NAT != 0
        && (tables.nat(&packet.key).is_some() || tables.nat_half_open(&packet.key).is_some())
}

#[inline(always)]
fn later<F: Frame, T: Tables>(frame: &mut F, tables: &T, network: &Network) -> Step {
    let Some(packet) = with_ports(frame, tables, network) else { return unknown(tables, &network.target()) };
    let flags = tables.settings().flags;
    if flags & Settings::NAT != 0
        && let Some(step) = nat::related(frame, tables, &packet, Extent::Network)
    {
        return step;
    }
    if flags & Settings::DIRECT == 0 {
        return unknown(tables, &network.target());
    }
    Step::Next(Stage::FragmentDirect)
}

/// The stage `FragmentDirect`: a later part of a datagram that is not translated.
#[inline(always)]
pub fn fragment_direct<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(network) = network(frame) else { return PASS };
    let network = network.joined(frame);
    if let Some(packet) = with_ports(frame, tables, &network)
        && let Some(way) = Way::of_later(frame, tables, &packet)
    {
        if limit::is_denied(tables, &network.source()) {
            return drop(tables, way.vip, Reason::Denied);
        }
        return deliver(frame, tables, &packet, way).unwrap_or_else(|reason| drop(tables, way.vip, reason));
    }
    unknown(tables, &network.target())
}

/// A part of a datagram that we know nothing of: not forwarded where it is for a VIP's address.
#[inline(always)]
fn unknown<T: Tables>(tables: &T, target: &[u8; 16]) -> Step {
    match vip::alone_at(tables, target) {
        Some(vip) => drop(tables, vip, Reason::FragmentUnknown),
        None => PASS,
    }
}

#[inline(always)]
fn key(network: &Network) -> FragmentKey {
    FragmentKey {
        source: network.source(),
        target: network.target(),
        identification: network.identification,
        protocol: network.protocol,
        zero: [0; 3],
    }
}

/// The part as a packet of its flow, with the ports of the first part. What it has no header of, nobody reads or writes. `None`: the first
/// part has not been seen, or it is not all there.
#[inline(always)]
fn with_ports<F: Frame, T: Tables>(frame: &F, tables: &T, network: &Network) -> Option<Packet> {
    let first = tables.fragment(&key(network))?;
    let is_late = tables.now_ns().saturating_sub(first.seen_at_ns) > PARTS_NS;
    if is_late || !frame.holds(network.network_at + network.bytes) {
        return None;
    }
    let ports = u32::from_ne_bytes(first.ports);
    Some(Packet {
        key: parse::key(frame, network.source, network.target, ports, network.protocol),
        network_at: network.network_at,
        transport_at: network.transport_at,
        bytes: network.bytes,
        is_ipv6: network.is_ipv6,
        // Not constants: the compiler would write both at once, where the verifier does not want it (LLVM 22: "misaligned stack access").
        flags: frame.settle(0, 0xff) as u8,
        opens: frame.settle(0, 1) as u8,
        ttl: network.ttl,
        traffic_class: network.traffic_class,
    })
}
