//! `kill -9` of the worker under load: listening sockets stay, the next worker serves soon.

use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;

use crate::config;
use crate::figures::{Durations, short};
use crate::lb::Lb;
use crate::load::{Failure, Load, Outcome, Plan};
use crate::port;
use crate::process::signal;

/// What was measured.
#[derive(Default)]
pub struct WorkerKillFigures {
    /// Kills done.
    pub kills: u64,
    /// On connections that were kept.
    pub kept: Outcome,
    /// On connections made for each request.
    pub fresh: Outcome,
    /// How long the slowest request took that was sent within a second after a kill, on a new connection: one value per kill.
    pub first_success: Durations,
    /// Requests on new connections, sent after the kill, that failed.
    pub fresh_failed_after: Vec<Failure>,
    /// Connections refused, at any time.
    pub refused: usize,
}

impl WorkerKillFigures {
    /// Prints everything.
    pub fn print(&self) {
        println!(
            "{} kills; kept connections: {} ok, {} failed; new connections: {} ok, {} failed, {} of them sent after a kill; {} refused; slowest new {}",
            self.kills,
            self.kept.ok,
            self.kept.failed,
            self.fresh.ok,
            self.fresh.failed,
            self.fresh_failed_after.len(),
            self.refused,
            short(self.first_success.max()),
        );
        self.fresh_failed_after.iter().take(5).for_each(|failure| println!("  failed: {failure:?}"));
        self.first_success.print("slowest request on a new connection after each kill");
    }
}

/// Kills the worker so many times, a second and a half apart.
///
/// # Errors
/// When there is no worker to kill.
pub fn run(kills: u64) -> anyhow::Result<WorkerKillFigures> {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, 2, ""));
    let kept = Load::start(Plan::keep_alive(port, 8));
    let fresh = Load::start(Plan::new_connections(port, 4, Duration::from_millis(2)));
    std::thread::sleep(Duration::from_millis(500));
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        let worker = lb.status().workers.first().context("no worker")?.pid;
        signal(worker, Signal::KILL);
        killed_at.push(fresh.elapsed());
        lb.wait_status(Duration::from_secs(5), "another worker serves", |status| {
            status.workers.iter().any(|found| found.pid != worker && found.serving > 0)
        });
        std::thread::sleep(Duration::from_millis(1_500));
    }
    let mut figures =
        WorkerKillFigures { kills, kept: kept.finish(), fresh: fresh.finish(), ..Default::default() };
    lb.stop();
    for at in killed_at {
        figures.after_kill(at);
    }
    let all = figures.kept.failures.iter().chain(&figures.fresh.failures);
    figures.refused = all.filter(|failure| failure.what.contains("refused")).count();
    Ok(figures)
}

impl WorkerKillFigures {
    fn after_kill(&mut self, at: Duration) {
        let soon = at..at + Duration::from_secs(1);
        let taken = self.fresh.answered.iter().filter(|(sent, _)| soon.contains(sent)).map(|(_, took)| *took);
        self.first_success.add(taken.max().unwrap_or(Duration::from_secs(1)));
        let failed = self.fresh.failures.iter().filter(|failure| soon.contains(&failure.sent));
        self.fresh_failed_after.extend(failed.cloned());
    }
}
