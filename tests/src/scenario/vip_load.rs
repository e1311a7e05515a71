//! TCP connections to a VIP that last, and new ones all the time: which of them end that should not.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::figures::Durations;
use crate::lab::Lab;
use crate::lab::address::{Family, VIP_PORT};
use crate::lab::client::Connection;

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// Connections that last, half of them by IPv6.
    pub lasting: usize,
    /// From one message to the next on each.
    pub every: Duration,
    /// Tasks that open one short connection after the other.
    pub newcomers: usize,
}

/// A connection that ended when it should not have.
#[derive(Clone, Debug)]
pub struct Loss {
    /// By which family.
    pub family: Family,
    /// Who served it; unknown when it ended before the first answer.
    pub backend: Option<usize>,
    /// When the client began to open it.
    pub opened: Instant,
    /// When the client noticed.
    pub noticed: Instant,
    /// The SYN was answered with a reset.
    pub refused: bool,
    /// What the client saw.
    pub error: String,
}

/// What clients noticed.
#[derive(Default)]
pub struct Noticed {
    /// Messages answered on lasting connections.
    pub messages: u64,
    /// Short connections that went well.
    pub short: u64,
    /// How long each took.
    pub latency: Durations,
    /// Connections that ended.
    pub losses: Vec<Loss>,
}

impl Noticed {
    fn join(&mut self, other: Self) {
        self.messages += other.messages;
        self.short += other.short;
        self.latency.join(&other.latency);
        self.losses.extend(other.losses);
    }
}

/// Clients at work in a thread inside the client's namespace.
pub struct VipLoad {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Noticed>,
}

impl VipLoad {
    /// Opens the lasting connections; returns when they are open.
    pub fn start(lab: &Lab, plan: LoadPlan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let (opened, is_open) = std::sync::mpsc::channel();
        let thread = lab.client.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(run(plan, stopped, opened))
        });
        // An error: the thread has panicked, which `finish` tells.
        let _ = is_open.recv();
        Self { stop, thread }
    }

    /// Ends it, after one more message on each connection.
    ///
    /// # Panics
    /// When the clients did.
    pub fn finish(self) -> Noticed {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn run(plan: LoadPlan, stop: Arc<AtomicBool>, opened: std::sync::mpsc::Sender<()>) -> Noticed {
    let mut tasks = JoinSet::new();
    for number in 0..plan.lasting {
        tasks.spawn(lasting(Family::BOTH[number % 2], plan.every, stop.clone(), opened.clone()));
    }
    drop(opened);
    for number in 0..plan.newcomers {
        tasks.spawn(newcomers(Family::BOTH[number % 2], stop.clone()));
    }
    let mut noticed = Noticed::default();
    while let Some(task) = tasks.join_next().await {
        noticed.join(task.expect("clients do not panic"));
    }
    noticed
}

fn vip(family: Family) -> SocketAddr {
    SocketAddr::from((family.vip(), VIP_PORT))
}

/// One connection that lasts, opened again when it ends. `opened` is dropped when it is open for the first time.
async fn lasting(
    family: Family,
    every: Duration,
    stop: Arc<AtomicBool>,
    opened: std::sync::mpsc::Sender<()>,
) -> Noticed {
    let (mut noticed, mut opening) = (Noticed::default(), Some(opened));
    // Messages of different connections do not come at once.
    let mut pause = every.mul_f64(fastrand::f64());
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let lost = |backend, refused, error: &dyn std::fmt::Display| Loss {
            family,
            backend,
            opened: started,
            noticed: Instant::now(),
            refused,
            error: error.to_string(),
        };
        let mut connection = match Connection::open(vip(family)).await {
            Ok(connection) => connection,
            Err(error) => {
                noticed.losses.push(lost(None, error.kind() == ErrorKind::ConnectionRefused, &error));
                continue;
            }
        };
        let mut backend = None;
        loop {
            match connection.ping().await {
                Ok(number) if *backend.get_or_insert(number as usize) == number as usize => {
                    noticed.messages += 1
                }
                Ok(number) => {
                    noticed.losses.push(lost(backend, false, &format!("backend {number} answered")));
                    break;
                }
                Err(error) => {
                    noticed.losses.push(lost(backend, false, &format!("{error:#}")));
                    break;
                }
            }
            drop(opening.take());
            if stop.load(Ordering::Relaxed) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = every;
        }
    }
    noticed
}

/// Short connections, one after the other.
async fn newcomers(family: Family, stop: Arc<AtomicBool>) -> Noticed {
    let mut noticed = Noticed::default();
    while !stop.load(Ordering::Relaxed) {
        let opened = Instant::now();
        let (refused, error) = match Connection::open(vip(family)).await {
            Ok(connection) => match connection.last().await {
                Ok(_) => {
                    noticed.short += 1;
                    noticed.latency.add(opened.elapsed());
                    continue;
                }
                Err(error) => (false, format!("{error:#}")),
            },
            Err(error) => (error.kind() == ErrorKind::ConnectionRefused, error.to_string()),
        };
        noticed.losses.push(Loss { family, backend: None, opened, noticed: Instant::now(), refused, error });
    }
    noticed
}
