//! What must hold on any kernel that we run on: every program loads, every mode forwards, host and kernel agree.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use aya::EbpfLoader;
use aya::programs::Program;
use lb_common::host::{Body, HopKind, Packet, World, verify};
use lb_common::vip::Forward;

use crate::figures::short;

use super::agreement;
use super::kernel::{INGRESS, Kernel, object_path};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// `XDP_DROP`.
const DROPPED: u32 = 1;
/// SYNs after which a VIP that allows one a second sends cookies, even when a second begins between them.
const SYNS: u16 = 10;
/// `XDP_TX`.
const TRANSMITTED: u32 = 3;

/// What host and kernel must agree on. An emulated machine may need more than a tick of the clock for a hundred frames.
const PLAN: agreement::Plan = agreement::Plan { frames: 2_000, seed: 1, steps_per_node: 20 };

/// All of it, printed.
///
/// # Errors
/// At the first that does not hold.
pub fn run() -> anyhow::Result<()> {
    println!("loaded {}", load_others()?.join(", "));
    let mut kernel = Kernel::load()?;
    let names: Vec<_> = kernel.verified().iter().map(|program| program.name.as_str()).collect();
    println!("loaded {} in {}", names.join(", "), short(kernel.load_time));
    every_mode(&mut kernel)?;
    fragments(&mut kernel)?;
    println!("every mode forwards, fragments too");
    handshakes_by_cookie(&mut kernel)?;
    println!("handshakes by cookie end in flows");
    let figures = agreement::compare(&mut kernel, PLAN)?;
    figures.print();
    ensure!(figures.ticked < figures.nodes, "no node was compared to its end");
    Ok(())
}

/// Loads every program of the object of `lbctl`'s other kernel programs, and says which.
///
/// # Errors
/// When the kernel refuses one.
pub fn load_others() -> anyhow::Result<Vec<String>> {
    let path = object_path().parent().unwrap_or(Path::new(".")).join("lb-ebpf.o");
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut object = EbpfLoader::new().btf(None).load(&bytes).context("loading the maps")?;
    let mut names = vec![];
    for (name, program) in object.programs_mut() {
        let loaded = match program {
            Program::RawTracePoint(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::SkMsg(program) => program.load(),
            Program::SkSkb(program) => program.load(),
            other => bail!("{name} is of an unexpected type: {other:?}"),
        };
        loaded.with_context(|| format!("loading {name}"))?;
        names.push(name.to_owned());
    }
    names.sort();
    Ok(names)
}

/// A new connection through every mode and both families: SYN, then what follows it.
///
/// # Errors
/// When a frame does not come out as the mode says.
pub fn every_mode(kernel: &mut Kernel) -> anyhow::Result<()> {
    for is_ipv4 in [true, false] {
        let ip = if is_ipv4 { "ipv4" } else { "ipv6" };
        for (forward, layers) in [
            (Forward::Nat, vec!["ethernet", ip, "tcp"]),
            (Forward::L2Dsr, vec!["ethernet", ip, "tcp"]),
            (Forward::IpIp, vec!["ethernet", "ipv4", ip, "tcp"]),
            (Forward::Gue, vec!["ethernet", "ipv4", "udp", ip, "tcp"]),
        ] {
            one_mode(kernel, is_ipv4, forward, &layers)
                .with_context(|| format!("{} for {ip}", forward.name()))?;
        }
    }
    Ok(())
}

fn one_mode(kernel: &mut Kernel, is_ipv4: bool, forward: Forward, layers: &[&str]) -> anyhow::Result<()> {
    let (client, vip) = ends(is_ipv4);
    kernel.describe(&one_vip(is_ipv4, forward))?;
    kernel.forget()?;
    let mut flags = vec![Packet::SYN];
    // The handshake of a translated flow is not finished by the client alone.
    if forward != Forward::Nat {
        flags.extend([Packet::ACK, Packet::ACK | Packet::PSH]);
    }
    for flags in flags {
        let frame = Packet::tcp(client, vip, flags, b"").frame();
        let outcome = kernel.run(&frame)?;
        ensure!(outcome.action == TRANSMITTED, "flags {flags:#04x}: action {}", outcome.action);
        let found = verify(&outcome.bytes).map_err(anyhow::Error::msg)?;
        ensure!(found == layers, "flags {flags:#04x}: {found:?} came out");
    }
    Ok(())
}

/// A datagram in fragments: those without ports go where the first went, whichever the mode.
///
/// # Errors
/// When one does not.
pub fn fragments(kernel: &mut Kernel) -> anyhow::Result<()> {
    for forward in [Forward::Nat, Forward::L2Dsr, Forward::IpIp, Forward::Gue] {
        for is_ipv4 in [true, false] {
            let (client, vip) = ends(is_ipv4);
            let mut world = one_vip(is_ipv4, forward);
            world.add_vip(vip, UDP, forward, 0);
            kernel.describe(&world)?;
            kernel.forget()?;
            let fragments = Packet::udp(client, vip, &[7; 2000]).fragments(1024);
            for (number, fragment) in fragments.iter().enumerate() {
                let outcome = kernel.run(fragment)?;
                let name = forward.name();
                ensure!(
                    outcome.action == TRANSMITTED,
                    "{name}: fragment {number}: action {}",
                    outcome.action
                );
                verify(&outcome.bytes).map_err(anyhow::Error::msg)?;
            }
        }
    }
    Ok(())
}

/// More SYNs than the VIP should get, and a client that is in earnest.
///
/// # Errors
/// When a frame of the handshake does not come out as it should, or one that was not asked for opens a flow.
pub fn handshakes_by_cookie(kernel: &mut Kernel) -> anyhow::Result<()> {
    for is_ipv4 in [true, false] {
        handshake_by_cookie(kernel, is_ipv4).with_context(|| format!("handshake, IPv4: {is_ipv4}"))?;
    }
    Ok(())
}

fn handshake_by_cookie(kernel: &mut Kernel, is_ipv4: bool) -> anyhow::Result<()> {
    const FIRST: u32 = 0x0102_0304;
    let mut world = one_vip(is_ipv4, Forward::Nat);
    world.vip_rows[0].syn_rate = 1;
    kernel.describe(&world)?;
    kernel.forget()?;
    let (client, vip) = ends(is_ipv4);
    for port in 0..SYNS {
        let other = SocketAddr::new(client.ip(), port);
        sent(kernel, &segment(other, vip, Packet::SYN, [0, 0]))?;
    }
    let (flags, [cookie, acknowledged]) = sent(kernel, &segment(client, vip, Packet::SYN, [FIRST, 0]))?;
    ensure!(
        (flags, acknowledged) == (Packet::SYN | Packet::ACK, FIRST + 1),
        "to a SYN: {flags:#04x}, {acknowledged}"
    );
    let ours = [FIRST + 1, cookie.wrapping_add(1)];
    // The last two bits are what the kernel's cookies remember.
    let wrong = kernel.run(&segment(client, vip, Packet::ACK, [ours[0], ours[1] ^ 0x1000]))?;
    ensure!(wrong.action == DROPPED, "a wrong cookie: action {}", wrong.action);
    let outcome = kernel.run(&segment(client, vip, Packet::ACK, ours))?;
    ensure!(outcome.action == TRANSMITTED, "the right cookie: action {}", outcome.action);
    let (flags, numbers) = parts(&outcome.bytes)?;
    ensure!((flags, numbers[0]) == (Packet::SYN, FIRST), "to the backend: flags {flags:#04x}, {numbers:?}");
    let hop = world.hops[0];
    let at = if is_ipv4 { 34 } else { 54 };
    let port = u16::from_be_bytes([outcome.bytes[at], outcome.bytes[at + 1]]);
    let (backend, source) = (address(&hop.address, hop.port), address(&hop.nat_source, port.to_be_bytes()));
    let answer = segment(backend, source, Packet::SYN | Packet::ACK, [77, ours[0]]);
    let (flags, numbers) = sent(kernel, &answer)?;
    ensure!(
        (flags, numbers) == (Packet::ACK, [ours[1], ours[0]]),
        "to the client: {flags:#04x}, {numbers:?}"
    );
    let (_, numbers) = sent(kernel, &segment(client, vip, Packet::ACK, ours))?;
    ensure!(numbers == [ours[0], 78], "to the backend: {numbers:?}");
    let (_, numbers) = sent(kernel, &segment(backend, source, Packet::ACK, [78, ours[0]]))?;
    ensure!(numbers == [ours[1], ours[0]], "to the client: {numbers:?}");
    Ok(())
}

/// The flags and numbers of what the frame becomes, which must leave.
fn sent(kernel: &mut Kernel, frame: &[u8]) -> anyhow::Result<(u8, [u32; 2])> {
    let outcome = kernel.run(frame)?;
    ensure!(outcome.action == TRANSMITTED, "action {}", outcome.action);
    parts(&outcome.bytes)
}

/// Flags and numbers of a TCP segment without IP options.
fn parts(frame: &[u8]) -> anyhow::Result<(u8, [u32; 2])> {
    verify(frame).map_err(anyhow::Error::msg)?;
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let number = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    Ok((frame[at + 13], [number(at + 4), number(at + 8)]))
}

fn segment(source: SocketAddr, target: SocketAddr, flags: u8, numbers: [u32; 2]) -> Vec<u8> {
    let ports = [source.port(), target.port()];
    let body = Body::Tcp { ports, numbers, flags, options: vec![], payload: vec![] };
    Packet::new(source.ip(), target.ip(), body).frame()
}

/// An end from its 16-byte form and its port in network order.
fn address(bytes: &[u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(*bytes).to_canonical(), u16::from_be_bytes(port))
}

/// A node with one TCP VIP, [`ends`]' second, and one backend.
pub fn one_vip(is_ipv4: bool, forward: Forward) -> World {
    let mut world = World::default();
    let outer = |last: u8| [10, 0, 3, last].into();
    let kind = match forward {
        Forward::IpIp => HopKind::IpIp(outer(1), outer(2)),
        Forward::Gue => HopKind::Gue(outer(1), outer(2), 6080),
        _ => HopKind::Plain,
    };
    let backend = if is_ipv4 { "10.0.3.2:8443" } else { "[2001:db8:3::2]:8443" };
    let source: SocketAddr =
        if is_ipv4 { "10.0.3.1:0" } else { "[2001:db8:3::1]:0" }.parse().expect("an address");
    let mut hop = kind.hop(INGRESS, backend.parse().expect("an address"));
    hop.nat_source = lb_common::host::address_bytes(source.ip());
    (hop.nat_port_first, hop.nat_ports) = (20_000, 40_000);
    let slot = world.add_backend(hop);
    let table = world.add_table(251, &[slot]);
    world.add_vip(ends(is_ipv4).1, TCP, forward, table);
    world
}

/// A client and the VIP of [`one_vip`].
pub fn ends(is_ipv4: bool) -> (SocketAddr, SocketAddr) {
    let ends = if is_ipv4 {
        ["192.0.2.1:40000", "203.0.113.10:443"]
    } else {
        ["[2001:db8:1::1]:40000", "[2001:db8:2::10]:443"]
    };
    let [client, vip] = ends.map(|text| text.parse().expect("an address"));
    (client, vip)
}
