//! Closed-loop HTTP load: some connections that send requests without pause and watch every answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::figures::Durations;
use crate::http1::{self, BodyEnd};

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Room for one read.
const READ_BYTES: usize = 64 * 1024;
/// Failures described; more are only counted.
const FAILURES_KEPT: usize = 100;

/// What to send where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub target: SocketAddr,
    /// How many connections at once.
    pub connections: usize,
    /// The paths asked for, one after the other.
    pub paths: Vec<String>,
    /// How long a connection pauses between two requests.
    pub pause: Duration,
    /// Whether each request opens a connection of its own.
    pub reconnect: bool,
}

impl Plan {
    /// GETs of `/` without pause on this many keep-alive connections.
    pub fn keep_alive(port: u16, connections: usize) -> Self {
        Self {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            connections,
            paths: vec!["/".to_owned()],
            pause: Duration::ZERO,
            reconnect: false,
        }
    }

    /// One request for each new connection, with a pause.
    pub fn new_connections(port: u16, connections: usize, pause: Duration) -> Self {
        Self { reconnect: true, pause, ..Self::keep_alive(port, connections) }
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was sent, since the load began.
    pub sent: Duration,
    /// When it failed.
    pub failed: Duration,
    /// How.
    pub what: String,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// Requests answered with 200 and a whole body.
    pub ok: u64,
    /// All others.
    pub failed: u64,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// From the first byte sent to the last byte received, good answers only.
    pub latency: Durations,
    /// The slowest good answers: sent at, took.
    pub slowest: Vec<(Duration, Duration)>,
    /// Times at which good answers came, on connections made for them; only with [`Plan::reconnect`].
    pub answered: Vec<(Duration, Duration)>,
    /// How long the load ran.
    pub elapsed: Duration,
}

impl Outcome {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.ok as f64 / self.elapsed.as_secs_f64()
    }

    /// # Panics
    /// When a request failed; the message holds the first failures.
    pub fn assert_none_failed(&self) {
        assert_eq!(
            self.failed,
            0,
            "of {}: {:#?}",
            self.ok + self.failed,
            self.failures.iter().take(5).collect::<Vec<_>>()
        );
        assert!(self.ok > 0, "no request was made");
    }

    /// Failures of requests sent after this time.
    pub fn failed_after(&self, time: Duration) -> Vec<&Failure> {
        self.failures.iter().filter(|failure| failure.sent > time).collect()
    }

    fn join(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.failed);
        self.failures.truncate(FAILURES_KEPT);
        self.latency.join(&other.latency);
        self.slowest.extend(other.slowest);
        self.slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        self.slowest.truncate(10);
        self.answered.extend(other.answered);
    }
}

/// A load that runs in a thread of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    begun: Instant,
    thread: Option<JoinHandle<Outcome>>,
}

impl Load {
    /// Begins.
    pub fn start(plan: Plan) -> Self {
        let (stop, done, begun) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Instant::now());
        let (thread_stop, thread_done) = (stop.clone(), done.clone());
        let thread = std::thread::spawn(move || generate(plan, begun, thread_stop, thread_done));
        Self { stop, done, begun, thread: Some(thread) }
    }

    /// Since it began: the time base of [`Failure::sent`].
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Requests answered so far, failures included.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Sends nothing new, waits for what is in progress.
    ///
    /// # Panics
    /// When the load's thread did.
    pub fn finish(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("finished once").join().expect("the load does not panic")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs a plan for a time.
pub fn run_for(plan: Plan, time: Duration) -> Outcome {
    let load = Load::start(plan);
    std::thread::sleep(time);
    load.finish()
}

/// One connection's share.
struct Sender {
    plan: Rc<Plan>,
    begun: Instant,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    outcome: Outcome,
}

fn generate(plan: Plan, begun: Instant, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let plan = Rc::new(plan);
    let mut all = LocalSet::new().block_on(&runtime, async {
        let tasks: Vec<_> = (0..plan.connections)
            .map(|_| {
                let outcome = Outcome::default();
                let sender =
                    Sender { plan: plan.clone(), begun, stop: stop.clone(), done: done.clone(), outcome };
                tokio::task::spawn_local(sender.run())
            })
            .collect();
        let mut all = Outcome::default();
        for task in tasks {
            all.join(task.await.expect("a sender does not panic"));
        }
        all
    });
    all.elapsed = begun.elapsed();
    all
}

impl Sender {
    async fn run(mut self) -> Outcome {
        while !self.stop.load(Ordering::Relaxed) {
            let sent = self.begun.elapsed();
            match connect(self.plan.target).await {
                Ok(stream) => self.use_connection(stream, sent).await,
                Err(error) => {
                    self.fail(sent, &error);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        self.outcome
    }

    /// Sends until the connection ends, a request fails or the load stops.
    async fn use_connection(&mut self, mut stream: TcpStream, connected: Duration) {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let requests: Vec<String> = self.plan.paths.iter().map(|path| request(path)).collect();
        for request in requests.iter().cycle() {
            let sent = if self.plan.reconnect { connected } else { self.begun.elapsed() };
            let exchange = tokio::time::timeout(ANSWER_WITHIN, exchange(&mut stream, request, &mut buffer));
            let closes = match exchange.await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))) {
                Ok(closes) => closes,
                Err(error) => return self.fail(sent, &error),
            };
            self.succeed(sent);
            if !self.plan.pause.is_zero() {
                tokio::time::sleep(self.plan.pause).await;
            }
            if closes || self.plan.reconnect || self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn succeed(&mut self, sent: Duration) {
        let took = self.begun.elapsed() - sent;
        self.done.fetch_add(1, Ordering::Relaxed);
        self.outcome.ok += 1;
        self.outcome.latency.add(took);
        if self.plan.reconnect {
            self.outcome.answered.push((sent, took));
        }
        if self.outcome.slowest.len() < 10 {
            self.outcome.slowest.push((sent, took));
        } else if let Some(least) = self.outcome.slowest.iter_mut().min_by_key(|(_, took)| *took)
            && least.1 < took
        {
            *least = (sent, took);
        }
    }

    fn fail(&mut self, sent: Duration, error: &anyhow::Error) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.outcome.failed += 1;
        if self.outcome.failures.len() < FAILURES_KEPT {
            let failed = self.begun.elapsed();
            self.outcome.failures.push(Failure { sent, failed, what: format!("{error:#}") });
        }
    }
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: load.example\r\n\r\n")
}

async fn connect(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(target)).await;
    let stream = stream.context("connecting took five seconds")?.context("connecting")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer; returns whether the connection ends with it.
async fn exchange(stream: &mut TcpStream, request: &str, buffer: &mut Vec<u8>) -> anyhow::Result<bool> {
    stream.write_all(request.as_bytes()).await.context("sending")?;
    loop {
        if let Some(head) = http1::head(buffer)? {
            let end = match head.body {
                BodyEnd::After(length) => {
                    (buffer.len() >= head.bytes + length).then_some(head.bytes + length)
                }
                BodyEnd::Chunked => {
                    http1::chunks(&buffer[head.bytes..])?.map(|(_, taken)| head.bytes + taken)
                }
                BodyEnd::Close => bail!("an answer without length"),
            };
            if let Some(end) = end {
                ensure!(head.status == 200, "answered {}", String::from_utf8_lossy(&buffer[..end.min(512)]));
                buffer.drain(..end);
                return Ok(head.closes);
            }
        }
        buffer.reserve(READ_BYTES);
        let count = stream.read_buf(buffer).await.context("reading the answer")?;
        ensure!(count > 0, "closed after {} bytes of an answer", buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Deed, Peer, ok};

    #[test]
    fn answers_and_failures_are_counted() {
        let good = Peer::start(|_| Deed::Send(ok("ok")));
        let plan = Plan { target: good.address.parse().unwrap(), ..Plan::keep_alive(1, 4) };
        let outcome = run_for(plan.clone(), Duration::from_millis(200));
        outcome.assert_none_failed();
        assert_eq!(outcome.ok, good.arrived().len() as u64);
        let bad = Peer::start(|_| {
            Deed::SendAndClose(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_vec())
        });
        let outcome =
            run_for(Plan { target: bad.address.parse().unwrap(), ..plan }, Duration::from_millis(100));
        assert_eq!((outcome.ok, outcome.failed), (0, bad.arrived().len() as u64));
        assert!(outcome.failures[0].what.contains("502"), "{:?}", outcome.failures[0]);
    }
}
