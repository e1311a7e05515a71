//! `cargo xtask bench NAME`: an acceptance scenario at full length; prints figures and fails when one misses its target.

use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use lb_tests::lab::steer::Mode;
use lb_tests::scenario::{freeze, idle, kill, l4_nft, short_cut, transfer, websocket, worker_kill};

/// Measures lbctl, and fails when a figure misses its target.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The demonstration at rest: ready within 1 s, idle below 0.5 % of a core.
    Idle {
        /// How long to watch.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// Three instances under load, one killed every 500 ms: no request fails.
    Kill {
        /// How long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Requests that must be made.
        #[arg(long, default_value_t = 200_000)]
        requests: u64,
    },
    /// The only instance killed under load: requests wait, none fails.
    KillOne {
        /// How long.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// One of three frozen, then one of three that closes its listening socket.
    Freeze,
    /// WebSockets through reload and rolling restart.
    Websocket {
        /// How many.
        #[arg(long, default_value_t = 200)]
        count: usize,
    },
    /// The worker killed under load.
    WorkerKill {
        /// How often.
        #[arg(long, default_value_t = 10)]
        kills: u64,
    },
    /// The short-cut on against off, in turns; then byte-exactness with it on.
    ShortCut {
        /// Pairs of turns.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Length of a turn.
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Messages of random size.
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
        /// Of the random sizes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Large bodies through gunicorn and nginx.
    Upload {
        /// To gunicorn.
        #[arg(long, default_value_t = 100)]
        upload_mib: u64,
        /// From nginx.
        #[arg(long, default_value_t = 1024)]
        download_mib: u64,
    },
    /// 64-byte datagrams through lbctl and through nftables, in turns.
    L4Nft {
        /// Turns of each.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Length of a turn.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Flows that the datagrams belong to.
        #[arg(long, default_value_t = 1_000)]
        flows: u32,
        /// How lbctl forwards.
        #[arg(long, default_value = "nat")]
        mode: Mode,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::Idle { seconds } => idle(Duration::from_secs(seconds)),
        Bench::Kill { seconds, requests } => kill(Duration::from_secs(seconds), requests),
        Bench::KillOne { seconds } => kill_one(Duration::from_secs(seconds)),
        Bench::Freeze => freeze(),
        Bench::Websocket { count } => websocket(count),
        Bench::WorkerKill { kills } => worker_kill(kills),
        Bench::ShortCut { pairs, seconds, messages, seed } => {
            short_cut(pairs, Duration::from_secs(seconds), messages, seed)
        }
        Bench::Upload { upload_mib, download_mib } => upload(upload_mib << 20, download_mib << 20),
        Bench::L4Nft { pairs, seconds, flows, mode } => {
            l4_nft(l4_nft::NftPlan { pairs, time: Duration::from_secs(seconds), flows, mode })
        }
    }
}

fn idle(time: Duration) -> anyhow::Result<()> {
    let figures = idle::run(time)?;
    figures.print();
    ensure!(figures.ready_after <= Duration::from_secs(1), "not ready within a second");
    ensure!(figures.cpu_share < 0.005, "idle costs more than 0.5 % of a core");
    Ok(())
}

fn kill(time: Duration, requests: u64) -> anyhow::Result<()> {
    let figures =
        kill::run(kill::KillPlan { instances: 3, connections: 32, time, every: Duration::from_millis(500) })?;
    figures.print();
    ensure!(figures.load.failed == 0, "{} requests failed", figures.load.failed);
    ensure!(figures.load.ok >= requests, "only {} requests", figures.load.ok);
    ensure!(figures.exit_to_out.percentile(99.0) <= Duration::from_millis(1), "withdrawn too late");
    ensure!(figures.respawn.max() <= Duration::from_millis(50), "spawned too late");
    Ok(())
}

fn kill_one(time: Duration) -> anyhow::Result<()> {
    let figures = kill::run(kill::KillPlan {
        instances: 1,
        connections: 32,
        time,
        every: Duration::from_millis(1_500),
    })?;
    figures.print();
    ensure!(figures.load.failed == 0, "{} requests failed", figures.load.failed);
    let allowed = figures.back_in.max() + Duration::from_millis(100);
    ensure!(figures.load.latency.max() <= allowed, "a held request took longer than the start and 100 ms");
    Ok(())
}

fn freeze() -> anyhow::Result<()> {
    let frozen = freeze::frozen(32)?;
    frozen.print("SIGSTOP");
    let deaf = freeze::deaf(32)?;
    deaf.print("listener closed");
    ensure!(frozen.failed_after_out == 0 && deaf.load.failed == 0, "requests failed");
    ensure!(deaf.out_after < Duration::from_millis(100), "a closed listener was noticed too late");
    Ok(())
}

fn websocket(count: usize) -> anyhow::Result<()> {
    let figures = websocket::run(count)?;
    figures.print();
    ensure!(figures.load.failed == 0 && figures.broken().is_empty(), "requests or WebSockets failed");
    ensure!(figures.around_reload == (count, count), "the reload ended WebSockets");
    Ok(())
}

fn worker_kill(kills: u64) -> anyhow::Result<()> {
    let figures = worker_kill::run(kills)?;
    figures.print();
    ensure!(figures.refused == 0 && figures.fresh_failed_after.is_empty(), "new connections failed");
    ensure!(
        figures.first_success.max() <= Duration::from_millis(200),
        "new requests waited more than 200 ms"
    );
    Ok(())
}

fn short_cut(pairs: usize, time: Duration, messages: u64, seed: u64) -> anyhow::Result<()> {
    for (connections, path) in [(16, "/"), (4, "/bytes?n=1048576")] {
        println!("{connections} connections, GET {path}");
        short_cut::compare(pairs, time, connections, path)?.print();
    }
    let exact = short_cut::exact(messages, seed)?;
    println!("byte-exact with the short-cut on: {exact:?}");
    Ok(())
}

fn upload(upload_bytes: u64, download_bytes: u64) -> anyhow::Result<()> {
    let transfers = transfer::run(upload_bytes, download_bytes)?;
    transfers.iter().for_each(transfer::Transfer::print);
    ensure!(transfers.iter().all(|transfer| transfer.exact), "bytes differ");
    ensure!(transfers.iter().all(|transfer| transfer.growth_bytes < 64 << 20), "the worker's memory grew");
    Ok(())
}

fn l4_nft(plan: l4_nft::NftPlan) -> anyhow::Result<()> {
    let figures = l4_nft::run(plan)?;
    figures.print();
    ensure!(figures.ratio().median >= 3.0, "fewer than three times nftables' packets for each CPU-second");
    Ok(())
}
