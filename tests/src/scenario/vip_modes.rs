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

/// Every check of one family; all that fail are told.
///
/// # Errors
/// When one failed.
pub fn check(lab: &Lab, plan: ModePlan, family: Family) -> anyhow::Result<ModeFigures> {
    let vip = SocketAddr::from((family.vip(), VIP_PORT));
    let mut failed = Vec::new();
    let echo = noted(&mut failed, "echo", icmp::ping(&lab.client, family.vip()));
    noted(&mut failed, "source", source(lab, plan.mode, family, vip));
    // Before transfers teach the client what fits.
    noted(&mut failed, "too big", too_big(lab, plan.mode, family, vip));
    noted(&mut failed, "time to live", time_to_live(lab, vip));
    let transfer = noted(&mut failed, "transfer", client::transfer(&lab.client, vip, plan.bytes));
    let shares = noted(&mut failed, "parallel connections", parallel(lab, vip, plan.connections));
    for bytes in [1, 64, 1_400] {
        noted(&mut failed, "datagram", echo::datagram(&lab.client, vip, bytes));
    }
    for bytes in [4_000, 20_000] {
        noted(&mut failed, "fragments", echo::datagram(&lab.client, vip, bytes));
    }
    if lab.object.count("BAD_OUTER") > 0 {
        failed.push("tunnel: outer headers that no kernel would accept".to_owned());
    }
    if (plan.mode.overhead(family) > 0) != (lab.object.count("DECAPSULATED") > 0) {
        failed.push("tunnel: packets came otherwise than by tunnel".to_owned());
    }
    match (echo, transfer, shares) {
        (Some(echo), Some(transfer), Some(shares)) if failed.is_empty() => {
            Ok(ModeFigures { family, transfer, shares, echo })
        }
        _ => Err(anyhow::anyhow!(failed.join("; "))),
    }
}

fn noted<T>(failed: &mut Vec<String>, name: &str, result: anyhow::Result<T>) -> Option<T> {
    result.map_err(|error| failed.push(format!("{name}: {error:#}"))).ok()
}

fn time_to_live(lab: &Lab, vip: SocketAddr) -> anyhow::Result<()> {
    let expired = icmp::error_about(&lab.client, vip, 1, 64)?;
    ensure!(expired.is_time_exceeded(), "a packet on its last hop was answered with {expired:?}");
    Ok(())
}

fn parallel(lab: &Lab, vip: SocketAddr, connections: usize) -> anyhow::Result<Vec<usize>> {
    let shares = client::parallel(&lab.client, vip, connections)?;
    let all_have = shares.len() == lab.backends.len() && shares.iter().all(|share| *share > 0);
    ensure!(all_have, "of {connections} connections the backends have {shares:?}");
    Ok(shares)
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
