//! One worker thread: a runtime of its own, the listeners that it accepts on, its pool of backend connections.
//!
//! Effectful: runs a runtime, draws randomness, waits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use super::connection::Connections;
use super::listener::{self, Listening};
use super::metrics::ThreadMetrics;
use super::request::pick::Candidates;
use super::request::pool::Pool;
use super::request::request_id::RequestIds;
use super::served::{LocalServed, Served};
use super::shared::Shared;
use crate::snapshot::ServedListener;

/// How often idle connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// What the main thread asks of a thread.
pub enum Command {
    /// Serve this from now on; sockets of listeners that are new to the thread come with it.
    Serve(Arc<Served>, Vec<(ServedListener, OwnedFd)>),
    /// Look at the backend table again.
    TableChanged,
    /// Say [`Notice::Alive`].
    Ping,
    /// Finish what is in progress until then, then end.
    Drain(Instant),
}

/// What a thread tells the main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It serves the snapshot of this number.
    Serving(u64),
    /// It came by: the answer to a ping.
    Alive,
    /// It has drained and ended.
    Ended,
}

/// The way to the main thread, with the index of the thread that speaks.
pub type Notices = mpsc::UnboundedSender<(usize, Notice)>;

/// What everything on one thread shares.
pub struct Thread {
    /// From 0.
    pub index: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Idle backend connections.
    pub pool: Pool,
    /// Woken when the table or the snapshot changed.
    pub changed: Notify,
    /// Client connections.
    pub connections: Connections,
    /// Names for requests that come without one.
    pub ids: RequestIds,
    /// Scratch space of `pick`.
    pub candidates: RefCell<Candidates>,
    /// For balancing.
    pub rng: RefCell<fastrand::Rng>,
    /// No longer takes new requests; until when it finishes those it has.
    pub draining: Cell<Option<Instant>>,
    /// This thread's counters.
    pub metrics: Arc<ThreadMetrics>,
    served: RefCell<Rc<LocalServed>>,
}

impl Thread {
    /// What is served now; a request keeps what it began with.
    pub fn served(&self) -> Rc<LocalServed> {
        self.served.borrow().clone()
    }
}

/// Runs a thread until it has drained or the main thread is gone.
///
/// # Errors
/// When the operating system refuses a runtime.
pub fn run(
    index: usize,
    shared: Arc<Shared>,
    metrics: Arc<ThreadMetrics>,
    first: Arc<Served>,
    commands: mpsc::UnboundedReceiver<Command>,
    notices: Notices,
) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    #[expect(clippy::disallowed_methods, reason = "each thread seeds its own generator")]
    let rng = fastrand::Rng::new();
    let thread = Rc::new(Thread {
        index,
        pool: Pool::default(),
        changed: Notify::new(),
        connections: Connections::default(),
        ids: RequestIds::new(rng.clone().u64(..)),
        candidates: RefCell::default(),
        rng: RefCell::new(rng),
        draining: Cell::new(None),
        served: RefCell::new(Rc::new(LocalServed::new(first, &metrics, None))),
        metrics,
        shared,
    });
    runtime.block_on(obey(thread, commands, &notices));
    let _ = notices.send((index, Notice::Ended));
    Ok(())
}

async fn obey(thread: Rc<Thread>, mut commands: mpsc::UnboundedReceiver<Command>, notices: &Notices) {
    let mut listening: HashMap<u32, Listening> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            now = sweep.tick(), if !thread.pool.is_empty() => {
                thread.pool.drop_expired(now);
                continue;
            }
            () = drained(&thread), if thread.draining.get().is_some() => None,
        };
        match command {
            None => return,
            Some(Command::Serve(served, sockets)) => {
                let number = served.snapshot.number;
                serve(&thread, &mut listening, served, sockets).await;
                let _ = notices.send((thread.index, Notice::Serving(number)));
            }
            Some(Command::TableChanged) => look_again(&thread),
            Some(Command::Ping) => drop(notices.send((thread.index, Notice::Alive))),
            Some(Command::Drain(until)) => {
                for (_, listening) in listening.drain() {
                    listening.close().await;
                }
                drain(&thread, until);
            }
        }
    }
}

async fn serve(
    thread: &Rc<Thread>,
    listening: &mut HashMap<u32, Listening>,
    served: Arc<Served>,
    sockets: Vec<(ServedListener, OwnedFd)>,
) {
    let is_gone = |id: &u32| !served.snapshot.listeners.iter().any(|listener| listener.id == *id);
    for (_, closed) in listening.extract_if(|id, _| is_gone(id)) {
        closed.close().await;
    }
    let before = thread.served();
    *thread.served.borrow_mut() = Rc::new(LocalServed::new(served, &thread.metrics, Some(&before)));
    for (listener, socket) in sockets {
        let id = listener.id;
        match listener::listen(thread, listener, socket) {
            Ok(started) => drop(listening.insert(id, started)),
            Err(error) => log::error!("listener failed id={id} error={error}"),
        }
    }
    look_again(thread);
}

/// The table or the snapshot changed: who waits for a backend, holds a tunnel or an idle connection looks again.
fn look_again(thread: &Thread) {
    thread.pool.drop_dead(&thread.shared.table);
    thread.changed.notify_waiters();
}

/// Nothing new is taken. What is in progress goes on, and follows snapshots and the table as before.
fn drain(thread: &Thread, until: Instant) {
    thread.draining.set(Some(until));
    thread.connections.close_idle();
    thread.changed.notify_waiters();
}

/// Returns when nothing is in progress any more, or has had its time.
async fn drained(thread: &Thread) {
    if let Some(until) = thread.draining.get() {
        let _ = timeout_at(until, thread.connections.all_closed()).await;
    }
}
