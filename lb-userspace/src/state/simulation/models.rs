//! Configurations for the simulated world: small, and different from each other in what matters to `step`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::model::steering::Steering;
use crate::config::model::{
    Address, AutoRestart, Backend, Balance, Dependency, DependencyCondition, Kernel, Limits, Log, Model,
    Node, Passive, Probe, ProbeKind, Program, ProgramAddress, ProgramLog, Startup, Stop, Upstream,
};

/// The address that programs of the simulation depend on.
pub fn outside() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 6379))
}

pub fn probe(every: u64, down_after: u32, up_after: u32) -> Probe {
    Probe {
        kind: ProbeKind::Http { path: "/health".to_owned(), host: None, status: Vec::new() },
        every: Duration::from_secs(every),
        timeout: Duration::from_secs(1),
        down_after,
        up_after,
    }
}

pub fn upstream(name: &str) -> Upstream {
    Upstream {
        name: name.to_owned(),
        balance: Balance::RoundRobin,
        keepalive: 8,
        connect_timeout: Duration::from_secs(5),
        send_timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(10),
        hold_timeout: Duration::from_secs(30),
        retry_budget: 0.2,
        probe: Some(probe(1, 2, 1)),
        passive: Passive {
            max_fails: 2,
            fail_window: Duration::from_secs(30),
            eject_for: Duration::from_secs(30),
            max_ejected: 0.5,
        },
        backends: Vec::new(),
        min_in: 1,
        drain_timeout: Duration::from_secs(3),
        slow_start: Duration::ZERO,
    }
}

pub fn program(name: &str, upstream: Option<&str>, instances: u32) -> Program {
    Program {
        name: name.to_owned(),
        upstream: upstream.map(str::to_owned),
        command: vec!["/bin/server".to_owned()],
        address: Some(ProgramAddress::Chosen(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        instances,
        weight: 1,
        directory: None,
        user: None,
        environment: BTreeMap::new(),
        umask: 0o022,
        autostart: true,
        autorestart: AutoRestart::Always,
        exit_codes: BTreeSet::from([0]),
        start_retries: 0,
        depends_on: Vec::new(),
        startup: None,
        liveness: None,
        stop: Stop { signal: 15, drain_timeout: Duration::from_secs(3), kill_after: Duration::from_secs(2) },
        limits: Limits::default(),
        log: ProgramLog::default(),
    }
}

pub fn model(upstreams: Vec<Upstream>, programs: Vec<Program>) -> Model {
    Model {
        node: Node {
            name: "edge".to_owned(),
            worker_threads: 1,
            user: None,
            trusted_proxies: Vec::new(),
            reason_header: false,
        },
        metrics_bind: None,
        kernel: Kernel::default(),
        log: Log::default(),
        listeners: Vec::new(),
        routes: Vec::new(),
        upstreams: upstreams.into_iter().map(|each| (each.name.clone(), each)).collect(),
        programs: programs.into_iter().map(|each| (each.name.clone(), each)).collect(),
        steering: Steering::default(),
    }
}

pub fn backend(port: u16) -> Backend {
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port)));
    Backend { address, weight: 1, backup: false, server_id: Vec::new() }
}

/// Another configuration, often much like the one before.
pub fn random_model(rng: &mut fastrand::Rng) -> Model {
    let mut upstreams = vec![random_upstream(rng, "a")];
    if rng.u8(..10) < 8 {
        upstreams.push(random_upstream(rng, "b"));
    }
    let has_b = upstreams.len() == 2;
    let mut programs = vec![random_web(rng, has_b)];
    if rng.u8(..10) < 8 {
        programs.push(random_db(rng));
    }
    if rng.u8(..10) < 5 {
        programs.push(random_job(rng));
    }
    if rng.u8(..10) < 5 {
        programs.push(random_green(rng));
    }
    model(upstreams, programs)
}

fn random_upstream(rng: &mut fastrand::Rng, name: &str) -> Upstream {
    let backends = (1..=3).filter(|_| rng.u8(..10) < 3).map(|port| backend(8000 + port)).collect();
    let probes = [None, Some(probe(1, 2, 1)), Some(probe(2, 1, 2))];
    let slow_start = Duration::from_secs(rng.u64(0..2) * 7);
    let probe = probes[rng.usize(0..3)].clone();
    Upstream { min_in: rng.usize(0..3), probe, backends, slow_start, ..upstream(name) }
}

fn random_web(rng: &mut fastrand::Rng, has_b: bool) -> Program {
    let startup =
        Startup { kind: ProbeKind::Tcp, every: Duration::from_millis(250), within: Duration::from_secs(5) };
    let name = if has_b && rng.u8(..10) < 3 { "b" } else { "a" };
    let depends_on = match rng.u8(..10) {
        0..3 => vec![
            Dependency::Program { name: "db".to_owned(), condition: DependencyCondition::Healthy },
            Dependency::Tcp(outside()),
        ],
        _ => Vec::new(),
    };
    Program {
        weight: rng.u32(1..3),
        startup: rng.bool().then_some(startup),
        liveness: rng.bool().then(|| probe(1, 2, 1)),
        command: vec![format!("/bin/web{}", rng.u8(..3) / 2)],
        start_retries: u32::from(rng.u8(..4) == 0) * 3,
        depends_on,
        ..program("web", Some(name), rng.u32(1..5))
    }
}

fn random_db(rng: &mut fastrand::Rng) -> Program {
    let upstream = (rng.u8(..10) == 0).then_some("a");
    let depends_on = match rng.u8(..6) {
        // A circle, now and then: the shutdown must come to its end all the same.
        0 => vec![Dependency::Program { name: "web".to_owned(), condition: DependencyCondition::Started }],
        _ => Vec::new(),
    };
    Program { depends_on, command: vec![format!("/bin/db{}", rng.u8(..5) / 4)], ..program("db", upstream, 1) }
}

fn random_job(rng: &mut fastrand::Rng) -> Program {
    let policies = [AutoRestart::Always, AutoRestart::OnFailure, AutoRestart::Never];
    Program {
        address: None,
        autorestart: policies[rng.usize(0..3)],
        autostart: rng.bool(),
        ..program("job", None, rng.u32(1..3))
    }
}

/// Shares upstream `a` with `web`: a new version beside an old one.
fn random_green(rng: &mut fastrand::Rng) -> Program {
    let on_tcp = Dependency::Tcp(outside());
    Program {
        depends_on: if rng.bool() { vec![on_tcp] } else { Vec::new() },
        address: Some(ProgramAddress::Unix("/run/green.$INSTANCE".to_owned())),
        ..program("green", Some("a"), rng.u32(1..3))
    }
}
