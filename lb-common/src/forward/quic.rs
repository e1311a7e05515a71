//! The backend that a QUIC connection id names (draft-ietf-quic-load-balancers-20, sections 3 and 5.2, plaintext server ids): a
//! client that changes its address keeps its backend.

use crate::flow::QuicServerKey;
use crate::lookup::NOBODY;
use crate::packet::Frame;
use crate::packet::parse::{OFFSET_MASK, Packet};
use crate::packet::udp;
use crate::tables::Tables;
use crate::vip::VipRow;

/// First bit of a long header (RFC 8999, section 5.1).
const LONG: u8 = 0x80;
/// Where the destination connection id is in a short header, and how long it is and where in a long one.
const ID_AT_SHORT: usize = 1;
const LENGTH_AT_LONG: usize = 5;
const ID_AT_LONG: usize = 6;

/// The slot that the destination connection id names. A client's first packets have an id of its own making: mostly of nobody, and where
/// it happens to name a backend that one is as good as any.
#[inline(always)]
pub fn server<F: Frame, T: Tables>(frame: &F, tables: &T, packet: &Packet, row: &VipRow) -> Option<u16> {
    let id_bytes = row.quic_id_bytes as u32;
    if id_bytes == 0 || id_bytes > 8 || packet.is_tcp() {
        return None;
    }
    let at = packet.transport_at + udp::HEADER_BYTES;
    let first: u8 = frame.read(at)?;
    let mut id_at = at + ID_AT_SHORT;
    if first & LONG != 0 {
        let length: u8 = frame.read(at + LENGTH_AT_LONG)?;
        if (length as u32) < 1 + id_bytes {
            return None;
        }
        id_at = at + ID_AT_LONG;
    }
    let id = frame.read::<ConnectionId>(frame.settle(id_at, OFFSET_MASK))?;
    // The upper three bits number the configuration; the others are the id's length, or random.
    if id.first >> 5 != row.quic_configuration {
        return None;
    }
    let key = QuicServerKey {
        id: (id.server & (u64::MAX >> (64 - 8 * id_bytes))).to_le_bytes(),
        table: row.table,
        zero: 0,
    };
    tables.quic_server(&key).map(|slot| slot as u16).filter(|slot| *slot != NOBODY)
}

/// How a connection id begins. What follows it in a packet is long enough that all eight bytes are there: the shortest one has 20
/// after the id (RFC 9001, section 5.4.2).
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, packed)]
struct ConnectionId {
    first: u8,
    server: u64,
}
