//! Stage `Icmp`: echo requests to a VIP, and ICMP errors about packets of flows that we forward.
//!
//! An error goes to who sent the packet that it quotes. Of a backend that answers directly that is the VIP: the error goes where the flow goes. Of a
//! translated flow it is the VIP on the client's side, and we on the backend's: the error is translated, with what it quotes.

use super::answer::{is_answerable, turn_link};
use super::deliver::{Way, deliver};
use super::{Stage, Step, drop, limit, nat, vip};
use crate::packet::parse::{ICMPV6, Network, Packet, network};
use crate::packet::quoted::{Quoted, quoted};
use crate::packet::translate::{self, Extent};
use crate::packet::{Frame, icmp};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::{Forward, Settings, VipIndex};

const PASS: Step = Step::Done(Verdict::Pass);

/// The stage. Everything but echo requests and errors is passed: neighbour discovery above all.
#[inline(always)]
pub fn icmp<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(network) = network(frame) else { return PASS };
    let network = network.joined(frame);
    let Some(kind) = frame.read::<u8>(network.transport_at) else { return PASS };
    if (network.protocol == ICMPV6) != frame.is_set(network.is_ipv6)
        || !frame.holds(network.network_at + network.bytes)
    {
        return PASS;
    }
    if kind == if frame.is_set(network.is_ipv6) { icmp::V6_ECHO } else { icmp::ECHO } {
        echo(frame, tables, &network)
    } else if icmp::is_error(kind, frame.is_set(network.is_ipv6)) {
        error(frame, tables, &network)
    } else {
        PASS
    }
}

/// The VIP that has this address, where its packets do not go up the stack.
#[inline(always)]
fn forwarded_vip<T: Tables>(tables: &T, address: &[u8; 16]) -> Option<VipIndex> {
    let vip = vip::of_address(tables, address)?;
    let row = tables.vip_row(vip)?;
    (!matches!(Forward::from_raw(row.forward), Forward::Local)).then_some(vip)
}

#[inline(always)]
fn echo<F: Frame, T: Tables>(frame: &mut F, tables: &T, network: &Network) -> Step {
    let Some(vip) = forwarded_vip(tables, &network.target()) else { return PASS };
    if limit::is_denied(tables, &network.source()) {
        return drop(tables, vip, Reason::Denied);
    }
    if !is_answerable(frame, &network.source()) {
        return drop(tables, vip, Reason::IcmpUnknown);
    }
    if translate::echo(frame, network).is_none() || turn_link(frame).is_none() {
        return drop(tables, vip, Reason::Truncated);
    }
    tables.count_reason(Some(vip), Reason::EchoAnswered);
    Step::Done(Verdict::Transmit)
}

#[inline(always)]
fn error<F: Frame, T: Tables>(frame: &mut F, tables: &T, network: &Network) -> Step {
    if let Some(vip) = forwarded_vip(tables, &network.target())
        && limit::is_denied(tables, &network.source())
    {
        return drop(tables, vip, Reason::Denied);
    }
    if tables.settings().flags & Settings::NAT != 0
        && let Some(quoted) = quoted_to(frame, network)
        && let Some(step) =
            nat::related(frame, tables, &as_packet(frame, network, &quoted), Extent::Error(network, &quoted))
    {
        return step;
    }
    Step::Next(Stage::IcmpDirect)
}

/// The stage `IcmpDirect`: an ICMP error that is about no translated flow.
#[inline(always)]
pub fn icmp_direct<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(network) = network(frame) else { return PASS };
    let network = network.joined(frame);
    if tables.settings().flags & Settings::DIRECT != 0
        && let Some(quoted) = quoted_to(frame, &network)
    {
        let packet = as_packet(frame, &network, &quoted);
        if let Some(way) = Way::of_later(frame, tables, &packet) {
            return deliver(frame, tables, &packet, way)
                .unwrap_or_else(|reason| drop(tables, way.vip, reason));
        }
    }
    match forwarded_vip(tables, &network.target()) {
        Some(vip) => drop(tables, vip, Reason::IcmpUnknown),
        None => PASS,
    }
}

/// What the error quotes, where that was sent by whom the error goes to.
#[inline(always)]
fn quoted_to<F: Frame>(frame: &F, network: &Network) -> Option<Quoted> {
    let quoted = quoted(frame, network)?;
    (quoted.key.words().source == network.target).then_some(quoted)
}

/// The error as a packet of the flow that it is about, towards who sent what it quotes.
#[inline(always)]
fn as_packet<F: Frame>(frame: &F, network: &Network, quoted: &Quoted) -> Packet {
    Packet {
        key: quoted.key.reversed(),
        network_at: network.network_at,
        transport_at: network.transport_at,
        bytes: network.bytes,
        is_ipv6: network.is_ipv6,
        // Not constants: the compiler would write both at once, where the verifier does not want it (LLVM 22: "misaligned stack access").
        flags: frame.settle(0, 0xff) as u8,
        opens: frame.settle(0, 1) as u8,
        ttl: network.ttl,
        traffic_class: network.traffic_class,
    }
}
