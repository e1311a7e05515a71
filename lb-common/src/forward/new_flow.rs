//! The second stage: packets of no flow that is known. Finds the VIP, asks who may, chooses a backend, remembers.

use super::choose::Places;
use super::deliver::{Way, deliver};
use super::known::is_alive;
use super::{Stage, Step, choose, drop, limit, vip};
use crate::flow::{Flow, FlowKey, HandOver};
use crate::hash;
use crate::packet::Frame;
use crate::packet::parse::{Packet, parse_beginning};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::{Forward, VipRow};

const PASS: Step = Step::Done(Verdict::Pass);

/// The stage.
#[inline(always)]
pub fn new_flow<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(packet) = parse_beginning(frame) else { return PASS };
    let Some(vip) = vip::of_packet(tables, &packet) else { return PASS };
    let Some(row) = tables.vip_row(vip) else { return PASS };
    steer(frame, tables, &packet, vip, row).unwrap_or_else(|reason| drop(tables, vip, reason))
}

/// What opens a flow gets its backend here; of NAT also nothing else, since a later packet without a flow has none.
///
/// # Errors
/// Why it has to be dropped.
#[inline(always)]
fn steer<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    vip: u32,
    row: &VipRow,
) -> Result<Step, Reason> {
    if limit::is_denied(tables, &packet.key.source) {
        return Err(Reason::Denied);
    }
    if hash::halves(&packet.key.source) == hash::halves(&packet.key.target) {
        return Err(Reason::LandAttack);
    }
    if matches!(Forward::from_raw(row.forward), Forward::Local) {
        return Ok(PASS);
    }
    let places = Places::of(frame, tables, &packet.key);
    if is_nat(frame, row) {
        if !frame.is_set(packet.opens) {
            return Ok(handed_over(tables, vip, HandOver::NO_SLOT, Stage::Nat));
        }
        if packet.is_tcp() && limit::is_flooded(tables, vip, row) {
            return Ok(handed_over(tables, vip, HandOver::NO_SLOT, Stage::Cookie));
        }
    }
    if frame.is_set(packet.opens) && !limit::may_open(tables, vip, row, &packet.key.source) {
        return Err(Reason::SourceRate);
    }
    let kept = if packet.is_bare_syn() { reopened(tables, &packet.key) } else { None };
    let slot = match kept {
        Some(slot) => slot,
        None => choose::backend(frame, tables, packet, vip, row, &places).ok_or(Reason::NoBackend)?,
    };
    if is_nat(frame, row) {
        return Ok(handed_over(tables, vip, slot, Stage::Open));
    }
    if !packet.is_bare_syn() && !packet.ends() {
        remember(tables, packet, vip, row, slot);
    }
    deliver(frame, tables, packet, Way { vip, slot, opens: packet.opens })
}

#[inline(always)]
fn is_nat<F: Frame>(frame: &F, row: &VipRow) -> bool {
    frame.settle(row.forward as usize, 0xff) == Forward::Nat as usize
}

#[inline(always)]
fn handed_over<T: Tables>(tables: &T, vip: u32, slot: u32, stage: Stage) -> Step {
    tables.hand_over(HandOver { vip, slot, mtu: 0, probe: 0, reclaimed: 0 });
    Step::Next(stage)
}

/// The backend of a flow of the same ports that is still known when a SYN comes: it gets the new one too, because the packets that follow
/// will find it, and because anybody can make up a SYN of a flow that has not ended. One that has, with a backend that takes nobody new, is
/// forgotten.
#[inline(always)]
fn reopened<T: Tables>(tables: &T, key: &FlowKey) -> Option<u32> {
    let flow = tables.flow(key)?;
    let slot = flow.slot;
    let may_stay = flow.flags & Flow::CLOSING == 0 || tables.backend(slot)?.traffic().takes_new();
    if may_stay && is_alive(tables, slot, flow.instance) {
        return Some(slot);
    }
    tables.forget_flow(key);
    None
}

#[inline(always)]
fn remember<T: Tables>(tables: &T, packet: &Packet, vip: u32, row: &VipRow, slot: u32) {
    let Some(backend) = tables.backend(slot) else { return };
    let flow = Flow {
        instance: backend.instance,
        seen_at_ns: tables.now_ns(),
        slot,
        vip: vip as u16,
        flags: Flow::mark_of(row.identity),
    };
    tables.set_flow(&packet.key, &flow);
}
