//! Ways to backends: the headers that are written in front of their packets.

use std::net::IpAddr;

use lb_common::checksum;
use lb_common::hop::HopRow;

use super::{Backend, Inputs};
use crate::config::model::steering::{Forward, Mode, NatSource, Vip};
use crate::master::steer::next_hop::NextHop;
use crate::steer::contents::{Contents, address_bytes};

const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const TYPE_VLAN: [u8; 2] = [0x81, 0x00];
const PROTOCOL_IPV4: u8 = 4;
const PROTOCOL_UDP: u8 = 17;
/// Of outer headers: what RFC 1700 recommends, so that a loop ends.
const TTL: u8 = 64;

/// A row for every backend of the upstreams that VIPs forward to, whatever its state: flows may know those that leave. Other backends keep the
/// row that they have: flows began while a VIP forwarded to their upstream.
pub fn fill(inputs: &Inputs<'_>, applied: &Contents, contents: &mut Contents) {
    for vip in &inputs.model.steering.vips {
        let Forward::Remote { upstream, mode } = &vip.forward else { continue };
        for backend in inputs.backends.iter().filter(|backend| backend.upstream == *upstream) {
            let way = inputs.hops.get(&backend.address.ip());
            // Whose it is stays when the way is lost, and with it what was counted.
            let nowhere = HopRow { address: address_bytes(backend.address.ip()), ..HopRow::default() };
            let row = way.map_or(nowhere, |way| hop_row(backend, vip, *mode, way));
            contents.hops.insert(u32::from(backend.slot), row);
        }
    }
    for backend in inputs.backends {
        let slot = u32::from(backend.slot);
        if let Some(row) = applied.hops.get(&slot)
            && row.address == address_bytes(backend.address.ip())
            && !contents.hops.contains_key(&slot)
        {
            contents.hops.insert(slot, rerouted(row, backend, inputs.hops.get(&backend.address.ip())));
        }
    }
}

/// The row with the way that is known now.
fn rerouted(row: &HopRow, backend: &Backend, way: Option<&NextHop>) -> HopRow {
    let Some(way) = way else { return HopRow { interface: 0, ..*row } };
    let (link, link_bytes) = link(way, backend.address.ip());
    HopRow { interface: way.interface, mtu: way.mtu, link, link_bytes, ..*row }
}

fn hop_row(backend: &Backend, vip: &Vip, mode: Mode, way: &NextHop) -> HopRow {
    let ip = backend.address.ip();
    let (link, link_bytes) = link(way, ip);
    let mut row = HopRow {
        interface: way.interface,
        mtu: way.mtu,
        link,
        link_bytes,
        address: address_bytes(ip),
        nat_source: address_bytes(way.source),
        ..HopRow::default()
    };
    match mode {
        Mode::Nat(source) => {
            // A VIP of several ports keeps that of the packet.
            let port = vip.address.ports.single().map_or(0, |_| backend.address.port());
            row.port = port.to_be_bytes();
            if let NatSource::Node { ports } = source {
                row.nat_port_first = ports.first();
                // The whole of 1–65535 has one port more than fits.
                row.nat_ports = u16::try_from(ports.count()).unwrap_or(u16::MAX);
            }
        }
        Mode::L2Dsr => {}
        Mode::IpIp(source) => put_outer(&mut row, source.unwrap_or(way.source), ip, PROTOCOL_IPV4),
        Mode::Gue { source, port } => {
            put_outer(&mut row, source.unwrap_or(way.source), ip, PROTOCOL_UDP);
            row.gue_port = port.to_be_bytes();
        }
    }
    row
}

/// The link-layer header, and how long it is.
fn link(way: &NextHop, ip: IpAddr) -> ([u8; 18], u8) {
    let mut link = Vec::with_capacity(18);
    link.extend(way.target_link);
    link.extend(way.source_link);
    if let Some(tag) = way.vlan {
        link.extend(TYPE_VLAN);
        link.extend(tag.to_be_bytes());
    }
    link.extend(if ip.is_ipv4() { TYPE_IPV4 } else { TYPE_IPV6 });
    let mut padded = [0; 18];
    padded.iter_mut().zip(&link).for_each(|(byte, written)| *byte = *written);
    (padded, link.len() as u8)
}

/// The outer header, without length and checksum. The kernel writes `protocol` anew where IPv6 is inside.
fn put_outer(row: &mut HopRow, source: IpAddr, target: IpAddr, protocol: u8) {
    let mut header = Vec::with_capacity(40);
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // Not to be fragmented, so that the identification may stay zero (RFC 6864, section 4.1).
            header.extend([0x45, 0, 0, 0, 0, 0, 0x40, 0, TTL, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(target.octets());
            row.outer_sum = sum(&header);
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            header.extend([0x60, 0, 0, 0, 0, 0, protocol, TTL]);
            header.extend(source.octets());
            header.extend(target.octets());
        }
        // Our address towards it is of its family, and validation compares that of the file.
        _ => row.interface = 0,
    }
    row.outer_bytes = header.len() as u8;
    row.outer.iter_mut().zip(&header).for_each(|(byte, written)| *byte = *written);
}

/// Of an even number of bytes, folded, as the machine reads words.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0;
    checksum::fold(words.iter().map(|word| checksum::word(*word)).sum())
}
