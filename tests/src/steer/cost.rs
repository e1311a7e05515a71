//! What a packet costs: medians of single `BPF_PROG_TEST_RUN`s, in turns with an empty program, whose cost is taken off.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use lb_common::host::{Packet, World};
use lb_common::vip::{Forward, Guard};
use lb_userspace::steer::maglev::{self, Member};

use crate::figures::short;

use super::kernel::{self, Kernel};
use super::smoke::{ends, one_vip};

/// Net cost of an established TCP flow to `ipip` that we allow ourselves: 0.75 of what Katran's balancer costs on such a machine.
pub const ESTABLISHED_BAR: Duration = Duration::from_nanos(160);
/// Net cost of a SYN: 0.6 of Katran's.
pub const SYN_BAR: Duration = Duration::from_nanos(330);
/// Verified instructions of one program.
pub const INSTRUCTIONS_BAR: u32 = 10_000;
/// Loading all maps and programs.
pub const LOAD_BAR: Duration = Duration::from_millis(100);
/// Making a lookup table of [`ROWS`] rows for [`MEMBERS`] backends.
pub const REBUILD_BAR: Duration = Duration::from_millis(20);
/// Machines that run this are shared: a figure misses its bar when it is so much above it.
pub const SLACK: f64 = 1.15;

/// Loads of which the fastest counts: others use the machine too.
const LOADS: usize = 5;
/// Flows in the table in the cases with many.
const MANY_FLOWS: u32 = 500_000;
/// VIPs in the cases with many.
const MANY_VIPS: u16 = 500;
const ROWS: u32 = 65_537;
const MEMBERS: u64 = 1_000;
/// Tables made; the median counts.
const REBUILDS: usize = 11;
/// Different frames of a case with many flows that are run in turn.
const FRAMES_IN_TURN: u32 = 20_000;
/// Room for flows.
const FLOWS: u32 = 1 << 20;
const UDP: u8 = 17;
/// `XDP_DROP` and `XDP_TX`.
const DROPPED: u32 = 1;
const TRANSMITTED: u32 = 3;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Cost {
    /// What the packets were.
    pub case: &'static str,
    /// Median of the program.
    pub whole: Duration,
    /// Median of the empty program beside it.
    pub empty: Duration,
    /// What it may cost.
    pub bar: Option<Duration>,
}

/// Packets whose cost is asked for.
struct Case {
    name: &'static str,
    world: World,
    /// Run once before, to be known.
    before: Vec<Vec<u8>>,
    /// Run in turn.
    frames: Vec<Vec<u8>>,
    action: u32,
    bar: Option<Duration>,
}

/// Prints what programs and packets cost.
///
/// # Errors
/// When a figure misses its bar.
pub fn run(runs: u32) -> anyhow::Result<()> {
    let mut missed = vec![];
    let loaded = fastest_load()?;
    for program in loaded.verified() {
        let (instructions, time) = (program.instructions, short(program.load_time));
        println!("{:<16} {instructions:>6} instructions verified, loaded in {time}", program.name);
        missed.extend((instructions >= INSTRUCTIONS_BAR).then(|| program.name.clone()));
    }
    println!("maps and programs loaded in {}, the fastest of {LOADS}", short(loaded.load_time));
    missed.extend((loaded.load_time >= LOAD_BAR).then(|| "loading".to_owned()));
    drop(loaded);
    for cost in measure(runs)? {
        cost.print();
        missed.extend((!cost.holds()).then(|| cost.case.to_owned()));
    }
    let rebuilt = rebuild_time();
    println!("lookup table of {ROWS} rows for {MEMBERS} backends made in {}", short(rebuilt));
    missed.extend((rebuilt >= REBUILD_BAR).then(|| "the lookup table".to_owned()));
    ensure!(missed.is_empty(), "bars missed: {}", missed.join("; "));
    Ok(())
}

fn fastest_load() -> anyhow::Result<Kernel> {
    let mut fastest = Kernel::load()?;
    for _ in 1..LOADS {
        let other = Kernel::load()?;
        if other.load_time < fastest.load_time {
            fastest = other;
        }
    }
    Ok(fastest)
}

/// Measures every case with `runs` single runs each.
///
/// # Errors
/// When a program cannot be loaded, or does with a frame what the case does not expect.
pub fn measure(runs: u32) -> anyhow::Result<Vec<Cost>> {
    let mut steer = Kernel::load_with(FLOWS)?;
    let mut lab = Ebpf::load_file(kernel::object_path().with_file_name("lb-lab.o"))?;
    let empty: &mut Xdp = lab.program_mut("lab_pass").context("there is no empty program")?.try_into()?;
    empty.load().context("loading the empty program")?;
    let mut costs = vec![];
    for case in cases()? {
        costs.push(cost(&mut steer, empty, &case, runs).with_context(|| case.name)?);
    }
    Ok(costs)
}

fn cost(steer: &mut Kernel, empty: &Xdp, case: &Case, runs: u32) -> anyhow::Result<Cost> {
    steer.describe(&case.world)?;
    steer.forget()?;
    let mut frames = case.frames.clone();
    for frame in &case.before {
        steer.run(frame)?;
    }
    if case.world.vip_rows[0].forward == Forward::Nat as u8 {
        finish_handshake(steer, &case.before)?;
    }
    let mut output = vec![0; 4096];
    let (mut whole, mut nothing) = (vec![], vec![]);
    let count = frames.len();
    for run in 0..runs as usize {
        let frame = &mut frames[run % count];
        nothing.push(kernel::time(empty, frame, &mut output)?.1);
        let ((action, _), time) = steer.time(frame)?;
        ensure!(action == case.action, "run {run}: action {action}");
        whole.push(time);
    }
    Ok(Cost { case: case.name, whole: median(whole), empty: median(nothing), bar: case.bar })
}

/// The backend's part of a handshake, and the client's last.
fn finish_handshake(steer: &mut Kernel, before: &[Vec<u8>]) -> anyhow::Result<()> {
    let Some(opening) = before.first() else { return Ok(()) };
    let seen = steer.run(opening)?.bytes;
    let address = |at: usize| -> anyhow::Result<IpAddr> {
        Ok(<[u8; 4]>::try_from(seen.get(at..at + 4).context("no IPv4 packet came out")?)?.into())
    };
    let port = |at: usize| u16::from_be_bytes([seen[at], seen[at + 1]]);
    let (client, backend) =
        (SocketAddr::new(address(26)?, port(34)), SocketAddr::new(address(30)?, port(36)));
    let answer = steer.run(&Packet::tcp(backend, client, Packet::SYN | Packet::ACK, b"").frame())?;
    ensure!(answer.action == TRANSMITTED, "the backend's answer: action {}", answer.action);
    let (client, vip) = ends(true);
    let last = steer.run(&Packet::tcp(client, vip, Packet::ACK, b"").frame())?;
    ensure!(last.action == TRANSMITTED, "the handshake's end: action {}", last.action);
    Ok(())
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let established = |name, is_ipv4, forward, bar| {
        let (client, vip) = ends(is_ipv4);
        let opening = if forward == Forward::Nat { Packet::SYN } else { Packet::ACK };
        Case {
            name,
            world: one_vip(is_ipv4, forward),
            before: vec![Packet::tcp(client, vip, opening, b"").frame()],
            frames: vec![Packet::tcp(client, vip, Packet::ACK | Packet::PSH, &[7; 10]).frame()],
            action: TRANSMITTED,
            bar,
        }
    };
    let mut cases = vec![
        established("established TCP, IPv4, ipip", true, Forward::IpIp, Some(ESTABLISHED_BAR)),
        established("established TCP, IPv4, gue", true, Forward::Gue, None),
        established("established TCP, IPv4, l2dsr", true, Forward::L2Dsr, None),
        established("established TCP, IPv4, nat", true, Forward::Nat, None),
        established("established TCP, IPv6, ipip", false, Forward::IpIp, None),
        established("established TCP, IPv6, l2dsr", false, Forward::L2Dsr, None),
    ];
    let (client, vip) = ends(true);
    let base = || established("", true, Forward::IpIp, None);
    let from = |number: u32| {
        let IpAddr::V4(address) = client.ip() else { return client };
        let address = Ipv4Addr::from_bits(address.to_bits() + number / 50_000);
        SocketAddr::new(address.into(), 10_000 + (number % 50_000) as u16)
    };
    let segments = |count: u32, flags| -> Vec<_> {
        (0..count).map(|number| Packet::tcp(from(number), vip, flags, b"").frame()).collect()
    };
    let datagrams = |count: u32| -> Vec<_> {
        (0..count).map(|number| Packet::udp(from(number), vip, &[7; 18]).frame()).collect()
    };
    let many_vips = |mut world: World| {
        for number in 1..MANY_VIPS {
            let address = SocketAddr::new([203, 0, 114 + (number >> 8) as u8, number as u8].into(), 443);
            world.add_vip(address, 6, Forward::IpIp, 0);
        }
        world
    };
    let syns = segments(FRAMES_IN_TURN, Packet::SYN);
    cases.push(Case {
        name: "SYN of a new flow, IPv4, ipip",
        before: vec![],
        frames: syns.clone(),
        bar: Some(SYN_BAR),
        ..base()
    });
    cases.push(Case {
        name: "SYN of a new flow, IPv4, nat",
        before: vec![],
        frames: syns.clone(),
        world: one_vip(true, Forward::Nat),
        ..base()
    });
    cases.push(Case {
        name: "SYN of a new flow, IPv4, ipip, 500 VIPs",
        before: vec![],
        frames: syns,
        world: many_vips(base().world),
        ..base()
    });
    let mut with_udp = one_vip(true, Forward::IpIp);
    with_udp.add_vip(vip, UDP, Forward::IpIp, 0);
    cases.push(Case {
        name: "UDP of a known flow, IPv4, ipip",
        world: with_udp.clone(),
        before: datagrams(1),
        frames: datagrams(1),
        ..base()
    });
    cases.push(Case {
        name: "UDP of a new flow, IPv4, ipip",
        world: with_udp,
        before: vec![],
        frames: datagrams(FRAMES_IN_TURN),
        ..base()
    });
    let mut denied = one_vip(true, Forward::IpIp);
    denied.add_network(client.ip(), 24, Guard::Deny);
    cases.push(Case { name: "deny list hit", world: denied, before: vec![], action: DROPPED, ..base() });
    let many_flows = segments(MANY_FLOWS, Packet::ACK);
    let spread = |index: usize| many_flows[index * 7919 % many_flows.len()].clone();
    let some: Vec<_> = (0..FRAMES_IN_TURN as usize).map(spread).collect();
    cases.push(Case { name: "established, ipip, 500 VIPs", world: many_vips(base().world), ..base() });
    cases.push(Case {
        name: "established, ipip, 500,000 flows at random",
        before: many_flows.clone(),
        frames: some.clone(),
        ..base()
    });
    cases.push(Case {
        name: "established, ipip, 500,000 flows, 500 VIPs",
        world: many_vips(base().world),
        before: many_flows,
        frames: some,
        ..base()
    });
    Ok(cases)
}

/// How long it takes to make a lookup table, of backends with weights from 1 to 4.
fn rebuild_time() -> Duration {
    let mut random = fastrand::Rng::with_seed(1);
    let members: Vec<_> = (0..MEMBERS)
        .map(|number| Member { identity: random.u64(..), weight: 1 + number as u32 % 4 })
        .collect();
    let once = |_| {
        let begun = Instant::now();
        std::hint::black_box(maglev::table(std::hint::black_box(&members), ROWS));
        begun.elapsed()
    };
    median((0..REBUILDS).map(once).collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

impl Cost {
    /// What the program costs above an empty one.
    pub fn net(&self) -> Duration {
        self.whole.saturating_sub(self.empty)
    }

    /// Whether it is below its bar, with [`SLACK`].
    pub fn holds(&self) -> bool {
        self.bar.is_none_or(|bar| self.net() <= bar.mul_f64(SLACK))
    }

    /// One line.
    pub fn print(&self) {
        let bar = self.bar.map_or_else(String::new, |bar| format!("  bar {} ns", bar.as_nanos()));
        let (net, whole, empty) = (self.net().as_nanos(), self.whole.as_nanos(), self.empty.as_nanos());
        println!("{:<46} {net:>5} ns net ({whole} - {empty}){bar}", self.case);
    }
}
