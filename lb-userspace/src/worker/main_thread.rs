//! The worker's main thread: obeys the master, tells it what threads serve and what failed, answers `/metrics`.
//!
//! Effectful: starts threads, catches signals, waits.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Resource;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::log_queue::LogQueue;
use super::master_link::{MasterLink, Packet};
use super::metrics::ThreadMetrics;
use super::metrics_listener::MetricsListener;
use super::room;
use super::served::{Logs, Served};
use super::shared::{REPORTS_QUEUED_MAX, Shared};
use super::thread::{self, Command, Notice, Notices};
use crate::control::protocol::StatusReport;
use crate::limits::SNAPSHOT_BYTES_MAX;
use crate::link::{Attachment, FromWorker, ToWorker};
use crate::snapshot::Snapshot;
use crate::table::{ActivityTable, BackendTable};
use crate::time::Time;

/// How long a worker that nobody but a signal asked to drain takes at most.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Wait before a snapshot is asked for whose descriptor was lost.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long the last log records may take to the disk.
const LOG_FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Runs a worker process on its end of the link until it has drained. When the master goes away it serves on.
///
/// # Errors
/// When the link speaks no sense, or the operating system refuses what a worker cannot do without.
pub fn run(link: OwnedFd) -> anyhow::Result<()> {
    super::hardening::give_up_privileges();
    serve(link)
}

/// [`run`] without giving up privileges: for tests, which share their process.
pub(super) fn serve(link: OwnedFd) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let mut main = Main::new(link)?;
        main.obey().await
    })
}

struct Main {
    /// `None` once the master has gone.
    link: Option<MasterLink>,
    threads: Vec<Worker>,
    thread_count: usize,
    shared: Option<Arc<Shared>>,
    served: Option<Arc<Served>>,
    logs: Logs,
    attached: Attached,
    reports: (mpsc::Sender<FromWorker>, mpsc::Receiver<FromWorker>),
    notices: (Notices, mpsc::UnboundedReceiver<(usize, Notice)>),
    metrics: MetricsListener,
    /// A ping that not all threads have answered.
    pinged: bool,
    draining: bool,
}

/// Descriptors that came before they could be put to use.
#[derive(Default)]
struct Attached {
    table: Option<OwnedFd>,
    activity: Option<OwnedFd>,
    listeners: HashMap<(u32, usize), OwnedFd>,
}

struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    serving: u64,
    /// Has answered the last ping.
    alive: bool,
    ended: bool,
    _thread: JoinHandle<()>,
}

impl Main {
    fn new(link: OwnedFd) -> anyhow::Result<Self> {
        let reports = mpsc::channel(REPORTS_QUEUED_MAX);
        let metrics = MetricsListener::default();
        metrics.told.borrow_mut().master = Some(reports.0.clone());
        Ok(Self {
            link: Some(MasterLink::new(link).context("watch the link to the master")?),
            threads: Vec::new(),
            thread_count: 1,
            shared: None,
            served: None,
            logs: Logs::default(),
            attached: Attached::default(),
            reports,
            notices: mpsc::unbounded_channel(),
            metrics,
            pinged: false,
            draining: false,
        })
    }

    async fn obey(&mut self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        // A terminal sends it to the whole process group; the master decides what it means.
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                packet = receive(&mut self.link) => match packet {
                    Ok(Some(packet)) => {
                        self.take(packet)?;
                        self.answer_ping().await;
                    }
                    Ok(None) => self.link = None,
                    Err(error) => {
                        log::error!("link failed error={error}");
                        self.link = None;
                    }
                },
                Some(report) = self.reports.1.recv() => self.send(&report).await,
                Some((index, notice)) = self.notices.1.recv() => {
                    if self.note(index, notice).await {
                        return Ok(());
                    }
                }
                _ = terminate.recv() => {
                    if self.drain(Instant::now() + DRAIN_WITHIN) {
                        return Ok(());
                    }
                }
                _ = interrupt.recv() => {}
            }
        }
    }

    async fn send(&mut self, message: &FromWorker) {
        let Some(link) = &self.link else { return };
        if let Err(error) = link.send(message).await {
            log::warn!("link lost, serving on error={error}");
            self.link = None;
        }
    }

    fn take(&mut self, packet: Packet) -> anyhow::Result<()> {
        let Packet { message, descriptor } = packet;
        match message {
            ToWorker::Hello { threads, generation } => {
                log::debug!("worker started threads={threads} generation={generation}");
                self.thread_count = threads.max(1);
            }
            ToWorker::Attach { what } => {
                self.attach(what, descriptor.context("an attachment comes with a descriptor")?)?
            }
            ToWorker::Snapshot { number } if descriptor.is_none() => self.ask_again(number),
            ToWorker::Snapshot { number } => {
                let snapshot: Snapshot = read_memory(descriptor).context("read a snapshot")?;
                anyhow::ensure!(
                    snapshot.number == number,
                    "snapshot {number} says that it is {}",
                    snapshot.number
                );
                self.serve(snapshot)?;
            }
            ToWorker::TableChanged => self.tell_threads(|| Command::TableChanged),
            // The next one is soon to come.
            ToWorker::Status if descriptor.is_none() => {}
            ToWorker::Status => {
                let status: StatusReport = read_memory(descriptor).context("read a status report")?;
                let mut told = self.metrics.told.borrow_mut();
                told.status = Some((status, Time::now()));
                told.status_came.notify_waiters();
            }
            ToWorker::Ping => self.ping(),
            ToWorker::Drain { within_ms } => {
                if self.drain(Instant::now() + Duration::from_millis(within_ms)) {
                    log::logger().flush();
                    std::process::exit(0);
                }
            }
        }
        Ok(())
    }

    /// A snapshot came without its descriptor. What is served goes on; a little later there may be room for it.
    fn ask_again(&self, number: u64) {
        let reports = self.reports.0.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(Instant::now() + ASK_AGAIN_AFTER).await;
            let _ = reports.send(FromWorker::SnapshotLost { number }).await;
        });
    }

    fn attach(&mut self, what: Attachment, descriptor: OwnedFd) -> anyhow::Result<()> {
        match what {
            Attachment::Table => self.attached.table = Some(descriptor),
            Attachment::Activity => self.attached.activity = Some(descriptor),
            Attachment::AccessLog => open_log("access-log", &mut self.logs.access, descriptor)?,
            Attachment::ErrorLog => open_log("error-log", &mut self.logs.error, descriptor)?,
            Attachment::Metrics => self.metrics.listen(descriptor)?,
            Attachment::Listener { id, thread } => {
                self.attached.listeners.insert((id, thread), descriptor);
            }
        }
        Ok(())
    }

    /// Serves a newer snapshot: threads are started with the first one.
    fn serve(&mut self, snapshot: Snapshot) -> anyhow::Result<()> {
        if self.served.as_ref().is_some_and(|served| snapshot.number <= served.snapshot.number) {
            return Ok(());
        }
        self.detach(&snapshot)?;
        let served = Arc::new(Served::new(snapshot, self.logs.clone(), self.served.as_deref()));
        if self.threads.is_empty() {
            let shared = self.share()?;
            for index in 0..self.thread_count {
                let metrics = self.metrics.told.borrow().metrics.thread();
                self.threads.push(start(index, &shared, metrics, &served, &self.notices.0)?);
            }
        }
        self.bound_connections(&served.snapshot);
        for (index, thread) in self.threads.iter().enumerate() {
            let mut sockets = Vec::new();
            for listener in served.snapshot.listeners.iter().filter(|_| !self.draining) {
                if let Some(socket) = self.attached.listeners.remove(&(listener.id, index)) {
                    sockets.push((listener.clone(), socket));
                }
            }
            let _ = thread.commands.send(Command::Serve(served.clone(), sockets));
        }
        let mut told = self.metrics.told.borrow_mut();
        told.metrics.forget_others(&served.snapshot);
        told.served = Some(served.clone());
        drop(told);
        self.served = Some(served);
        Ok(())
    }

    /// As many client connections as there are descriptors for.
    fn bound_connections(&self, snapshot: &Snapshot) {
        let Some(shared) = &self.shared else { return };
        let descriptors = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let listening = snapshot.listeners.len() * self.thread_count;
        let pooled = snapshot.upstreams.iter().map(|upstream| upstream.keepalive).sum();
        let max = room::connections_max(descriptors, listening, pooled);
        if shared.connections_max.swap(max, Ordering::Relaxed) != max {
            log::warn!("worker has room for {max} connections: it may open {descriptors} files");
        }
    }

    /// Lets go of what was attached once and is there no more.
    fn detach(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        if snapshot.access_format.is_none() {
            self.logs.access = None;
        }
        let had_file = self.served.as_ref().is_some_and(|served| served.snapshot.error_file);
        if self.logs.error.is_none() || (had_file && !snapshot.error_file) {
            let stderr = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3)?;
            open_log("error-log", &mut self.logs.error, stderr)?;
        }
        if !snapshot.metrics {
            self.metrics.close();
        }
        Ok(())
    }

    fn share(&mut self) -> anyhow::Result<Arc<Shared>> {
        let table = self.attached.table.take().context("no backend table came before the first snapshot")?;
        let activity =
            self.attached.activity.take().context("no activity table came before the first snapshot")?;
        let table = BackendTable::map_read_only(&table).context("map the backend table")?;
        let activity = ActivityTable::map(&activity).context("map the activity table")?;
        let shared = Arc::new(Shared::new(table, activity, self.reports.0.clone()));
        self.shared = Some(shared.clone());
        self.metrics.told.borrow_mut().shared = Some(shared.clone());
        Ok(shared)
    }

    fn tell_threads(&self, command: impl Fn() -> Command) {
        for thread in &self.threads {
            let _ = thread.commands.send(command());
        }
    }

    /// Asks all threads that have not drained.
    fn ping(&mut self) {
        self.pinged = true;
        for thread in &mut self.threads {
            thread.alive = thread.commands.send(Command::Ping).is_err();
        }
    }

    async fn answer_ping(&mut self) {
        if self.pinged && self.threads.iter().all(|thread| thread.alive || thread.ended) {
            self.pinged = false;
            self.send(&FromWorker::Pong).await;
        }
    }

    /// Begins to drain; tells whether there is nothing to wait for.
    fn drain(&mut self, until: Instant) -> bool {
        if !std::mem::replace(&mut self.draining, true) {
            self.tell_threads(|| Command::Drain(until));
        }
        self.threads.is_empty()
    }

    /// Takes note of what a thread says; tells whether all have ended.
    async fn note(&mut self, index: usize, notice: Notice) -> bool {
        match notice {
            Notice::Serving(number) => {
                let before = self.serving();
                self.threads[index].serving = number;
                self.acknowledge(before).await;
                false
            }
            Notice::Alive => {
                self.threads[index].alive = true;
                self.answer_ping().await;
                false
            }
            Notice::Ended => {
                let before = self.serving();
                self.threads[index].ended = true;
                self.acknowledge(before).await;
                self.answer_ping().await;
                let all = self.threads.iter().all(|thread| thread.ended);
                if all {
                    self.flush_logs();
                    self.send(&FromWorker::Drained).await;
                }
                all
            }
        }
    }

    fn flush_logs(&self) {
        for log in [&self.logs.access, &self.logs.error].into_iter().flatten() {
            log.flush(LOG_FLUSH_WITHIN);
        }
    }

    /// Tells the master what every thread serves now, where that is more than before.
    async fn acknowledge(&mut self, before: u64) {
        let now = self.serving();
        if now > before {
            self.send(&FromWorker::Serving { number: now }).await;
        }
    }

    /// The snapshot that every thread serves at least; one that has drained serves nothing.
    fn serving(&self) -> u64 {
        self.threads.iter().filter(|thread| !thread.ended).map(|thread| thread.serving).min().unwrap_or(0)
    }
}

/// Continues a log in this file, or begins it.
fn open_log(name: &str, log: &mut Option<LogQueue>, file: OwnedFd) -> anyhow::Result<()> {
    match log {
        Some(log) => log.reopen(file),
        None => {
            let started = LogQueue::start(name, file);
            *log = Some(started.with_context(|| format!("start the writer of {name}"))?);
        }
    }
    Ok(())
}

async fn receive(link: &mut Option<MasterLink>) -> std::io::Result<Option<Packet>> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

fn start(
    index: usize,
    shared: &Arc<Shared>,
    metrics: Arc<ThreadMetrics>,
    served: &Arc<Served>,
    notices: &Notices,
) -> anyhow::Result<Worker> {
    let (commands, received) = mpsc::unbounded_channel();
    let (shared, served, notices) = (shared.clone(), served.clone(), notices.clone());
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            if let Err(error) = thread::run(index, shared, metrics, served, received, notices) {
                log::error!("worker thread failed index={index} error={error}");
                // Half a worker would leave connections unanswered in its accept queue: the master starts a whole one.
                log::logger().flush();
                std::process::exit(1);
            }
        })
        .with_context(|| format!("start worker thread {index}"))?;
    Ok(Worker { commands, serving: 0, alive: true, ended: false, _thread: thread })
}

/// The JSON in a memfd.
fn read_memory<T: serde::de::DeserializeOwned>(memory: Option<OwnedFd>) -> anyhow::Result<T> {
    let memory = memory.context("no descriptor came with it")?;
    let bytes = rustix::fs::fstat(&memory)?.st_size;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= SNAPSHOT_BYTES_MAX);
    let mut text = vec![0; bytes.context("it is too large")?];
    let mut filled = 0;
    while filled < text.len() {
        let read = rustix::io::pread(&memory, &mut text[filled..], filled as u64)?;
        anyhow::ensure!(read > 0, "it ends early");
        filled += read;
    }
    Ok(serde_json::from_slice(&text)?)
}
