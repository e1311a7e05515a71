//! An instance that lives but does not answer: frozen, or with its listening socket closed.

use std::time::Duration;

use anyhow::{Context, ensure};
use lb_common::backend::TrafficState;
use lb_userspace::time::Time;
use rustix::process::Signal;

use crate::config;
use crate::control::StatusExt;
use crate::figures::short;
use crate::http1::get;
use crate::lb::Lb;
use crate::load::{Load, Outcome, Plan};
use crate::port;
use crate::process::signal;
use crate::table::Table;

/// What was measured.
pub struct FreezeFigures {
    /// What clients noticed.
    pub load: Outcome,
    /// From the cause to the row being OUT.
    pub out_after: Duration,
    /// Requests that failed and had been sent after the row was OUT.
    pub failed_after_out: usize,
    /// From the cause to the instance being IN again.
    pub back_after: Duration,
    /// Whether another process stands for the instance now.
    pub replaced: bool,
}

impl FreezeFigures {
    /// Prints everything.
    pub fn print(&self, name: &str) {
        println!(
            "{name}: OUT after {}, IN again after {} ({}); {} requests, {} failed, {} of them after OUT; slowest {}",
            short(self.out_after),
            short(self.back_after),
            if self.replaced { "another process" } else { "the same process" },
            self.load.ok + self.load.failed,
            self.load.failed,
            self.failed_after_out,
            short(self.load.latency.max()),
        );
        for failure in self.load.failures.iter().take(5) {
            println!("  failed: {failure:?}");
        }
    }
}

const FREEZE: &str = r#"liveness = { http = "/health", every = "1s", timeout = "1s", down_after = 2 }"#;

/// SIGSTOP of one of three under load.
///
/// # Errors
/// When the instance is not taken out or not replaced.
pub fn frozen(connections: usize) -> anyhow::Result<FreezeFigures> {
    let port = port::free();
    let text =
        config::demo(port, 3, FREEZE).replace("[upstream.demo]", "[upstream.demo]\nread_timeout = \"1s\"");
    let lb = Lb::start(&text);
    let (load, status) = (Load::start(Plan::keep_alive(port, connections)), lb.status());
    let pid = status.instance("demo:1").pid.context("demo:1 runs")?;
    let cause = (load.elapsed(), Time::now());
    signal(pid, Signal::STOP);
    let figures = follow(lb, load, cause, Duration::from_secs(20))?;
    ensure!(figures.replaced, "liveness did not replace the frozen process");
    Ok(figures)
}

/// The listening socket of one of three closes for a while and opens again; the process lives.
///
/// # Errors
/// When the instance is not taken out, not put back, or a probe had to fail for it.
pub fn deaf(connections: usize) -> anyhow::Result<FreezeFigures> {
    let port = port::free();
    // Probes are too rare to be the cause.
    let text = config::demo(port, 3, "").replace(r#"every = "1s", timeout"#, r#"every = "2s", timeout"#);
    let lb = Lb::start(&text);
    let (load, status) = (Load::start(Plan::keep_alive(port, connections)), lb.status());
    let address = status.instance("demo:1").address.clone().context("demo:1 listens")?;
    let cause = (load.elapsed(), Time::now());
    get(address.parse::<std::net::SocketAddr>()?, "/close-listener?for_ms=1500")?;
    let figures = follow(lb, load, cause, Duration::from_secs(10))?;
    ensure!(!figures.replaced, "the process lived, but was replaced");
    Ok(figures)
}

/// Waits for `demo:1` to go out and to come back.
fn follow(lb: Lb, load: Load, cause: (Duration, Time), within: Duration) -> anyhow::Result<FreezeFigures> {
    let table = Table::of(lb.pid())?;
    let status = lb.status();
    let slot =
        status.backends.iter().find(|backend| backend.name == "demo:1").context("no backend demo:1")?.slot;
    let instance = status.instance("demo:1").instance;
    let out = table.wait_row(slot, within, |row| row.traffic() != TrafficState::In);
    out.context("it was never taken out")?;
    let (out_at, out_after) = (load.elapsed(), Time::now().since(cause.1));
    table.wait_row(slot, within, |row| row.traffic() == TrafficState::In).context("it never came back")?;
    let back_after = Time::now().since(cause.1);
    std::thread::sleep(Duration::from_secs(1));
    let load = load.finish();
    let replaced = lb.wait_ready().instance("demo:1").instance != instance;
    lb.stop();
    let failed_after_out = load.failed_after(out_at).len();
    Ok(FreezeFigures { load, out_after, failed_after_out, back_after, replaced })
}
