//! Small datagrams through lbctl's XDP programs and through nftables' NAT, in turns: what a packet costs.

use std::time::Duration;

use crate::figures::Spread;
use crate::lab::generator::{Cost, Generator, Kind};
use crate::lab::steer::{Mode, Steering};
use crate::lab::{Card, Lab, Plan, nft};
use crate::process::{cpu_time, descendants, machine_cpu_time};

/// Frames of one run of the generator.
const RUN: u32 = 100_000;

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct NftPlan {
    /// Turns of each.
    pub pairs: usize,
    /// Length of a turn.
    pub time: Duration,
    /// Flows that the datagrams belong to.
    pub flows: u32,
    /// How lbctl forwards.
    pub mode: Mode,
}

/// Who forwards in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Balancer {
    /// lbctl.
    Lbctl(Mode),
    /// nftables.
    Nft,
    /// Nobody: frames are dropped where they come in, which is what making them costs.
    Nobody,
}

/// What one turn gave.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Datagrams that arrived.
    pub arrived: u64,
    /// Datagrams that were sent.
    pub sent: u64,
    /// What they took.
    pub cost: Cost,
    /// Processor time of the whole machine meanwhile.
    pub machine: Duration,
}

impl Turn {
    /// Datagrams a second.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.cost.elapsed.as_secs_f64()
    }

    /// Datagrams for each second of processor time.
    pub fn per_cpu_second(&self) -> f64 {
        self.arrived as f64 / self.cost.cpu.as_secs_f64()
    }

    /// Nanoseconds of processor time for each datagram that arrived.
    pub fn nanoseconds(&self) -> f64 {
        1e9 / self.per_cpu_second()
    }

    fn print(&self, name: &str) {
        println!(
            "  {name:<7} {:>8.0} packets/s, {:>8.0} for each CPU-second, {:>6.0} ns each; {:.1} % of those sent; machine busy {:.0} ns each",
            self.rate(),
            self.per_cpu_second(),
            self.nanoseconds(),
            self.arrived as f64 * 100.0 / self.sent as f64,
            self.machine.as_nanos() as f64 / self.arrived as f64,
        );
    }
}

/// All turns.
pub struct NftFigures {
    /// lbctl's.
    pub lbctl: Vec<Turn>,
    /// nftables'.
    pub nft: Vec<Turn>,
    /// Only made and dropped.
    pub nobody: Turn,
}

/// Runs the turns.
///
/// # Errors
/// When a laboratory cannot be built or a datagram gets nowhere.
pub fn run(plan: NftPlan) -> anyhow::Result<NftFigures> {
    let nobody = turn(plan, Balancer::Nobody)?;
    nobody.print("made");
    let mut figures = NftFigures { lbctl: Vec::new(), nft: Vec::new(), nobody };
    for _ in 0..plan.pairs {
        figures.nft.push(turn(plan, Balancer::Nft)?);
        figures.nft[figures.nft.len() - 1].print("nft");
        figures.lbctl.push(turn(plan, Balancer::Lbctl(plan.mode))?);
        figures.lbctl[figures.lbctl.len() - 1].print("lbctl");
    }
    Ok(figures)
}

fn turn(plan: NftPlan, balancer: Balancer) -> anyhow::Result<Turn> {
    let card = if balancer == Balancer::Nft { Card::SinksBuffers } else { Card::SinksFrames };
    let mut lab = Lab::new(Plan { card, ..Plan::two_armed(1) })?;
    let mut lb = None;
    // The balancer's probes find somebody.
    let _servers = lab.serve(&[Mode::Nat.backend_port(), Mode::L2Dsr.backend_port()])?;
    match balancer {
        Balancer::Lbctl(mode) => lb = Some(Steering::new(&lab, mode).start(&lab)),
        Balancer::Nft => {
            // A veth takes frames from XDP only where its other end polls.
            lab.balancer.succeed("ethtool", &["-K", lab.front(), "gro", "on"])?;
            nft::balance(&lab, Mode::Nat.backend_port())?;
        }
        Balancer::Nobody => lab.object.attach_xdp("lab_sink", &lab.balancer, lab.front())?,
    }
    let mut generator = Generator::new(&lab, Kind::Datagrams { flows: plan.flows })?;
    // Every flow is known, the neighbours too.
    generator.send(RUN.max(2 * plan.flows))?;
    let own_time = || lb.as_ref().map_or(Duration::ZERO, |lb| tree_time(lb.pid()));
    let before = (lab.object.count("SUNK"), machine_cpu_time(), own_time());
    let (mut cost, mut sent) = (Cost::default(), 0);
    while cost.elapsed < plan.time {
        let run = generator.send(RUN)?;
        cost = Cost { elapsed: cost.elapsed + run.elapsed, cpu: cost.cpu + run.cpu };
        sent += u64::from(RUN);
    }
    cost.cpu += own_time().saturating_sub(before.2);
    let arrived = lab.object.count("SUNK") - before.0;
    anyhow::ensure!(arrived > sent / 100, "{balancer:?} forwarded {arrived} of {sent} datagrams");
    Ok(Turn { arrived, sent, cost, machine: machine_cpu_time() - before.1 })
}

fn tree_time(pid: u32) -> Duration {
    descendants(pid).iter().map(|process| cpu_time(process.pid)).sum::<Duration>() + cpu_time(pid)
}

impl NftFigures {
    /// lbctl's packets per CPU-second over nftables'.
    pub fn ratio(&self) -> Spread {
        self.ratios(|lbctl, nft| lbctl.per_cpu_second() / nft.per_cpu_second())
    }

    /// Prints the ratios.
    pub fn print(&self) {
        println!("packets per second, lbctl / nft: {}", self.ratios(|lbctl, nft| lbctl.rate() / nft.rate()));
        println!("packets per CPU-second, lbctl / nft: {}", self.ratio());
        let made = self.nobody.nanoseconds();
        let net = self.ratios(|lbctl, nft| (nft.nanoseconds() - made) / (lbctl.nanoseconds() - made));
        println!("the same without the {made:.0} ns that making a packet takes: {net}");
    }

    fn ratios(&self, of: impl Fn(&Turn, &Turn) -> f64) -> Spread {
        Spread::of(self.lbctl.iter().zip(&self.nft).map(|(lbctl, nft)| of(lbctl, nft)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_datagrams_reach_the_backend_through_the_peer() {
        let plan = NftPlan { pairs: 1, time: Duration::from_millis(200), flows: 1_000, mode: Mode::Nat };
        let (made, nft) = (turn(plan, Balancer::Nobody).unwrap(), turn(plan, Balancer::Nft).unwrap());
        made.print("made");
        nft.print("nft");
        assert!(nft.arrived > nft.sent / 2, "{nft:?}");
        assert!(made.nanoseconds() < nft.nanoseconds());
    }
}
