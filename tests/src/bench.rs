//! `cargo xtask bench NAME`: an acceptance scenario at full length; prints figures and fails when one misses its target.

use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, Subcommand};
use lb_tests::lab::steer::Mode;
use lb_tests::lab::{Arms, Plan};
use lb_tests::scenario::vip_load::LoadPlan;
use lb_tests::scenario::{
    freeze, idle, kill, l4_nft, peers, short_cut, transfer, vip_change, vip_flood, vip_modes, websocket,
    worker_kill,
};
use lb_tests::steer::{agreement, cost, smoke};

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
    /// The HTTP proxy against nginx and HAProxy with the same features, each on core 0, in turns.
    Peers {
        /// Turns of each.
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Length of a turn.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        /// Clients at once.
        #[arg(long, default_value_t = 32)]
        connections: usize,
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
    /// What a packet costs the steering program, beside an empty one; what its programs cost to load.
    L4 {
        /// Single runs of each case.
        #[arg(long, default_value_t = 20_000)]
        runs: u32,
    },
    /// Frames through the host's decisions and the kernel's programs: same verdict, same bytes.
    Agreement {
        /// How many through both.
        #[arg(long, default_value_t = 1_000_000)]
        frames: u64,
        /// How many through the host alone.
        #[arg(long, default_value_t = 10_000_000)]
        host_frames: u64,
        /// Of the random frames.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// What must hold on any kernel: every program loads, every mode forwards, 2,000 frames agree.
    Smoke,
    /// Large bodies through gunicorn and nginx.
    Upload {
        /// To gunicorn.
        #[arg(long, default_value_t = 100)]
        upload_mib: u64,
        /// From nginx.
        #[arg(long, default_value_t = 1024)]
        download_mib: u64,
    },
    /// Every way of forwarding, with 100 MiB and 1,000 connections for each family.
    Vip {
        /// Of each transfer, each way.
        #[arg(long, default_value_t = 100)]
        mib: u64,
        /// At once.
        #[arg(long, default_value_t = 1_000)]
        connections: usize,
        /// Only this one.
        #[arg(long)]
        mode: Option<Mode>,
    },
    /// Backends of VIPs change every 200 ms under load, and again with lbctl killed ten times: no connection is lost.
    VipChange {
        /// How long, each time.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Connections that last.
        #[arg(long, default_value_t = 2_000)]
        connections: usize,
        /// Kills of lbctl.
        #[arg(long, default_value_t = 10)]
        restarts: u32,
        /// How lbctl forwards.
        #[arg(long, default_values = ["nat", "ipip"])]
        mode: Vec<Mode>,
        /// Of the changes.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Too few ports, more flows than room, and SYNs from random addresses: who behaves notices nothing.
    VipFlood {
        /// SYNs.
        #[arg(long, default_value_t = 1_000_000)]
        syns: u32,
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
        Bench::Peers { rounds, seconds, connections } => {
            compare_peers(rounds, Duration::from_secs(seconds), connections)
        }
        Bench::ShortCut { pairs, seconds, messages, seed } => {
            short_cut(pairs, Duration::from_secs(seconds), messages, seed)
        }
        Bench::L4 { runs } => cost::run(runs),
        Bench::Agreement { frames, host_frames, seed } => agreement::run(frames, host_frames, seed),
        Bench::Smoke => smoke::run(),
        Bench::Upload { upload_mib, download_mib } => upload(upload_mib << 20, download_mib << 20),
        Bench::Vip { mib, connections, mode } => vip(mib << 20, connections, mode),
        Bench::VipChange { seconds, connections, restarts, mode, seed } => {
            vip_change(Duration::from_secs(seconds), connections, restarts, &mode, seed)
        }
        Bench::VipFlood { syns } => vip_flood(syns),
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

fn compare_peers(rounds: usize, time: Duration, connections: usize) -> anyhow::Result<()> {
    for bytes in [128, 64 * 1024] {
        println!("{connections} connections, answers of {bytes} bytes");
        peers::run(peers::PeersPlan { rounds, time, connections, bytes })?.print();
    }
    Ok(())
}

fn short_cut(pairs: usize, time: Duration, messages: u64, seed: u64) -> anyhow::Result<()> {
    let cases = [(16, "/"), (16, "/bytes?n=65536"), (4, "/bytes?n=1048576"), (2, "/bytes?n=16777216")];
    for (connections, path) in cases {
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

fn vip(bytes: u64, connections: usize, only: Option<Mode>) -> anyhow::Result<()> {
    for mode in Mode::ALL.into_iter().filter(|mode| only.is_none_or(|only| only == *mode)) {
        for arms in [Arms::Two, Arms::One] {
            // On one arm the answers of backends that know the client's address do not come back to us.
            if (mode, arms) == (Mode::NatClient, Arms::One) {
                continue;
            }
            let lab = Plan { arms, ..Plan::two_armed(3) };
            let plan = vip_modes::ModePlan { mode, lab, bytes, connections };
            vip_modes::run(plan)?.iter().for_each(|figures| figures.print(&plan));
        }
    }
    Ok(())
}

fn vip_change(
    time: Duration,
    connections: usize,
    restarts: u32,
    modes: &[Mode],
    seed: u64,
) -> anyhow::Result<()> {
    let mut lost = 0;
    for &mode in modes {
        for restarts in [0, restarts] {
            println!("{mode:?}, lbctl killed {restarts} times");
            let load = LoadPlan { lasting: connections, every: Duration::from_millis(250), newcomers: 16 };
            let every = Duration::from_millis(200);
            let plan = vip_change::ChangePlan { mode, backends: 8, load, time, every, restarts, seed };
            let figures = vip_change::run(plan)?;
            figures.print();
            lost += figures.lost.len();
        }
    }
    ensure!(lost == 0, "{lost} connections were lost though their backend lived");
    Ok(())
}

fn vip_flood(syns: u32) -> anyhow::Result<()> {
    println!("full NAT with 100 ports: {} connections", vip_flood::exhaust_ports(100)?);
    let mut missed = Vec::new();
    let floods = [
        ("10 x more flows than room", vip_flood::pressure(4_096, 5)),
        ("SYNs, nat", vip_flood::syns(Mode::Nat, syns)),
        ("SYNs, nat without cookies", vip_flood::syns_without_cookies(syns)),
        ("SYNs, nat without cookies, 8,192 ports", vip_flood::syns_for_all_ports(syns)),
        ("SYNs, ipip", vip_flood::syns(Mode::IpIp, syns)),
    ];
    for (name, plan) in floods {
        let figures = vip_flood::run(plan)?;
        figures.print(name);
        if figures.lost > 0 || figures.went_well() < 0.99 {
            missed.push(name);
        }
    }
    ensure!(missed.is_empty(), "established flows lost, or fewer than 99 % of handshakes: {missed:?}");
    Ok(())
}

fn l4_nft(plan: l4_nft::NftPlan) -> anyhow::Result<()> {
    let figures = l4_nft::run(plan)?;
    figures.print();
    ensure!(figures.ratio().median >= 3.0, "fewer than three times nftables' packets for each CPU-second");
    Ok(())
}
