//! The worker: started, told what to serve, watched, replaced when it dies or gets stuck, drained at the end.
//!
//! Effectful: starts processes and maps their activity. There is one worker that serves; one that is being replaced may
//! still be ending beside it.

pub mod link;
mod patience;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use self::link::{Link, Packet};
use super::inbox::{Inbox, Input};
use super::packet;
use super::program::cgroup::Cgroups;
use super::program::exec_shim::Identity;
use super::program::life::Process;
use super::program::own::Own;
use super::run_dir::RecordedProcess;
use super::watched::watched;
use crate::control::protocol::WorkerStatus;
use crate::limits::WORKER_QUEUE_MAX;
use crate::link::{Attachment, ToWorker};
use crate::snapshot::Snapshot;
use crate::state::event::Slot;
use crate::table::{self, ACTIVITY_BYTES, ActivityTable};
use crate::time::Time;

/// A worker that lives shorter than this has failed to start.
const LIVED_LONG_ENOUGH: Duration = Duration::from_secs(1);
/// First wait after a worker failed to start twice in a row; doubled each time.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The worker processes.
pub struct Workers {
    living: Vec<Worker>,
    generation: u64,
    failed_starts: u32,
    snapshot: Option<(u64, Arc<OwnedFd>)>,
    setting: Setting,
    inbox: Inbox,
}

/// What every worker is started with.
pub struct Setting {
    /// What every process of our own is.
    pub own: Own,
    /// The name of the user that it runs as.
    pub user: String,
    /// Its threads.
    pub threads: usize,
}

struct Worker {
    generation: u64,
    process: Arc<Process>,
    queue: mpsc::Sender<Packet>,
    table_changed: Arc<Notify>,
    activity: ActivityTable,
    serving: u64,
    draining: bool,
    started_at: Time,
}

/// What a new worker is given before its first snapshot.
pub type Attachments = Vec<(Attachment, Arc<OwnedFd>)>;

impl Workers {
    /// None yet.
    pub fn new(setting: Setting, inbox: Inbox) -> Self {
        Self { living: Vec::new(), generation: 0, failed_starts: 0, snapshot: None, setting, inbox }
    }

    /// Threads of each worker.
    pub fn threads(&self) -> usize {
        self.setting.threads
    }

    /// Who each worker runs as, by id and name.
    pub fn user(&self) -> (Option<&Identity>, &str) {
        (self.setting.own.identity.as_ref(), &self.setting.user)
    }

    /// Starts a worker with these descriptors and the current snapshot.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn start(&mut self, cgroups: &Cgroups, attachments: Attachments, now: Time) -> anyhow::Result<u32> {
        let generation = self.generation;
        self.generation += 1;
        let (ours, theirs) = packet::pair().context("socket pair to the worker")?;
        let memory = table::shared_memory("lbctl-activity", ACTIVITY_BYTES).context("activity table")?;
        let activity = ActivityTable::map(&memory).context("activity table")?;
        let (queue, queued) = mpsc::channel(WORKER_QUEUE_MAX);
        let table_changed = Arc::new(Notify::new());
        let link = Link {
            socket: watched(ours).context("watch the link")?,
            queue: queued,
            table_changed: table_changed.clone(),
            inbox: self.inbox.clone(),
            generation,
        };
        // The last that may fail: there is no worker without a link, and none that nobody knows.
        let process = self.launch(cgroups, generation, &theirs)?;
        let (serving, draining, started_at) = (0, false, now);
        let worker =
            Worker { generation, process, queue, table_changed, activity, serving, draining, started_at };
        worker.send(ToWorker::Hello { threads: self.setting.threads, generation }, None);
        worker.attach(Attachment::Activity, Arc::new(memory));
        for (what, descriptor) in attachments {
            worker.attach(what, descriptor);
        }
        if let Some((number, memory)) = &self.snapshot {
            worker.send_memory(ToWorker::Snapshot { number: *number }, memory);
        }
        tokio::spawn(link.run());
        let pid = worker.process.pid;
        self.living.push(worker);
        Ok(pid)
    }

    fn launch(&self, cgroups: &Cgroups, generation: u64, link: &OwnedFd) -> anyhow::Result<Arc<Process>> {
        let leaf = format!("worker.{generation}");
        let launched =
            self.setting.own.launch("__worker", &leaf, cgroups, link).context("start the worker")?;
        let (process, inbox) = (launched.process.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let how = launched.ended().await;
            let _ = inbox.send(Input::WorkerEnded { generation, how }).await;
        });
        Ok(process)
    }

    /// Sends a picture to all, and to those that come later.
    ///
    /// # Errors
    /// No memory for it.
    pub fn publish(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        let memory = Arc::new(written(&serde_json::to_vec(snapshot)?).context("memory for the snapshot")?);
        self.snapshot = Some((snapshot.number, memory.clone()));
        for worker in &self.living {
            worker.send_memory(ToWorker::Snapshot { number: snapshot.number }, &memory);
        }
        Ok(())
    }

    /// Sends the newest picture to one that has lost it.
    pub fn publish_again(&self, generation: u64) {
        let worker = self.living.iter().find(|worker| worker.generation == generation);
        if let (Some(worker), Some((number, memory))) = (worker, &self.snapshot) {
            worker.send_memory(ToWorker::Snapshot { number: *number }, memory);
        }
    }

    /// Gives a descriptor to all that live.
    pub fn attach(&self, what: &Attachment, descriptor: &Arc<OwnedFd>) {
        for worker in &self.living {
            worker.attach(what.clone(), descriptor.clone());
        }
    }

    /// Tells all to look at the table again.
    pub fn table_changed(&self) {
        for worker in &self.living {
            worker.table_changed.notify_one();
        }
    }

    /// Tells all what the master knows for `/metrics`, as JSON of a `StatusReport`.
    ///
    /// # Errors
    /// No memory for it.
    pub fn status(&self, report: &[u8]) -> anyhow::Result<()> {
        let memory = Arc::new(written(report).context("memory for the status")?);
        for worker in &self.living {
            worker.send_memory(ToWorker::Status, &memory);
        }
        Ok(())
    }

    /// A worker serves a snapshot now. The lowest number that any serves.
    pub fn serves(&mut self, generation: u64, number: u64) -> u64 {
        if let Some(worker) = self.living.iter_mut().find(|worker| worker.generation == generation) {
            worker.serving = worker.serving.max(number);
        }
        self.lowest_served()
    }

    /// The lowest snapshot number that any living worker serves; 0 without workers.
    pub fn lowest_served(&self) -> u64 {
        self.living.iter().map(|worker| worker.serving).min().unwrap_or(0)
    }

    /// Active requests, open connections and requests ever sent on a row, over all workers.
    pub fn activity(&self, slot: Slot) -> (u32, u32, u64) {
        use std::sync::atomic::Ordering::SeqCst;
        self.living.iter().map(|worker| worker.activity.row(slot)).fold((0, 0, 0), |sum, row| {
            (
                sum.0 + row.active.load(SeqCst),
                sum.1 + row.connections.load(SeqCst),
                sum.2 + row.requests.load(SeqCst),
            )
        })
    }

    /// Ends a worker that does not answer. What happens next comes as [`Input::WorkerEnded`].
    pub fn kill(&self, generation: u64) {
        if let Some(worker) = self.living.iter().find(|worker| worker.generation == generation) {
            worker.process.kill();
        }
    }

    /// Ends all.
    pub fn kill_all(&self) {
        self.living.iter().for_each(|worker| worker.process.kill());
    }

    /// Forgets a worker that has ended. How long to wait before the next is started.
    pub fn ended(&mut self, generation: u64, now: Time) -> Duration {
        let Some(position) = self.living.iter().position(|worker| worker.generation == generation) else {
            return Duration::ZERO;
        };
        let lived = now.since(self.living.swap_remove(position).started_at);
        self.failed_starts = if lived < LIVED_LONG_ENOUGH { self.failed_starts + 1 } else { 0 };
        wait(self.failed_starts)
    }

    /// Nobody is taken any more, what is in progress ends.
    pub fn drain(&mut self, within: Duration) {
        let within_ms = within.as_millis() as u64;
        for worker in &mut self.living {
            worker.send(ToWorker::Drain { within_ms }, None);
            worker.draining = true;
        }
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.living.is_empty()
    }

    /// For the status report.
    pub fn report(&self, now: Time) -> Vec<WorkerStatus> {
        let status = |worker: &Worker| WorkerStatus {
            pid: worker.process.pid,
            generation: worker.generation,
            serving: worker.serving,
            uptime_ms: now.since(worker.started_at).as_millis() as u64,
        };
        self.living.iter().map(status).collect()
    }

    /// What the run folder's record says of them.
    pub fn recorded(&self) -> impl Iterator<Item = Option<RecordedProcess>> {
        self.living.iter().map(|worker| worker.process.recorded(&format!("worker.{}", worker.generation)))
    }
}

impl Worker {
    /// Queues a message. One that does not keep up is replaced, unless it drains: then only what is in progress counts. Where the link
    /// has ended the loop knows.
    fn send(&self, message: ToWorker, descriptor: Option<Arc<OwnedFd>>) {
        let sent = self.queue.try_send(Packet { message, descriptor });
        if matches!(sent, Err(TrySendError::Full(_))) && !self.draining {
            log::warn!("worker does not keep up worker={} pid={}", self.generation, self.process.pid);
            self.process.kill();
        }
    }

    /// A descriptor of its own for each: they would share one reading position.
    fn send_memory(&self, message: ToWorker, memory: &Arc<OwnedFd>) {
        let own = table::read_only(memory).map_or_else(|_| memory.clone(), Arc::new);
        self.send(message, Some(own));
    }

    fn attach(&self, what: Attachment, descriptor: Arc<OwnedFd>) {
        self.send(ToWorker::Attach { what }, Some(descriptor));
    }
}

/// None after the first failed start, then doubling.
fn wait(failed_starts: u32) -> Duration {
    match failed_starts {
        0 | 1 => Duration::ZERO,
        more => (WAIT_MIN * 2_u32.saturating_pow(more - 2)).min(WAIT_MAX),
    }
}

/// A memfd that holds these bytes, for reading from its start.
fn written(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let memory = table::shared_memory("lbctl-message", 0)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_is_started_at_once_unless_it_keeps_failing() {
        assert_eq!(wait(0), Duration::ZERO);
        assert_eq!(wait(1), Duration::ZERO);
        assert_eq!(wait(2), Duration::from_millis(100));
        assert_eq!(wait(4), Duration::from_millis(400));
        assert_eq!(wait(40), WAIT_MAX);
    }
}
