//! The first stage: packets of flows that are known. Everything hot is here.

use super::deliver::{Way, deliver};
use super::{Stage, Step, choose, drop, limit, nat};
use crate::backend::TrafficState;
use crate::flow::Flow;
use crate::packet::Frame;
use crate::packet::parse::{Packet, Unparsed, parse, parse_beginning};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::{Settings, VipRow};

/// The stage.
#[inline(always)]
pub fn known<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let packet = match parse(frame) {
        Ok(packet) => packet,
        Err(Unparsed::Foreign) => return Step::Done(Verdict::Pass),
        Err(Unparsed::Icmp) => return Step::Next(Stage::Icmp),
        Err(Unparsed::Fragment) => return Step::Next(Stage::Fragment),
        // Whether it was for a VIP is found out there.
        Err(Unparsed::Fault(_)) => return Step::Next(Stage::Malformed),
    };
    of_packet(frame, tables, &packet)
}

/// The stage `Beginning`: as [`known`], for the first part of a datagram, whose ports have been remembered for the others.
#[inline(always)]
pub fn beginning<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    match parse_beginning(frame) {
        Ok(packet) => of_packet(frame, tables, &packet),
        Err(_) => Step::Done(Verdict::Pass),
    }
}

#[inline(always)]
fn of_packet<F: Frame, T: Tables>(frame: &mut F, tables: &T, packet: &Packet) -> Step {
    let flags = tables.settings().flags;
    if flags & Settings::NAT != 0
        && let Some(step) = nat::known(frame, tables, packet)
    {
        return step;
    }
    // A SYN is of no flow yet.
    if flags & Settings::DIRECT != 0
        && !packet.is_bare_syn()
        && let Some(step) = direct(frame, tables, packet)
    {
        return step;
    }
    Step::Next(Stage::New)
}

/// A flow whose backend answers directly; `None`: there is none, or it is over.
#[inline(always)]
fn direct<F: Frame, T: Tables>(frame: &mut F, tables: &T, packet: &Packet) -> Option<Step> {
    let flow = tables.flow(&packet.key)?;
    let (vip, slot) = (flow.vip as u32, flow.slot);
    let row = tables.vip_row(vip)?;
    if !flow.is_of(row.identity) || !is_alive(tables, slot, flow.instance) {
        tables.forget_flow(&packet.key);
        return None;
    }
    if packet.is_tcp() {
        if packet.ends() {
            tables.touch_flow(&packet.key, flow, Flow::CLOSING);
        }
    } else if is_idle(tables, row, flow.seen_at_ns) || is_of_another(frame, tables, packet, row, slot) {
        return None;
    } else {
        tables.touch_flow(&packet.key, flow, 0);
    }
    let delivered = if limit::is_denied(tables, &packet.key.source) {
        Err(Reason::Denied)
    } else {
        deliver(frame, tables, packet, Way { vip, slot, opens: 0 })
    };
    Some(delivered.unwrap_or_else(|reason| drop(tables, vip, reason)))
}

/// Whether the backend is what it was, and may keep what it has.
#[inline(always)]
pub fn is_alive<T: Tables>(tables: &T, slot: u32, instance: u64) -> bool {
    let Some(backend) = tables.backend(slot) else { return false };
    backend.instance == instance && !matches!(backend.traffic(), TrafficState::Out)
}

/// Whether the packet's connection id names another backend: its client has the address and port that somebody else had.
#[inline(always)]
fn is_of_another<F: Frame, T: Tables>(
    frame: &F,
    tables: &T,
    packet: &Packet,
    row: &VipRow,
    slot: u32,
) -> bool {
    choose::by_connection_id(frame, tables, packet, row).is_some_and(|named| named != slot)
}

/// Whether a flow has been idle for longer than its VIP, of UDP, lets it.
#[inline(always)]
pub fn is_idle<T: Tables>(tables: &T, row: &VipRow, seen_at_ns: u64) -> bool {
    tables.now_ns().saturating_sub(seen_at_ns) / 1_000_000 > row.idle_ms as u64
}
