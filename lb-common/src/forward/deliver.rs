//! A packet with a backend that answers directly: rewritten, counted, out.

use super::choose::{self, Places};
use super::known::is_alive;
use super::{Step, answered, vip};
use crate::hash;
use crate::hop::HopRow;
use crate::packet::parse::Packet;
use crate::packet::{Frame, rewrite};
use crate::tables::Tables;
use crate::verdict::{Reason, Verdict};
use crate::vip::Forward;

/// What is known of a flow when one of its packets is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Row in `VIP_ROWS`.
    pub vip: u32,
    /// The backend.
    pub slot: u32,
    /// 1 where the packet is the first of the flow, else 0.
    pub opens: u8,
}

impl Way {
    /// For what follows a flow without being a packet that may open it: where the flow is known to go, or would. `None`: no backend answers
    /// such packets directly.
    #[inline(always)]
    pub fn of_later<F: Frame, T: Tables>(frame: &F, tables: &T, packet: &Packet) -> Option<Self> {
        if let Some(flow) = tables.flow(&packet.key)
            && is_alive(tables, flow.slot, flow.instance)
        {
            return Some(Self { vip: flow.vip as u32, slot: flow.slot, opens: 0 });
        }
        let vip = vip::of_packet(tables, packet)?;
        let row = tables.vip_row(vip)?;
        if matches!(Forward::from_raw(row.forward), Forward::Local | Forward::Nat) {
            return None;
        }
        let places = Places::of(frame, tables, &packet.key);
        let slot = choose::by_flow(frame, tables, packet, vip, row, &places)?;
        Some(Self { vip, slot, opens: 0 })
    }
}

/// Sends the packet to the backend, by the mode that its row in `HOPS` has been made for.
///
/// # Errors
/// Why it has to be dropped.
#[inline(always)]
pub fn deliver<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    way: Way,
) -> Result<Step, Reason> {
    let hop = tables.hop(way.slot).ok_or(Reason::NoNextHop)?;
    let interface = hop.interface;
    if interface == 0 {
        return Err(Reason::NoNextHop);
    }
    if packet.ttl <= 1 {
        return Ok(answered(tables, way.vip, way.slot, 0));
    }
    let mtu = hop.mtu as usize;
    if packet.bytes + rewrite::overhead(hop) > mtu {
        return Ok(answered(tables, way.vip, way.slot, mtu.saturating_sub(rewrite::overhead(hop)) as u32));
    }
    write(frame, tables, packet, hop)?;
    tables.count(way.vip, Some(way.slot), packet.bytes as u64, way.opens != 0);
    Ok(Step::Done(leave(frame, interface)))
}

#[inline(always)]
fn write<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    packet: &Packet,
    hop: &HopRow,
) -> Result<(), Reason> {
    rewrite::age(frame, packet).ok_or(Reason::Truncated)?;
    if hop.outer_bytes == 0 {
        return rewrite::redirect_link(frame, packet.network_at, hop).ok_or(Reason::NoHeadroom);
    }
    let needs_hash = hop.outer_bytes != 20 || hop.gue_port != [0; 2];
    let flow_hash = if needs_hash { hash::of_flow(&packet.key, tables.settings().seed) } else { 0 };
    rewrite::encapsulate(frame, packet, hop, flow_hash)
}

/// Out of the interface: where the packet came from, or another.
#[inline(always)]
pub fn leave<F: Frame>(frame: &F, interface: u32) -> Verdict {
    if interface == frame.ingress() { Verdict::Transmit } else { Verdict::Redirect(interface) }
}
