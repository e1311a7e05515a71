//! The demonstration at rest: how soon it is ready and what it costs to do nothing.

use std::time::Duration;

use crate::config;
use crate::figures::short;
use crate::http1::get;
use crate::lb::Lb;
use crate::port;
use crate::process::{cpu_time, resident_bytes};

/// What was measured.
pub struct IdleFigures {
    /// From the start of the process to all instances IN.
    pub ready_after: Duration,
    /// Processor time of master, worker and instances while idle, as a share of one core.
    pub cpu_share: f64,
    /// Resident memory of the master.
    pub master_bytes: u64,
    /// Resident memory of the worker.
    pub worker_bytes: u64,
    /// What `/headers` answered.
    pub headers: serde_json::Value,
}

impl IdleFigures {
    /// Prints everything.
    pub fn print(&self) {
        println!(
            "ready after {}; idle {:.3} % of a core; master {:.1} MiB, worker {:.1} MiB resident",
            short(self.ready_after),
            self.cpu_share * 100.0,
            self.master_bytes as f64 / 1_048_576.0,
            self.worker_bytes as f64 / 1_048_576.0
        );
    }
}

/// Starts, asks once, then watches for `time`.
///
/// # Errors
/// When `/headers` does not answer.
pub fn run(time: Duration) -> anyhow::Result<IdleFigures> {
    let (port, metrics) = (port::free(), port::free());
    let extra = r#"liveness = { http = "/health", every = "2s", timeout = "1s", down_after = 3 }"#;
    let text =
        config::demo(port, 3, extra).replace("bind = \"\"", &format!("bind = \"127.0.0.1:{metrics}\""));
    let lb = Lb::start(&text);
    let ready_after = lb.started().elapsed();
    let headers = get(([127, 0, 0, 1], port), "/headers")?.json()?;
    let status = lb.status();
    let worker = status.workers.first().map_or(0, |worker| worker.pid);
    let instances = status.instances.iter().filter_map(|instance| instance.pid);
    let pids: Vec<u32> = [lb.pid(), worker].into_iter().chain(instances).collect();
    let all = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    // What the start and the status cost shall be over.
    std::thread::sleep(Duration::from_secs(1));
    let before = all();
    std::thread::sleep(time);
    let cpu_share = (all() - before).as_secs_f64() / time.as_secs_f64();
    let (master_bytes, worker_bytes) = (resident_bytes(lb.pid()), resident_bytes(worker));
    lb.stop();
    Ok(IdleFigures { ready_after, cpu_share, master_bytes, worker_bytes, headers })
}
