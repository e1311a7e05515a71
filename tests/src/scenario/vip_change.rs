//! The backends of VIPs change all the time under load, or lbctl itself is killed: what becomes of connections.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::figures::{Durations, short};
use crate::lab::address::Family;
use crate::lab::server::Server;
use crate::lab::steer::{Mode, Steering};
use crate::lab::{Lab, Plan};
use crate::lb::Lb;
use crate::scenario::vip_load::{LoadPlan, Loss, Noticed, VipLoad};

/// Backends that are left alone, so that some always survive.
const UNTOUCHED: usize = 2;
/// How long a killed backend stays so at most: longer than its probe needs to see it.
const DOWN_MAX: Duration = Duration::from_millis(1_500);
/// How long a lost connection may lie in the kernel's queues before its client hears of it.
const SLACK: Duration = Duration::from_millis(50);

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct ChangePlan {
    /// How lbctl forwards.
    pub mode: Mode,
    /// Backends, the first two of which are left alone.
    pub backends: usize,
    /// The clients.
    pub load: LoadPlan,
    /// How long.
    pub time: Duration,
    /// From one change to the next.
    pub every: Duration,
    /// How often lbctl is killed and started again, evenly spread.
    pub restarts: u32,
    /// Of the changes.
    pub seed: u64,
}

/// What was done and noticed.
pub struct ChangeFigures {
    /// How often each change was made.
    pub changes: BTreeMap<&'static str, u32>,
    /// What clients noticed.
    pub noticed: Noticed,
    /// Connections that ended though their backend lived: must be none.
    pub lost: Vec<Loss>,
    /// Connections that ended with their backend.
    pub ended_with_backend: usize,
    /// Connections that a killed backend refused before its death was known.
    pub refused_by_killed: usize,
    /// From the death of lbctl until its successor answered.
    pub restarts: Durations,
    /// How long it took.
    pub elapsed: Duration,
    /// When it began.
    pub started: Instant,
    /// Each change, and when it was done.
    pub log: Vec<(Instant, String)>,
}

/// A backend that was killed, and until when.
struct Kill {
    backend: usize,
    from: Instant,
    until: Option<Instant>,
}

/// Makes the changes.
struct Changer<'a> {
    plan: ChangePlan,
    lab: &'a Lab,
    servers: &'a [Server],
    lb: Lb,
    steering: Steering,
    /// Backends as they are, by number; the untouched ones are not among them.
    states: BTreeMap<usize, State>,
    kills: Vec<Kill>,
    changes: BTreeMap<&'static str, u32>,
    log: Vec<(Instant, String)>,
    /// Commands that were given and may not be finished.
    commands: Vec<Child>,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    Removed,
    Drained,
    Closed,
    Unplugged,
}

/// Runs it against an lbctl of its own.
///
/// # Errors
/// When the laboratory cannot be built.
pub fn run(plan: ChangePlan) -> anyhow::Result<ChangeFigures> {
    let lab = Lab::new(Plan::two_armed(plan.backends))?;
    if !plan.mode.translates() {
        lab.give_vips_to_backends()?;
    }
    let servers = lab.serve(&[plan.mode.backend_port()])?;
    let steering = Steering::new(&lab, plan.mode);
    let lb = steering.start(&lab);
    let load = VipLoad::start(&lab, plan.load);
    let mut changer = Changer {
        plan,
        lab: &lab,
        servers: &servers,
        lb,
        steering,
        states: (UNTOUCHED..plan.backends).map(|number| (number, State::In)).collect(),
        kills: Vec::new(),
        changes: BTreeMap::new(),
        log: Vec::new(),
        commands: Vec::new(),
        rng: fastrand::Rng::with_seed(plan.seed),
    };
    let started = Instant::now();
    let restarts = changer.run()?;
    let elapsed = started.elapsed();
    let noticed = load.finish();
    let Changer { lb, kills, changes, log, .. } = changer;
    lb.stop();
    let (mut lost, mut ended_with_backend, mut refused_by_killed) = (Vec::new(), 0, 0);
    for loss in &noticed.losses {
        match cause(loss, &kills) {
            Some(Cause::BackendEnded) => ended_with_backend += 1,
            Some(Cause::RefusedByKilled) => refused_by_killed += 1,
            None => lost.push(loss.clone()),
        }
    }
    Ok(ChangeFigures {
        changes,
        noticed,
        lost,
        ended_with_backend,
        refused_by_killed,
        restarts,
        elapsed,
        started,
        log,
    })
}

/// Why a connection may have ended.
enum Cause {
    BackendEnded,
    RefusedByKilled,
}

fn cause(loss: &Loss, kills: &[Kill]) -> Option<Cause> {
    let until = |kill: &Kill| kill.until.unwrap_or(loss.noticed) + SLACK;
    // While it was down before the connection ended, and not all over before it began.
    let overlaps = |kill: &Kill| kill.from <= loss.noticed + SLACK && loss.opened <= until(kill);
    // It died in the short time that the connection had lasted without an answer.
    let died_within = |kill: &Kill| (loss.opened - SLACK..=loss.noticed + SLACK).contains(&kill.from);
    match loss.backend {
        Some(backend) => {
            let ended = kills.iter().any(|kill| kill.backend == backend && overlaps(kill));
            ended.then_some(Cause::BackendEnded)
        }
        None if loss.refused => kills.iter().any(overlaps).then_some(Cause::RefusedByKilled),
        None => kills.iter().any(died_within).then_some(Cause::BackendEnded),
    }
}

impl Changer<'_> {
    fn run(&mut self) -> anyhow::Result<Durations> {
        let started = Instant::now();
        let pause = self.plan.time / (self.plan.restarts + 1);
        let (mut restarts, mut due) = (Durations::default(), started + self.plan.every);
        while due < started + self.plan.time {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += self.plan.every;
            if restarts.count() < u64::from(self.plan.restarts)
                && started.elapsed() > pause * (restarts.count() as u32 + 1)
            {
                restarts.add(self.restart());
            } else {
                self.change()?;
            }
        }
        // Everybody comes back, so that connections that still wait for their backend can go on.
        for number in self.states.keys().copied().collect::<Vec<_>>() {
            self.bring_back(number)?;
        }
        for mut command in self.commands.drain(..) {
            let _ = command.wait();
        }
        Ok(restarts)
    }

    /// `kill -9` and another one at once.
    fn restart(&mut self) -> Duration {
        let killed = Instant::now();
        self.lb.kill_master();
        self.lb.start_again();
        self.did("lbctl killed", None);
        killed.elapsed()
    }

    fn change(&mut self) -> anyhow::Result<()> {
        self.commands.retain_mut(|command| matches!(command.try_wait(), Ok(None)));
        let overdue = self.kills.iter().find(|kill| kill.until.is_none() && kill.from.elapsed() > DOWN_MAX);
        if let Some(kill) = overdue {
            return self.bring_back(kill.backend);
        }
        let candidates: Vec<usize> = self.states.keys().copied().collect();
        let number = candidates[self.rng.usize(..candidates.len())];
        match self.states[&number] {
            State::Closed | State::Unplugged => self.weigh(),
            State::Removed | State::Drained => self.bring_back(number)?,
            State::In => match self.rng.u8(..5) {
                0 => self.remove(number),
                1 => self.drain(number)?,
                2 => self.close(number),
                3 => self.unplug(number)?,
                _ => self.weigh(),
            },
        }
        Ok(())
    }

    fn remove(&mut self, number: usize) {
        self.steering.backends.retain(|(other, _)| *other != number);
        self.reload("removed", number);
        self.states.insert(number, State::Removed);
    }

    fn weigh(&mut self) {
        let chosen = self.rng.usize(..self.steering.backends.len());
        self.steering.backends[chosen].1 = self.rng.u32(1..=4);
        let number = self.steering.backends[chosen].0;
        self.reload("weighted", number);
    }

    fn drain(&mut self, number: usize) -> anyhow::Result<()> {
        self.command("drain", number)?;
        self.states.insert(number, State::Drained);
        self.did("drained", Some(number));
        Ok(())
    }

    /// Its process ends: connections too, later ones are refused.
    fn close(&mut self, number: usize) {
        self.kills.push(Kill { backend: number, from: Instant::now(), until: None });
        self.servers[number].close();
        self.states.insert(number, State::Closed);
        self.did("closed", Some(number));
    }

    /// Its host falls silent.
    fn unplug(&mut self, number: usize) -> anyhow::Result<()> {
        self.kills.push(Kill { backend: number, from: Instant::now(), until: None });
        self.lab.backends[number].ip(&["link set uplink down".to_owned()])?;
        self.states.insert(number, State::Unplugged);
        self.did("unplugged", Some(number));
        Ok(())
    }

    fn bring_back(&mut self, number: usize) -> anyhow::Result<()> {
        match self.states.insert(number, State::In) {
            Some(State::Removed) => {
                self.steering.backends.push((number, 1));
                self.reload("added", number);
            }
            Some(State::Drained) => {
                self.command("undrain", number)?;
                self.did("undrained", Some(number));
            }
            Some(State::Closed) => {
                self.servers[number].open();
                self.did("opened", Some(number));
            }
            Some(State::Unplugged) => {
                // Addresses of IPv6 and routes went with the link.
                self.lab.plug_in(number)?;
                self.did("plugged in", Some(number));
            }
            Some(State::In) | None => {}
        }
        for kill in self.kills.iter_mut().filter(|kill| kill.backend == number && kill.until.is_none()) {
            kill.until = Some(Instant::now());
        }
        Ok(())
    }

    fn reload(&mut self, change: &'static str, number: usize) {
        self.lb.write_config(&self.steering.text(self.lab));
        self.lb.succeed(&["reload"]);
        self.did(change, Some(number));
    }

    /// `lbctl drain` may wait for what is in progress, which changes do not.
    fn command(&mut self, command: &str, number: usize) -> anyhow::Result<()> {
        let names = Family::BOTH.map(|family| self.steering.name(family, number));
        let mut command = self.lb.command(&[command, &names[0], &names[1]]);
        let silent = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        self.commands.push(silent.spawn().context("starting lbctl")?);
        Ok(())
    }

    fn did(&mut self, change: &'static str, number: Option<usize>) {
        *self.changes.entry(change).or_default() += 1;
        let backend = number.map(|number| format!(" {number}")).unwrap_or_default();
        self.log.push((Instant::now(), format!("{change}{backend}")));
    }
}

impl ChangeFigures {
    /// Prints everything.
    pub fn print(&self) {
        let changes: Vec<String> =
            self.changes.iter().map(|(change, count)| format!("{change} {count}")).collect();
        println!("{} in {}", changes.join(", "), short(self.elapsed));
        println!(
            "{} messages on lasting connections, {} short connections ({:.0}/s); lost {}; ended with their backend {}; refused by a killed \
             backend {}",
            self.noticed.messages,
            self.noticed.short,
            self.noticed.short as f64 / self.elapsed.as_secs_f64(),
            self.lost.len(),
            self.ended_with_backend,
            self.refused_by_killed,
        );
        let since = |at: Instant| short(at.saturating_duration_since(self.started));
        for loss in self.lost.iter().take(10) {
            let (opened, noticed) = (since(loss.opened), since(loss.noticed));
            println!(
                "  lost: {:?}, backend {:?}, {opened} – {noticed}: {}",
                loss.family, loss.backend, loss.error
            );
        }
        if !self.lost.is_empty() {
            self.log.iter().for_each(|(at, change)| println!("  {}: {change}", since(*at)));
        }
        self.noticed.latency.print("short connections");
        if self.restarts.count() > 0 {
            self.restarts.print("lbctl killed → its successor answers");
        }
    }
}
