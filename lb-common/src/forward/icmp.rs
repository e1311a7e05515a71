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
use crate::vip::Settings;

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
        error(tables, &network)
    } else {
        PASS
    }
}

#[inline(always)]
fn echo<F: Frame, T: Tables>(frame: &mut F, tables: &T, network: &Network) -> Step {
    let Some(vip) = vip::of_address(tables, &network.target()) else { return PASS };
    if limit::is_denied(tables, &network.source()) {
        return drop(tables, vip, Reason::Denied);
    }
    if vip::alone_at(tables, &network.target()).is_none() {
        return PASS;
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
fn error<T: Tables>(tables: &T, network: &Network) -> Step {
    // Whether the client may have flows is asked where the flow is looked for.
    if let Some(vip) = vip::alone_at(tables, &network.target())
        && limit::is_named(tables, &network.source())
    {
        return drop(tables, vip, Reason::Denied);
    }
    if tables.settings().flags & Settings::NAT != 0 {
        return Step::Next(Stage::IcmpNat);
    }
    Step::Next(Stage::IcmpDirect)
}

/// The stage `IcmpNat`: an ICMP error that may be about a translated flow.
#[inline(always)]
pub fn icmp_nat<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Ok(network) = network(frame) else { return PASS };
    let network = network.joined(frame);
    let Some(quoted) = quoted_to(frame, &network) else { return Step::Next(Stage::IcmpDirect) };
    let packet = as_packet(frame, &network, &quoted);
    nat::related(frame, tables, &packet, Extent::Error(&network, &quoted))
        .unwrap_or(Step::Next(Stage::IcmpDirect))
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
            if limit::is_denied(tables, &packet.key.source) {
                return drop(tables, way.vip, Reason::Denied);
            }
            return deliver(frame, tables, &packet, way)
                .unwrap_or_else(|reason| drop(tables, way.vip, reason));
        }
    }
    match vip::alone_at(tables, &network.target()) {
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::vec::Vec;

    use super::*;
    use crate::forward::forward;
    use crate::host::{Body, HopKind, HostFrame, HostTables, Packet as Description, World, verify};
    use crate::vip::Forward;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// One VIP of each family whose only backend is reached through IP in IP.
    fn tables(forward: Forward) -> HostTables {
        let mut world = World::default();
        for (vip, backend) in [("203.0.113.10:443", "10.1.0.7:443"), ("[2001:db8:1::a]:443", "[fd00::7]:443")]
            .map(|(a, b)| (address(a), address(b)))
        {
            let ours = if vip.is_ipv4() { "10.0.0.1:0" } else { "[fd00::1]:0" };
            let slot = world.add_backend(HopKind::IpIp(address(ours).ip(), backend.ip()).hop(2, backend));
            let table = world.add_table(1, &[slot]);
            world.add_vip(vip, 6, forward, table);
        }
        HostTables::new(world)
    }

    fn run(tables: &HostTables, packet: &Description) -> (Verdict, Vec<u8>) {
        let mut frame = HostFrame::new(&packet.frame(), 1);
        let verdict = forward(&mut frame, tables);
        if verdict != Verdict::Pass {
            verify(frame.as_slice()).unwrap_or_else(|fault| panic!("{fault}: {:02x?}", frame.as_slice()));
        }
        (verdict, frame.as_slice().to_vec())
    }

    fn ends() -> [[SocketAddr; 2]; 2] {
        [
            [address("192.0.2.1:5555"), address("203.0.113.10:443")],
            [address("[2001:db8::1]:5555"), address("[2001:db8:1::a]:443")],
        ]
    }

    #[test]
    fn echo_to_a_vip_is_answered_as_a_host_would() {
        let tables = tables(Forward::IpIp);
        for [client, vip] in ends() {
            let mut request = Description::echo(client.ip(), vip.ip(), b"some odd bytes");
            request.vlans = std::vec![9];
            let (verdict, frame) = run(&tables, &request);
            let mut reply = Description::echo(vip.ip(), client.ip(), b"some odd bytes");
            let Body::Icmp { kind, .. } = &mut reply.body else { panic!("ICMP") };
            *kind = if client.is_ipv4() { [0, 0] } else { [129, 0] };
            (reply.vlans, reply.link) = (std::vec![9], [request.link[1], request.link[0]]);
            assert_eq!((verdict, frame), (Verdict::Transmit, reply.frame()));
        }
        assert_eq!(tables.reason_count(Reason::EchoAnswered), 2);
    }

    #[test]
    fn what_is_not_ours_passes() {
        let tables = tables(Forward::IpIp);
        let [[v4, vip4], [v6, vip6]] = ends().map(|pair| pair.map(|end| end.ip()));
        for discovery in 130..=143 {
            let body = Body::Icmp { kind: [discovery, 0], word: 0, payload: std::vec![0; 24] };
            assert_eq!(run(&tables, &Description::new(v6, vip6, body)).0, Verdict::Pass, "type {discovery}");
        }
        for kind in [0, 4, 5, 9, 10, 13, 17] {
            let body = Body::Icmp { kind: [kind, 0], word: 0, payload: std::vec![0; 24] };
            assert_eq!(run(&tables, &Description::new(v4, vip4, body)).0, Verdict::Pass, "type {kind}");
        }
        assert_eq!(
            run(&tables, &Description::echo(v4, address("203.0.113.11:0").ip(), b"")).0,
            Verdict::Pass
        );
        assert_eq!(run(&self::tables(Forward::Local), &Description::echo(v4, vip4, b"")).0, Verdict::Pass);
    }

    #[test]
    fn error_goes_where_the_flow_goes() {
        let tables = tables(Forward::IpIp);
        for [client, vip] in ends() {
            let router = if client.is_ipv4() { "198.51.100.1:0" } else { "[2001:db8:9::1]:0" };
            let kind = if client.is_ipv4() { [3, 4] } else { [2, 0] };
            let quoted = Description::tcp(vip, client, 16, b"from the backend");
            let mut error = Description::icmp_error(address(router).ip(), vip.ip(), kind, 1400, &quoted);
            let (verdict, frame) = run(&tables, &error);
            assert_eq!(verdict, Verdict::Redirect(2));
            error.ttl -= 1;
            let outer_bytes = if client.is_ipv4() { 20 } else { 40 };
            assert_eq!(frame[14 + outer_bytes..], error.frame()[14..]);

            let quoted = Description::tcp(client, vip, 16, b"not sent by the VIP");
            let error = Description::icmp_error(address(router).ip(), vip.ip(), kind, 1400, &quoted);
            assert_eq!(run(&tables, &error).0, Verdict::Drop(Reason::IcmpUnknown));
        }
    }
}
