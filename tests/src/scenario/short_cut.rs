//! The short-cut between worker and local backends: what it gains, and that no byte is changed by it.

use std::time::Duration;

use anyhow::ensure;
use lb_userspace::control::protocol::{Answer, Capability, Command};

use crate::config;
use crate::control::ask;
use crate::figures::Spread;
use crate::lb::Lb;
use crate::load::{Plan, run_for};
use crate::port;
use crate::process::{cpu_time, machine_cpu_time};
use crate::scenario::echo::{self, EchoFigures, EchoPlan};

/// One turn with one of the two.
#[derive(Clone, Copy, Debug)]
struct Turn {
    rate: f64,
    product_cpu: f64,
    machine_cpu: f64,
}

/// Ratios on : off.
pub struct ShortCutFigures {
    /// Requests per second.
    pub rate: Spread,
    /// Processor time of master, worker and backends per request.
    pub product_cpu: Spread,
    /// Processor time of the whole machine per request, load generator and kernel threads included.
    pub machine_cpu: Spread,
}

impl ShortCutFigures {
    /// Prints everything.
    pub fn print(&self) {
        println!("on : off, requests/s             {}", self.rate);
        println!("on : off, CPU/request, product   {}", self.product_cpu);
        println!("on : off, CPU/request, machine   {}", self.machine_cpu);
    }
}

/// Runs both side by side and loads them in turns.
///
/// # Errors
/// When the short-cut cannot be switched on.
pub fn compare(
    pairs: usize,
    time: Duration,
    connections: usize,
    path: &str,
) -> anyhow::Result<ShortCutFigures> {
    let (on_port, off_port) = (port::free(), port::free());
    let (on, off) = (started(on_port, "on")?, started(off_port, "off")?);
    let (mut rates, mut product, mut machine) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=pairs {
        let (with, without) =
            (turn(&on, on_port, time, connections, path), turn(&off, off_port, time, connections, path));
        println!("pair {pair}: on {with:.1?}, off {without:.1?}");
        // The first pair warms up.
        if pair > 0 {
            rates.push(with.rate / without.rate);
            product.push(with.product_cpu / without.product_cpu);
            machine.push(with.machine_cpu / without.machine_cpu);
        }
    }
    on.stop();
    off.stop();
    Ok(ShortCutFigures {
        rate: Spread::of(rates),
        product_cpu: Spread::of(product),
        machine_cpu: Spread::of(machine),
    })
}

/// Random bodies through `/echo` with the short-cut on.
///
/// # Errors
/// When it cannot be switched on, or a byte differs.
pub fn exact(messages: u64, seed: u64) -> anyhow::Result<EchoFigures> {
    let port = port::free();
    let lb = started(port, "on")?;
    let target = ([127, 0, 0, 1], port).into();
    let figures = echo::run(EchoPlan { target, connections: 16, messages, seed })?;
    lb.stop();
    Ok(figures)
}

fn started(port: u16, switch: &str) -> anyhow::Result<Lb> {
    let lb = Lb::start(&config::demo(port, 2, &format!("[kernel]\nshort_cut = \"{switch}\"")));
    let capability = capability(&lb, "short_cut")?;
    ensure!(capability.on == (switch == "on"), "short_cut = \"{switch}\" gives {capability:?}");
    Ok(lb)
}

/// A row of the capability matrix.
///
/// # Errors
/// When there is no such row.
pub fn capability(lb: &Lb, name: &str) -> anyhow::Result<Capability> {
    let answers = ask(&lb.run_dir(), Command::Doctor)?;
    let rows = answers
        .into_iter()
        .find_map(|answer| if let Answer::Doctor(rows) = answer { Some(rows) } else { None });
    let found = rows.and_then(|rows| rows.into_iter().find(|row| row.name == name));
    found.ok_or_else(|| anyhow::anyhow!("doctor names no {name}"))
}

fn turn(lb: &Lb, port: u16, time: Duration, connections: usize, path: &str) -> Turn {
    let status = lb.status();
    let workers = status.workers.iter().map(|worker| worker.pid);
    let instances = status.instances.iter().filter_map(|instance| instance.pid);
    let pids: Vec<u32> = workers.chain(instances).chain([lb.pid()]).collect();
    let product = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    let (product_before, machine_before) = (product(), machine_cpu_time());
    let plan = Plan { paths: vec![path.to_owned()], ..Plan::keep_alive(port, connections) };
    let outcome = run_for(plan, time);
    outcome.assert_none_failed();
    let per_request =
        |before: Duration, after: Duration| (after - before).as_secs_f64() * 1e6 / outcome.ok as f64;
    Turn {
        rate: outcome.rate(),
        product_cpu: per_request(product_before, product()),
        machine_cpu: per_request(machine_before, machine_cpu_time()),
    }
}
