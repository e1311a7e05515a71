//! `kill -9` of supervised instances under load: how fast they are withdrawn and come back, and what clients notice.

use std::time::{Duration, Instant};

use anyhow::Context;
use lb_userspace::control::protocol::EventRecord;
use lb_userspace::time::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::config;
use crate::figures::{Durations, short};
use crate::lb::Lb;
use crate::load::{Load, Outcome, Plan};
use crate::port;
use crate::table::Table;

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct KillPlan {
    /// Instances of the one program.
    pub instances: u32,
    /// Keep-alive connections.
    pub connections: usize,
    /// How long the load lasts.
    pub time: Duration,
    /// From one kill to the next; the instances take turns.
    pub every: Duration,
}

/// What was measured.
#[derive(Default)]
pub struct KillFigures {
    /// What clients noticed.
    pub load: Outcome,
    /// Kills done.
    pub kills: u64,
    /// Turns of an instance that had no process or was not IN.
    pub missed: u64,
    /// From the call of kill to the row being OUT.
    pub kill_to_out: Durations,
    /// From the exit, as a userspace process sees it at the earliest (pidfd), to the row being OUT; zero where OUT came first.
    pub exit_to_out: Durations,
    /// From the row being OUT to the next process of the instance.
    pub respawn: Durations,
    /// From the row being OUT to the instance being IN again.
    pub back_in: Durations,
}

/// One kill.
struct Kill {
    name: String,
    killed: Time,
    seen: Time,
    out: Time,
}

/// Runs the scenario against an lbctl of its own.
///
/// # Errors
/// When the backend table cannot be read.
pub fn run(plan: KillPlan) -> anyhow::Result<KillFigures> {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, plan.instances, ""));
    let table = Table::of(lb.pid())?;
    let mut figures = KillFigures::default();
    // The first kills shall find instances that have been ready for more than a second.
    std::thread::sleep(Duration::from_millis(1_200));
    let load = Load::start(Plan::keep_alive(port, plan.connections));
    let mut kills = Vec::new();
    let end = Instant::now() + plan.time;
    let mut due = Instant::now() + plan.every / 2;
    for turn in 0.. {
        std::thread::sleep(due.min(end).saturating_duration_since(Instant::now()));
        if due >= end {
            break;
        }
        due += plan.every;
        let name = format!("demo:{}", turn % plan.instances);
        match kill_one(&lb, &table, &name)? {
            Some(kill) => kills.push(kill),
            None => figures.missed += 1,
        }
    }
    figures.load = load.finish();
    figures.kills = kills.len() as u64;
    lb.wait_ready();
    figures.add(&kills, &lb.events());
    lb.stop();
    Ok(figures)
}

/// Kills the instance if it is IN, and waits until it is seen to be dead and OUT.
fn kill_one(lb: &Lb, table: &Table, name: &str) -> anyhow::Result<Option<Kill>> {
    let status = lb.status();
    let Some(backend) = status.backends.iter().find(|backend| backend.name == name) else { return Ok(None) };
    let instance =
        status.instances.iter().find(|instance| instance.name == name).context("no such instance")?;
    let Some(pid) = instance.pid.filter(|_| backend.traffic_state == "IN") else { return Ok(None) };
    let pid = Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    let killed = Time::now();
    pidfd_send_signal(&process, Signal::KILL)?;
    let deadline = Timespec { tv_sec: 5, tv_nsec: 0 };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline)).context("waiting for the exit")?;
    let seen = Time::now();
    let row =
        table.wait_row(backend.slot, Duration::from_secs(2), |row| row.exited_instance == instance.instance);
    let row = row.with_context(|| format!("{name} was killed, but its row does not say so"))?;
    Ok(Some(Kill { name: name.to_owned(), killed, seen, out: Time(row.exited_at_ns) }))
}

impl KillFigures {
    fn add(&mut self, kills: &[Kill], events: &[EventRecord]) {
        for kill in kills {
            self.kill_to_out.add(kill.out.since(kill.killed));
            self.exit_to_out.add(kill.out.since(kill.seen));
            if let Some(at) = next(events, kill, "process spawned") {
                self.respawn.add(at.since(kill.out));
            }
            if let Some(at) = next(events, kill, "backend in") {
                self.back_in.add(at.since(kill.out));
            }
        }
    }

    /// Prints everything.
    pub fn print(&self) {
        println!(
            "{} requests, {} failed, {:.0}/s over {}; {} kills ({} turns missed)",
            self.load.ok + self.load.failed,
            self.load.failed,
            self.load.rate(),
            short(self.load.elapsed),
            self.kills,
            self.missed
        );
        for failure in self.load.failures.iter().take(5) {
            println!("  failed: {failure:?}");
        }
        self.exit_to_out.print("exit seen by pidfd → table OUT");
        self.kill_to_out.print("kill() → table OUT");
        self.respawn.print("table OUT → next process");
        self.back_in.print("table OUT → IN again");
        self.load.latency.print("request latency");
    }
}

/// When this first happened to the instance after the kill. Subjects are `demo:0` or `upstream/demo:0`.
fn next(events: &[EventRecord], kill: &Kill, what: &str) -> Option<Time> {
    let concerns = |event: &&EventRecord| {
        event.what == what
            && event.at_ns > kill.out.0
            && event.subject.rsplit('/').next() == Some(kill.name.as_str())
    };
    events.iter().find(concerns).map(|event| Time(event.at_ns))
}
