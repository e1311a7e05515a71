//! Real traffic through one way of forwarding: bytes, connections, datagrams, fragments, ICMP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::figures::short;
use crate::lab::address::{Family, VIP_PORT};
use crate::lab::client::{self, Connection, Transfer};
use crate::lab::steer::{Mode, Steering};
use crate::lab::{Lab, Plan, echo, icmp};

/// Packets of every wire.
const MTU: usize = 1_500;

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct ModePlan {
    /// How lbctl forwards.
    pub mode: Mode,
    /// The laboratory.
    pub lab: Plan,
    /// Bytes of the transfer, each way.
    pub bytes: u64,
    /// Connections at once.
    pub connections: usize,
}

/// What was measured for one family; whatever went wrong was an error.
#[derive(Debug)]
pub struct ModeFigures {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The transfer.
    pub transfer: Transfer,
    /// Connections of each backend.
    pub shares: Vec<usize>,
    /// An echo of the VIP.
    pub echo: Duration,
}

impl ModeFigures {
    /// One line.
    pub fn print(&self, plan: &ModePlan) {
        let rate = |time: Duration| plan.bytes as f64 * 8.0 / 1e9 / time.as_secs_f64();
        println!(
            "{:?} {:?} {:?}{}: {} MiB exact, {:.2} Gbit/s up, {:.2} down; {} connections {:?}; echo {}",
            plan.mode,
            self.family,
            plan.lab.arms,
            if plan.lab.tagged { " VLAN" } else { "" },
            plan.bytes >> 20,
            rate(self.transfer.up),
            rate(self.transfer.down),
            plan.connections,
            self.shares,
            short(self.echo),
        );
    }
}

/// Runs both families against an lbctl of their own.
///
/// # Errors
/// At the first thing that is not as it should be.
pub fn run(plan: ModePlan) -> anyhow::Result<Vec<ModeFigures>> {
    let lab = Lab::new(plan.lab)?;
    if !plan.mode.translates() {
        lab.give_vips_to_backends()?;
    }
    let _servers = lab.serve(&[plan.mode.backend_port()])?;
    let lb = Steering::new(&lab, plan.mode).start(&lab);
    let checked = Family::BOTH.into_iter().map(|family| {
        check(&lab, plan, family)
            .with_context(|| format!("{:?} {family:?}\n{}", plan.mode, lb.succeed(&["vip"])))
    });
    let figures = checked.collect::<anyhow::Result<Vec<_>>>()?;
    if plan.lab.tagged {
        ensure!(
            lab.object.count("TAGGED") > 0 || !plan.mode.translates(),
            "no answer had the tag of its request"
        );
        ensure!(lab.object.count("UNTAGGED") == 0 || !plan.mode.translates(), "answers lost their tag");
    }
    lb.stop();
    Ok(figures)
}

fn check(lab: &Lab, plan: ModePlan, family: Family) -> anyhow::Result<ModeFigures> {
    let vip = SocketAddr::from((family.vip(), VIP_PORT));
    let echo = icmp::ping(&lab.client, family.vip()).context("echo")?;
    source(lab, plan.mode, family, vip).context("source")?;
    too_big(lab, plan.mode, family, vip).context("too big")?;
    let expired = icmp::error_about(&lab.client, vip, 1, 64).context("time to live")?;
    ensure!(expired.is_time_exceeded(), "a packet on its last hop was answered with {expired:?}");
    let transfer = client::transfer(&lab.client, vip, plan.bytes).context("transfer")?;
    let shares = client::parallel(&lab.client, vip, plan.connections).context("parallel connections")?;
    ensure!(
        shares.len() == lab.backends.len() && shares.iter().all(|share| *share > 0),
        "of {} connections the backends have {shares:?}",
        plan.connections
    );
    // The last two travel as fragments.
    for bytes in [1, 64, 1_400, 4_000, 20_000] {
        echo::datagram(&lab.client, vip, bytes).context("datagram")?;
    }
    ensure!(lab.object.count("BAD_OUTER") == 0, "outer headers that no kernel would accept");
    let tunnels = plan.mode.overhead(family) > 0;
    ensure!(tunnels == (lab.object.count("DECAPSULATED") > 0), "packets came outside of their tunnel");
    Ok(ModeFigures { family, transfer, shares, echo })
}

/// Backends see us, or the client.
fn source(lab: &Lab, mode: Mode, family: Family, vip: SocketAddr) -> anyhow::Result<()> {
    let (seen, own) = client::run(&lab.client, async {
        let mut connection = Connection::open(vip).await?;
        anyhow::Ok((connection.source().await?, connection.local()?))
    })?;
    let expected = if mode == Mode::Nat { family.balancer(crate::lab::address::BACKEND_NET) } else { own };
    ensure!(seen == expected, "the backend sees {seen} and not {expected}");
    Ok(())
}

/// A tunnel has no room for a packet as large as the wire: the sender is told what fits.
fn too_big(lab: &Lab, mode: Mode, family: Family, vip: SocketAddr) -> anyhow::Result<()> {
    let overhead = mode.overhead(family);
    if overhead == 0 {
        return Ok(());
    }
    let headers = if family == Family::V4 { 28 } else { 48 };
    let error = icmp::error_about(&lab.client, vip, 64, MTU - headers)?;
    let fits = MTU as u32 - u32::from(overhead);
    ensure!(error.mtu() == Some(fits), "{error:?} does not say that {fits} bytes fit");
    Ok(())
}
