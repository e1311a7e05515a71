//! Many WebSockets, and requests beside them, through rolling restart and reload.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::config;
use crate::control::StatusExt;
use crate::figures::short;
use crate::lb::Lb;
use crate::load::{Load, Outcome, Plan};
use crate::port;
use crate::websocket::{self, End, Life, Sockets};

/// What was measured.
pub struct WebSocketFigures {
    /// What the requests beside them noticed.
    pub load: Outcome,
    /// WebSockets open before and after the reload that changes nothing for their program.
    pub around_reload: (usize, usize),
    /// WebSockets open after one instance of three was restarted.
    pub after_one: usize,
    /// How each ended, after a restart of all.
    pub lives: Vec<Life>,
}

impl WebSocketFigures {
    /// Those that did not end in order.
    pub fn broken(&self) -> Vec<&Life> {
        self.lives.iter().filter(|life| matches!(life.end, End::Broken(_))).collect()
    }

    /// Prints everything.
    pub fn print(&self) {
        let echoes: u64 = self.lives.iter().map(|life| life.echoes).sum();
        let slowest = self.lives.iter().map(|life| life.slowest).max().unwrap_or_default();
        let count = |wanted: fn(&End) -> bool| self.lives.iter().filter(|life| wanted(&life.end)).count();
        println!(
            "{} WebSockets, {echoes} echoes, slowest {}; reload: {} open before, {} after; restart of one: {} open after",
            self.lives.len(),
            short(slowest),
            self.around_reload.0,
            self.around_reload.1,
            self.after_one
        );
        println!(
            "after the restart of all: {} closed with a close frame, {} ended in order without one, {} open, {} broken",
            count(|end| matches!(end, End::Closed(_))),
            count(|end| matches!(end, End::Ended)),
            count(|end| matches!(end, End::Open)),
            count(|end| matches!(end, End::Broken(_)))
        );
        println!(
            "beside them: {} requests, {} failed, {:.0}/s",
            self.load.ok + self.load.failed,
            self.load.failed,
            self.load.rate()
        );
        self.broken().iter().take(5).for_each(|life| println!("  broken: {life:?}"));
        self.load.failures.iter().take(5).for_each(|failure| println!("  failed: {failure:?}"));
    }
}

/// Opens `count` WebSockets over three instances, reloads, restarts one instance, then all.
///
/// # Errors
/// When a program's pid changes at the reload, or a restart does not change it.
pub fn run(count: usize) -> anyhow::Result<WebSocketFigures> {
    let port = port::free();
    let text = config::demo(port, 3, "");
    let lb = Lb::start(&text);
    let load = Load::start(Plan { pause: Duration::from_millis(5), ..Plan::keep_alive(port, 8) });
    let target = ([127, 0, 0, 1], port).into();
    let sockets = Sockets::open(websocket::Plan { target, count, pause: Duration::from_millis(100) });

    let (before, pids) = (sockets.open_now(), pids(&lb));
    lb.write_config(&text.replace("[upstream.demo]", "[upstream.demo]\nkeepalive = 17"));
    lb.succeed(&["reload"]);
    wait_for_echoes(&sockets);
    let around_reload = (before, sockets.open_now());
    ensure!(self::pids(&lb) == pids, "a reload that does not change the program changed its processes");

    lb.succeed(&["restart", "demo:0"]);
    lb.wait_ready();
    wait_for_echoes(&sockets);
    let after_one = sockets.open_now();
    ensure!(
        self::pids(&lb)[0] != pids[0] && self::pids(&lb)[1..] == pids[1..],
        "not exactly demo:0 was restarted"
    );

    lb.succeed(&["restart", "demo"]);
    let status = lb.wait_ready();
    let new = status.instance("demo:2").pid.context("demo:2 runs")?;
    ensure!(new != pids[2], "demo:2 was not restarted");
    let lives = sockets.finish();
    let load = load.finish();
    lb.stop();
    Ok(WebSocketFigures { load, around_reload, after_one, lives })
}

/// Long enough for every WebSocket to have echoed again, or failed to.
fn wait_for_echoes(sockets: &Sockets) {
    let (from, span) = (sockets.elapsed(), Duration::from_millis(500));
    crate::wait::until(Duration::from_secs(5), "time passes", || {
        (sockets.elapsed() - from > span).then_some(())
    });
}

fn pids(lb: &Lb) -> Vec<u32> {
    lb.status().instances.iter().filter_map(|instance| instance.pid).collect()
}
