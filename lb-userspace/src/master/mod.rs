//! The privileged process: one loop that turns what happens into events, asks `state::step`, and performs the effects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::commands::Reader;
use self::inbox::{INBOX_MAX, Input};
use self::kernel::NoticeStream;
use self::node::{Master, Phase, Ready};
use self::program::cgroup::Cgroups;
use self::run_dir::RunDir;
use self::steer::next_hop::netlink::{News, Told};
use crate::config::model::Model;
use crate::control::protocol::{Capability, InstanceStatus, ProcessState, StatusReport};
use crate::state::event::Event;
use crate::time::Time;

mod commands;
mod control;
mod doctor;
mod effects;
mod event_log;
mod inbox;
mod keeper;
pub mod kernel;
mod listeners;
mod log_files;
mod node;
mod packet;
mod port_holder;
mod probe;
pub mod program;
mod reload;
mod run_dir;
pub mod steer;
mod turn;
mod watched;
mod worker_link;

/// Inputs taken before workers are told what changed.
const BATCH_MAX: usize = 64;
/// Period of looking whether a draining row has nothing active.
const DRAIN_EVERY: Duration = Duration::from_millis(5);
/// Least time between two status messages to workers.
const STATUS_EVERY: Duration = Duration::from_millis(200);
/// Time after which the start is told as it is.
const STARTED_WITHIN: Duration = Duration::from_secs(1);

/// Where the configuration comes from, at start and at each reload.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// A file, with what it includes.
    File(PathBuf),
    /// Text that is part of the program: the demonstration.
    Embedded {
        /// The name shown in reports.
        name: String,
        /// The configuration.
        text: String,
    },
}

/// What `lbctl up` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to reach.
    pub config: ConfigSource,
    /// Lock, control socket, audit log and state live here.
    pub run_dir: PathBuf,
}

/// What runs once the start is over: everything is IN, or the start took a second.
#[derive(Clone, Debug)]
pub struct Started {
    /// `[node] name`.
    pub node: String,
    /// `name address` of each listening socket, ports resolved.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Where `/metrics`, `/healthz` and `/readyz` answer.
    pub metrics: Option<SocketAddr>,
    /// Instances of programs as they are now.
    pub instances: Vec<InstanceStatus>,
    /// What of the machine is in use, and what is not and why.
    pub capabilities: Vec<Capability>,
    /// Whether everything that was to start is ready.
    pub ready: bool,
    /// Since [`run`] was called.
    pub took: Duration,
}

/// Runs the node until it is told to end, and returns when nothing of it is left.
///
/// Must run on a current-thread runtime on the main thread.
///
/// # Errors
/// What kept it from starting: an invalid configuration (the rendered report), another master in the run folder, a
/// listening address in use.
pub async fn run(options: Options, on_started: impl FnOnce(&Started)) -> anyhow::Result<ExitCode> {
    let began = Time::now();
    // Before anything is done: a signal that comes meanwhile waits for the loop, and does not end us half-way.
    let mut signals = Signals::new()?;
    let Some(model) = read_unless_terminated(&options.config, &mut signals).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut run_dir = RunDir::open(&options.run_dir)?;
    let cgroups = Cgroups::set_up(run_dir.path());
    let ready = match Ready::new(&model, &run_dir, &cgroups) {
        Ok(ready) => ready,
        Err(error) => {
            // Instances and worker of a killed master go on: we have nothing better.
            cgroups.leave_alone();
            run_dir.leave_alone()?;
            return Err(error);
        }
    };
    for what in run_dir.clean(cgroups.product()).await? {
        log::warn!("ended what an earlier master left what=\"{what}\"");
    }
    let (sender, inbox) = mpsc::channel(INBOX_MAX);
    let outcome = match Master::new(options.config, model, ready, &mut run_dir, &cgroups, sender, began) {
        Ok(master) => live(master, inbox, signals, on_started).await,
        Err(error) => Err(error),
    };
    if let Err(error) = cgroups.remove().await {
        log::error!("cgroup not removed reason=\"{error}\"");
    }
    match &outcome {
        Ok(code) if *code != ExitCode::SUCCESS => run_dir.leave()?,
        _ => run_dir.close()?,
    }
    outcome
}

/// The configuration; `None` where we are told to end while it is read, in a thread that may hang.
async fn read_unless_terminated(
    config: &ConfigSource,
    signals: &mut Signals,
) -> anyhow::Result<Option<Arc<Model>>> {
    let config = config.clone();
    let reader = tokio::task::spawn_blocking(move || commands::read(&config, Reader::Starter));
    tokio::select! {
        read = reader => read?.map(|model| Some(Arc::new(model))).map_err(anyhow::Error::msg),
        () = signals.terminated() => Ok(None),
    }
}

/// From the first event to the last.
async fn live(
    mut master: Master<'_>,
    inbox: mpsc::Receiver<Input>,
    signals: Signals,
    on_started: impl FnOnce(&Started),
) -> anyhow::Result<ExitCode> {
    program::orphans::reap_if_first()?;
    let control = control::serve(master.run_dir, master.audit.clone(), master.inbox.clone())?;
    master.note("master", "master started", &format!("pid={}", std::process::id()), "operator");
    let model = master.model.clone();
    master.start_keeper();
    master.event(Event::Apply { model, request: None });
    master.start_worker();
    master.flush();
    let notices = master.kernel.take_notices();
    turn_until_over(&mut master, Sources { inbox, notices, news: None, signals }, on_started).await;
    master.steer.end();
    master.say_farewell();
    master.programs.outputs.finish();
    let left = master.programs.all().count();
    master.keeper.kill();
    // With it go the ways to those who follow what it tells.
    drop(master);
    control.finish().await;
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where inputs come from.
struct Sources {
    inbox: mpsc::Receiver<Input>,
    notices: NoticeStream,
    /// Of the network, while VIPs are steered.
    news: Option<News>,
    signals: Signals,
}

async fn turn_until_over(master: &mut Master<'_>, mut sources: Sources, on_started: impl FnOnce(&Started)) {
    let mut on_started = Some(on_started);
    let mut status_at = Time::now();
    while master.phase != Phase::Over {
        tokio::select! {
            biased;
            asked = sources.signals.next() => asked.act(master),
            notices = sources.notices.next() => master.noticed(notices),
            told = next_news(&mut sources.news) => master.steer.hear(told),
            input = sources.inbox.recv() => {
                let mut input = input;
                for _ in 0..BATCH_MAX {
                    let Some(one) = input else { break };
                    master.take(one);
                    input = sources.inbox.try_recv().ok();
                }
            }
            () = until(master.wake), if master.wake.is_some() => {
                master.wake = None;
                master.event(Event::Tick);
            }
            () = until(Some(Time::now() + DRAIN_EVERY)), if !master.draining.is_empty() => {}
            () = until(Some(status_at)), if master.dirty.status => {
                status_at = Time::now() + STATUS_EVERY;
                master.tell_status();
            }
            () = until(master.steer.due(Time::now())), if master.steer.due(Time::now()).is_some() => {}
            () = until(Some(master.began + STARTED_WITHIN)), if on_started.is_some() => {}
            () = until(deadline(master)), if deadline(master).is_some() => master.deadline_passed(),
        }
        for slot in master.drained() {
            master.event(Event::Drained { slot });
        }
        master.flush();
        if let Some(news) = master.steer.take_news() {
            sources.news = Some(news);
        }
        if let Some(report) = on_started.is_some().then(|| master.report())
            && (is_ready(master, &report) || Time::now().since(master.began) >= STARTED_WITHIN)
            && let Some(on_started) = on_started.take()
        {
            on_started(&started(master, report));
        }
    }
}

async fn next_news(news: &mut Option<News>) -> Told {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the loop waits for its next appointment here")]
async fn until(at: Option<Time>) {
    let wait = at.map_or(Duration::MAX, |at| at.since(Time::now()));
    tokio::time::sleep(wait).await;
}

/// When the end goes on, whatever has not happened.
fn deadline(master: &Master<'_>) -> Option<Time> {
    match master.phase {
        Phase::Draining { until } | Phase::Killing { until } => Some(until),
        Phase::Running | Phase::Stopping | Phase::Over => None,
    }
}

/// Whether everything that was to start is IN, or has failed for good, and the worker serves it.
fn is_ready(master: &Master<'_>, report: &StatusReport) -> bool {
    let settled = |instance: &InstanceStatus| match instance.process_state {
        ProcessState::Running => instance.traffic_state.as_deref().is_none_or(|state| state != "OUT"),
        ProcessState::Stopped | ProcessState::Exited | ProcessState::Fatal => true,
        ProcessState::Starting | ProcessState::Backoff | ProcessState::Stopping => false,
    };
    master.workers.lowest_served() > 0 && report.instances.iter().all(settled)
}

fn started(master: &Master<'_>, report: StatusReport) -> Started {
    Started {
        node: report.node.clone(),
        listeners: master.listeners.all().map(|open| (open.name.clone(), open.address)).collect(),
        metrics: master.listeners.metrics().map(|(address, _)| *address),
        ready: is_ready(master, &report),
        instances: report.instances,
        capabilities: master.capabilities(),
        took: Time::now().since(master.began),
    }
}

/// The signals that the master listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
}

/// What a signal asks for.
enum Asked {
    Terminate(&'static str),
    Reload,
    Reopen,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits to be told to end, and for nothing else.
    async fn terminated(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Terminate("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.user_1.recv() => Asked::Reopen,
        }
    }
}

impl Asked {
    fn act(self, master: &mut Master<'_>) {
        master.audit.signalled(self.name());
        match self {
            Self::Terminate(why) => master.terminate(why),
            Self::Reload => master.reload(None),
            Self::Reopen => master.reopen_logs(),
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Terminate(name) => name,
            Self::Reload => "SIGHUP",
            Self::Reopen => "SIGUSR1",
        }
    }
}

impl Master<'_> {
    /// Workers answer `/metrics` with it.
    fn tell_status(&mut self) {
        self.dirty.status = false;
        let told = serde_json::to_vec(&self.report_in_full()).map_err(anyhow::Error::from);
        if let Err(error) = told.and_then(|report| self.workers.status(&report)) {
            log::warn!("status not told to workers reason=\"{error:#}\"");
        }
    }
}
