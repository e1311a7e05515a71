//! Tables that are too small and SYNs from everywhere: what becomes of those who behave.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::figures::short;
use crate::lab::address::{Family, VIP_PORT};
use crate::lab::client::{self, Connection};
use crate::lab::generator::{Generator, Kind};
use crate::lab::steer::{Mode, Steering};
use crate::lab::{Lab, Plan};
use crate::lb::Lb;
use crate::scenario::vip_load::{LoadPlan, Noticed, VipLoad};
use crate::wait::until_or;

/// The generator of a flood takes a core of a machine that may have two: an answer that is late says nothing of a backend.
const PATIENT_PROBE: &str = "{ tcp = true, every = \"1s\", timeout = \"1s\", down_after = 3, up_after = 1 }";

/// Frames of one run of the generator, between which the others get the processor.
const RUN: u32 = 20_000;

/// A flood.
#[derive(Clone, Copy, Debug)]
pub struct FloodPlan {
    /// How lbctl forwards.
    pub mode: Mode,
    /// To how many backends.
    pub backends: usize,
    /// What the flood is made of.
    pub kind: Kind,
    /// How many frames.
    pub frames: u32,
    /// Further keys of `[kernel]`.
    pub kernel: &'static str,
    /// Further keys of the VIPs.
    pub vip: &'static str,
    /// Further keys of those of TCP.
    pub tcp_vip: &'static str,
    /// Connections that last, and new ones.
    pub load: LoadPlan,
}

/// What clients noticed of a flood.
pub struct FloodFigures {
    /// Everything.
    pub noticed: Noticed,
    /// Lasting connections that ended: must be none.
    pub lost: usize,
    /// How long the flood took.
    pub elapsed: Duration,
    /// Its frames.
    pub frames: u32,
    /// Frames that the balancer's interface took meanwhile.
    pub seen: u64,
    /// What lbctl says about its VIPs.
    pub vips: String,
}

impl FloodFigures {
    /// The share of short connections that went well.
    pub fn went_well(&self) -> f64 {
        let short = self.noticed.short as f64;
        short / (short + (self.noticed.losses.len() - self.lost) as f64)
    }

    /// Prints everything.
    pub fn print(&self, name: &str) {
        println!(
            "{name}: {} frames in {}, {} seen; {} messages on lasting connections, lost {}; {} short connections, {:.2} % of those begun",
            self.frames,
            short(self.elapsed),
            self.seen,
            self.noticed.messages,
            self.lost,
            self.noticed.short,
            self.went_well() * 100.0,
        );
        for loss in self.noticed.losses.iter().take(5) {
            println!("  ended: {loss:?}");
        }
        self.noticed.latency.print("short connections");
        print!("{}", self.vips);
    }
}

/// Floods an lbctl of its own.
///
/// # Errors
/// When the laboratory cannot be built.
pub fn run(plan: FloodPlan) -> anyhow::Result<FloodFigures> {
    let (lab, mut steering) = prepare(plan.mode, plan.backends)?;
    steering.kernel = plan.kernel.to_owned();
    steering.vip = plan.vip.to_owned();
    steering.tcp_vip = plan.tcp_vip.to_owned();
    let _servers = lab.serve(&[plan.mode.backend_port()])?;
    let lb = steering.start(&lab);
    let load = VipLoad::start(&lab, plan.load);
    let mut generator = Generator::new(&lab, plan.kind)?;
    let (started, before, mut sent) = (Instant::now(), seen(&lab)?, 0);
    // Those that found the ring of the wire full never came.
    while seen(&lab)? - before < u64::from(plan.frames) {
        generator.send(RUN)?;
        sent += RUN;
    }
    let (elapsed, seen) = (started.elapsed(), seen(&lab)? - before);
    // Whoever the flood has harmed must have time to notice.
    std::thread::sleep(plan.load.every * 3);
    let noticed = load.finish();
    let lost = noticed.losses.iter().filter(|loss| loss.backend.is_some()).count();
    let vips = lb.succeed(&["vip"]);
    lb.stop();
    Ok(FloodFigures { noticed, lost, elapsed, frames: sent, seen, vips })
}

/// Frames that the program on the balancer's front has seen.
fn seen(lab: &Lab) -> anyhow::Result<u64> {
    let output = lab.balancer.command("ethtool").args(["-S", lab.front()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text.lines().filter_map(|line| line.trim().strip_prefix("rx_queue_0_xdp_packets:"));
    counts.map(|count| Ok(count.trim().parse::<u64>()?)).sum()
}

fn prepare(mode: Mode, backends: usize) -> anyhow::Result<(Lab, Steering)> {
    let lab = Lab::new(Plan::two_armed(backends))?;
    if !mode.translates() {
        lab.give_vips_to_backends()?;
    }
    let steering = Steering { probe: PATIENT_PROBE, ..Steering::new(&lab, mode) };
    Ok((lab, steering))
}

/// More connections than full NAT has ports for: returns how many found one. Ports are tried at random, so the last ones may not be found.
///
/// # Errors
/// When one that has a port is disturbed, or a port is not used again once it is free.
pub fn exhaust_ports(ports: u16) -> anyhow::Result<usize> {
    let (lab, mut steering) = prepare(Mode::Nat, 1)?;
    steering.vip = format!("ports = \"20000-{}\"", 20_000 + ports - 1);
    let _servers = lab.serve(&[Mode::Nat.backend_port()])?;
    let lb = steering.start(&lab);
    let vip = SocketAddr::from((Family::V4.vip(), VIP_PORT));
    let open = client::run(&lab.client, exhaust(vip, usize::from(ports)))?;
    ensure!(is_counted(&lb, "nat_ports_exhausted"), "the refusal was not counted:\n{}", lb.succeed(&["vip"]));
    lb.stop();
    Ok(open)
}

async fn exhaust(vip: SocketAddr, ports: usize) -> anyhow::Result<usize> {
    /// Longer than a first SYN and less than its repetition.
    const REFUSED_AFTER: Duration = Duration::from_millis(900);
    let mut open = Vec::new();
    while open.len() <= ports {
        let Ok(connection) = tokio::time::timeout(REFUSED_AFTER, Connection::open(vip)).await else { break };
        open.push(connection?);
    }
    ensure!(open.len() <= ports, "{} connections with {ports} ports", open.len());
    for connection in &mut open {
        connection.ping().await.context("a connection that had a port")?;
    }
    let count = open.len();
    // Half of them end; as many can begin, at once or when the entries of the ended ones are taken away.
    for connection in open.drain(..count / 2) {
        connection.last().await?;
    }
    let deadline = Instant::now() + Duration::from_secs(90);
    while open.len() < count * 3 / 4 {
        ensure!(Instant::now() < deadline, "only {} of {count} ports are in use again", open.len());
        if let Ok(connection) = tokio::time::timeout(REFUSED_AFTER, Connection::open(vip)).await {
            open.push(connection?);
        }
    }
    for connection in &mut open {
        connection.ping().await.context("a connection after ports were used again")?;
    }
    Ok(count)
}

/// Whether lbctl says that it has dropped packets for this reason.
fn is_counted(lb: &Lb, reason: &str) -> bool {
    until_or(Duration::from_secs(5), || lb.succeed(&["vip", "--json"]).contains(reason).then_some(()))
        .is_some()
}

/// More UDP flows than lbctl remembers, among connections that it must not forget.
pub fn pressure(flows: u32, rounds: u32) -> FloodPlan {
    FloodPlan {
        mode: Mode::IpIp,
        backends: 3,
        kind: Kind::Datagrams { flows: flows * 10 },
        frames: flows * 10 * rounds,
        kernel: "flows = 4096",
        vip: "",
        tcp_vip: "",
        load: LoadPlan { lasting: 200, every: Duration::from_millis(100), newcomers: 2 },
    }
}

/// SYNs from random addresses, with what is configured when nothing is said: of NAT cookies, once there are many.
pub fn syns(mode: Mode, frames: u32) -> FloodPlan {
    FloodPlan {
        mode,
        backends: 3,
        kind: Kind::Syns,
        frames,
        kernel: "",
        vip: "",
        tcp_vip: "",
        load: LoadPlan { lasting: 200, every: Duration::from_millis(100), newcomers: 2 },
    }
}

/// SYNs from random addresses to a VIP with NAT that answers none with a cookie.
pub fn syns_without_cookies(frames: u32) -> FloodPlan {
    FloodPlan { tcp_vip: "syn_rate = 0", ..syns(Mode::Nat, frames) }
}

/// SYNs from random addresses, so many that each takes a port which the one backend could be reached from.
pub fn syns_for_all_ports(frames: u32) -> FloodPlan {
    FloodPlan { backends: 1, vip: "ports = \"20000-28191\"", ..syns_without_cookies(frames) }
}
