//! The master itself: everything that the loop holds, and how it begins.
//!
//! Effectful: brings up sockets, kernel programs and worker.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit};
use tokio::sync::mpsc;

use super::ConfigSource;
use super::control::Audit;
use super::event_log::EventLog;
use super::inbox::Inbox;
use super::keeper::Keeper;
use super::kernel::{KernelHalf, TablePlace};
use super::listeners::Listeners;
use super::log_files::LogFiles;
use super::probe::Probes;
use super::program::cgroup::Cgroups;
use super::program::exec_shim::Identity;
use super::program::fork::Shim;
use super::program::order::Surroundings;
use super::program::output::Outputs;
use super::program::own::Own;
use super::program::spawn::Programs;
use super::reload::Reloads;
use super::run_dir::RunDir;
use super::steer::{self, Steer};
use super::worker_link::{Setting, Workers};
use crate::config::model::{Model, Switch};
use crate::control::protocol::Answer;
use crate::state::State;
use crate::state::event::{Event, Slot};
use crate::time::Time;

/// `nobody` and its group, the same on every Linux system: the kernel's own overflow ids.
const NOBODY: u32 = 65_534;

/// Nice value of the master. It hardly runs, but when it does an instance has died, and clients wait.
const PRIORITY: i32 = -10;

/// Everything that the loop holds.
pub struct Master<'a> {
    /// Where configurations come from.
    pub config: ConfigSource,
    /// The run folder.
    pub run_dir: &'a mut RunDir,
    /// The product's cgroup.
    pub cgroups: &'a Cgroups,
    /// What is and should be.
    pub state: State,
    /// BPF programs and the backend table.
    pub kernel: KernelHalf,
    /// The XDP programs and their maps.
    pub steer: Steer,
    /// Processes of programs.
    pub programs: Programs,
    /// Who keeps their output pipes.
    pub keeper: Keeper,
    /// Probes.
    pub probes: Probes,
    /// Worker processes.
    pub workers: Workers,
    /// Listening sockets.
    pub listeners: Listeners,
    /// Sockets up to this id, and the metrics socket, were given to the living worker.
    pub attached: Attached,
    /// Access and error log.
    pub log_files: LogFiles,
    /// Who asked for what.
    pub audit: Arc<Audit>,
    /// What happened.
    pub events: EventLog,
    /// Who waits for the configuration to be read.
    pub reloads: Reloads,
    /// Control requests that `step` has yet to answer, each by everybody who made it.
    pub requests: HashMap<u64, Vec<mpsc::Sender<Answer>>>,
    /// The number of the next control request.
    pub next_request: u64,
    /// To be answered when everything has ended.
    pub farewells: Vec<mpsc::Sender<Answer>>,
    /// Events that effects brought about, to be taken before any other.
    pub pending: VecDeque<Event>,
    /// Rows watched until nothing is active on them.
    pub draining: BTreeSet<Slot>,
    /// When `step` wants to be woken.
    pub wake: Option<Time>,
    /// What has to be told or written after this batch of events.
    pub dirty: Dirty,
    /// When the last process of an instance ended, until the next is spawned.
    pub exited_at: HashMap<String, Time>,
    /// How long after that the next was spawned, until it is recorded.
    pub spawned_after: HashMap<String, Duration>,
    /// Ports enrolled in the short-cut, by instance.
    pub enrolled: BTreeMap<String, u16>,
    /// What is being served.
    pub model: Arc<Model>,
    /// How far the end has come.
    pub phase: Phase,
    /// When `up` was called.
    pub began: Time,
    /// Tasks send here.
    pub inbox: Inbox,
}

/// What a worker has of the sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// The highest `ServedListener::id`.
    pub listener: u32,
    /// The address of the metrics socket.
    pub metrics: Option<std::net::SocketAddr>,
}

/// What a batch of events leaves to be done once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dirty {
    /// Rows were written: workers are told.
    pub table: bool,
    /// Processes came or went: `state.json` is written.
    pub processes: bool,
    /// Something changed: workers get the status for `/metrics`.
    pub status: bool,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Serving.
    Running,
    /// Workers finish what is in progress; nobody new is taken.
    Draining {
        /// When they are ended all the same.
        until: Time,
    },
    /// Programs are stopped.
    Stopping,
    /// Everything is killed.
    Killing {
        /// When what cannot be killed is left behind.
        until: Time,
    },
    /// Everything has ended.
    Over,
}

/// What the process had when it began, before it changed anything of it.
pub struct Inherited {
    surroundings: Surroundings,
    open_files_max: u64,
}

impl Inherited {
    /// Reads it, and raises the limit of open files to what is allowed.
    pub fn take() -> Self {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let hard = limit.maximum.unwrap_or(u64::MAX).min(1 << 30);
        let soft = limit.current.unwrap_or(hard);
        if rustix::process::setrlimit(
            Resource::Nofile,
            Rlimit { current: Some(hard), maximum: limit.maximum },
        )
        .is_err()
        {
            log::warn!("open files stay at {soft}: the limit could not be raised to {hard}");
        }
        let priority = rustix::process::getpriority_process(None).unwrap_or(0);
        // Not allowed without root: the start of a dead instance's successor then waits its turn on a busy machine.
        let _ = rustix::process::setpriority_process(None, priority.min(PRIORITY));
        let kept = ["PATH", "LANG", "LC_ALL", "TZ"].into_iter();
        let kept = kept.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
        Self {
            surroundings: Surroundings { kept: kept.collect(), open_files: (soft, hard), priority },
            open_files_max: hard,
        }
    }
}

/// What can be had while an earlier master's processes still serve: whoever cannot have it ends before they are ended.
pub struct Ready {
    inherited: Inherited,
    log_files: LogFiles,
    audit: Arc<Audit>,
    outputs: Outputs,
    kernel: KernelHalf,
}

impl Ready {
    /// Opens and loads it.
    ///
    /// # Errors
    /// A log file or kernel program that the configuration insists on cannot be had.
    pub fn new(model: &Model, run_dir: &RunDir, cgroups: &Cgroups) -> anyhow::Result<Self> {
        let place = table_place(model, run_dir.path());
        Ok(Self {
            inherited: Inherited::take(),
            log_files: LogFiles::open(&model.log).map_err(anyhow::Error::msg)?,
            audit: Arc::new(Audit::open(&run_dir.audit_log(&model.log))?),
            outputs: Outputs::new().context("start the output thread")?,
            kernel: KernelHalf::load(&model.kernel, cgroups.product(), &place).context("kernel programs")?,
        })
    }
}

impl<'a> Master<'a> {
    /// Brings up what does not depend on events. Nothing is served yet.
    ///
    /// # Errors
    /// A socket or VIP that the configuration insists on cannot be had.
    pub fn new(
        config: ConfigSource,
        model: Arc<Model>,
        ready: Ready,
        run_dir: &'a mut RunDir,
        cgroups: &'a Cgroups,
        inbox: Inbox,
        began: Time,
    ) -> anyhow::Result<Self> {
        let Ready { inherited, log_files, audit, outputs, kernel } = ready;
        let mut listeners = Listeners::new(model.node.worker_threads);
        listeners.prepare(&model).map_err(anyhow::Error::msg)?;
        let left = kernel.table().take_over(Time::now().0);
        let mut steer = Steer::new(run_dir.path());
        steer.configure(&model, &kernel)?;
        let own = Own {
            shim: Shim::default(),
            identity: worker_identity(&model),
            open_files: inherited.open_files_max,
            priority: inherited.surroundings.priority,
            environment: worker_environment(),
        };
        let setting = Setting {
            own: own.clone(),
            user: model.node.user.as_ref().map_or_else(|| "nobody".to_owned(), |user| user.name.clone()),
            threads: model.node.worker_threads,
        };
        let seed = fastrand::u64(..);
        let first_instance = super::control::wall_ms().saturating_mul(1_000_000);
        let programs = Programs::new(Shim::default(), inherited.surroundings, seed, outputs, inbox.clone());
        let mut state = State::new(first_instance, seed, std::process::id());
        state.take_up(&left);
        Ok(Self {
            config,
            run_dir,
            cgroups,
            state,
            kernel,
            steer,
            programs,
            keeper: Keeper::new(own, inbox.clone()),
            probes: Probes::new(inbox.clone()),
            workers: Workers::new(setting, inbox.clone()),
            listeners,
            attached: Attached::default(),
            log_files,
            audit,
            events: EventLog::new(),
            reloads: Reloads::default(),
            requests: HashMap::new(),
            next_request: 1,
            farewells: Vec::new(),
            pending: VecDeque::new(),
            draining: BTreeSet::new(),
            wake: None,
            dirty: Dirty::default(),
            exited_at: HashMap::new(),
            spawned_after: HashMap::new(),
            enrolled: BTreeMap::new(),
            model,
            phase: Phase::Running,
            began,
            inbox,
        })
    }
}

/// Where VIPs are steered the kernel's programs read the backend table, and that of an earlier master is used again.
fn table_place(model: &Model, run_dir: &std::path::Path) -> TablePlace {
    if model.steering.vips.is_empty() || model.steering.xdp == Switch::Off {
        return TablePlace::Anywhere;
    }
    let pin = steer::pinned_backends(run_dir).unwrap_or_else(|error| {
        log::error!("backend table of an earlier master not used reason=\"{error:#}\"");
        None
    });
    TablePlace::Steering { pin }
}

/// As configured; `nobody` where we can switch at all.
pub fn worker_identity(model: &Model) -> Option<Identity> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let configured = model.node.user.as_ref().map(|user| Identity {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
    });
    Some(configured.unwrap_or(Identity { uid: NOBODY, gid: NOBODY, groups: Vec::new() }))
}

/// Logging and time zone; nothing else is a worker's affair.
fn worker_environment() -> Vec<(String, String)> {
    let wanted = |name: &str| {
        name.starts_with("RUST_") || name.starts_with("LBCTL_") || name == "TZ" || name == "NO_COLOR"
    };
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| wanted(name))
        .collect()
}
