//! Which VIP a packet is for.

use crate::packet::parse::Packet;
use crate::tables::Tables;
use crate::vip::{Forward, Settings, Spans, VipIndex, VipKey, VipRow};

/// The VIP of the packet's destination: exact port, then every port, then prefixes and ranges.
#[inline(always)]
pub fn of_packet<T: Tables>(tables: &T, packet: &Packet) -> Option<VipIndex> {
    let key = &packet.key;
    let mut vip_key = VipKey { address: key.target, port: key.target_port, protocol: key.protocol, zero: 0 };
    if let Some(vip) = tables.vip(&vip_key) {
        return Some(vip);
    }
    vip_key.port = [0; 2];
    if let Some(vip) = tables.vip(&vip_key) {
        return Some(vip);
    }
    if tables.settings().flags & Settings::PREFIXES == 0 {
        return None;
    }
    let spans = tables.spans(&key.target)?;
    in_spans(spans, key.protocol, u16::from_be_bytes(key.target_port))
}

/// Any VIP with this address: who is asked about packets without ports.
#[inline(always)]
pub fn of_address<T: Tables>(tables: &T, address: &[u8; 16]) -> Option<VipIndex> {
    if let Some(vip) = tables.vip(&VipKey::of_address(*address)) {
        return Some(vip);
    }
    if tables.settings().flags & Settings::PREFIXES == 0 {
        return None;
    }
    let first = &tables.spans(address)?.spans[0];
    (first.protocol != 0).then_some(first.vip as u32)
}

/// As [`of_address`], where the address is nobody else's: no VIP of it goes up the stack, and it is none of this host's.
#[inline(always)]
pub fn alone_at<T: Tables>(tables: &T, address: &[u8; 16]) -> Option<VipIndex> {
    let vip = of_address(tables, address)?;
    let row = tables.vip_row(vip)?;
    (!is_local(row) && row.flags & VipRow::OWN == 0).then_some(vip)
}

/// Whether the packets of the VIP go up the stack.
#[inline(always)]
pub fn is_local(row: &VipRow) -> bool {
    matches!(Forward::from_raw(row.forward), Forward::Local)
}

#[inline(always)]
fn in_spans(spans: &Spans, protocol: u8, port: u16) -> Option<VipIndex> {
    for span in &spans.spans {
        if span.protocol == protocol && span.first <= port && port <= span.last {
            return Some(span.vip as u32);
        }
    }
    None
}
