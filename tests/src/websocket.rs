//! Many WebSockets that echo without end and note how each ended.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Longest wait for an echo.
const ECHO_WITHIN: Duration = Duration::from_secs(10);

/// How one WebSocket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It still echoed when the test was over.
    Open,
    /// A close frame with this code came.
    Closed(u16),
    /// The connection ended without a close frame, but in order (no reset).
    Ended,
    /// Anything else.
    Broken(String),
}

/// One WebSocket's life.
#[derive(Clone, Debug)]
pub struct Life {
    /// How it ended.
    pub end: End,
    /// When, since the start.
    pub ended: Duration,
    /// Echoes received.
    pub echoes: u64,
    /// The slowest echo.
    pub slowest: Duration,
}

/// Running WebSockets.
pub struct Sockets {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    begun: Instant,
    thread: JoinHandle<Vec<Life>>,
}

/// What each of them does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where.
    pub target: SocketAddr,
    /// How many.
    pub count: usize,
    /// Pause between two echoes.
    pub pause: Duration,
}

impl Sockets {
    /// Opens all and returns once each has echoed.
    ///
    /// # Panics
    /// When they do not open within 20 seconds.
    pub fn open(plan: Plan) -> Self {
        let (stop, open, begun) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Instant::now());
        let (thread_stop, thread_open, count) = (stop.clone(), open.clone(), plan.count);
        let thread = std::thread::spawn(move || echo_all(plan, begun, thread_stop, thread_open));
        let sockets = Self { stop, open, begun, thread };
        crate::wait::until(Duration::from_secs(20), "all WebSockets echo", || {
            (sockets.open_now() == count).then_some(())
        });
        sockets
    }

    /// How many echo now.
    pub fn open_now(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Since the start: the time base of [`Life::ended`].
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Stops those that still echo and tells of all.
    ///
    /// # Panics
    /// When their thread did.
    pub fn finish(self) -> Vec<Life> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("WebSockets do not panic")
    }
}

fn echo_all(plan: Plan, begun: Instant, stop: Arc<AtomicBool>, open: Arc<AtomicUsize>) -> Vec<Life> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let plan = Rc::new(plan);
    LocalSet::new().block_on(&runtime, async {
        let lives: Vec<_> = (0..plan.count)
            .map(|number| {
                let (plan, stop, open) = (plan.clone(), stop.clone(), open.clone());
                tokio::task::spawn_local(async move { live(&plan, number, begun, &stop, &open).await })
            })
            .collect();
        let mut all = Vec::new();
        for life in lives {
            all.push(life.await.expect("a WebSocket does not panic"));
        }
        all
    })
}

async fn live(plan: &Plan, number: usize, begun: Instant, stop: &AtomicBool, open: &AtomicUsize) -> Life {
    let mut life = Life { end: End::Open, ended: Duration::ZERO, echoes: 0, slowest: Duration::ZERO };
    life.end = match connect(plan.target).await {
        Ok(mut socket) => {
            let end = echo(&mut socket, plan, number, stop, open, &mut life).await;
            if life.echoes > 0 {
                open.fetch_sub(1, Ordering::Relaxed);
            }
            end
        }
        Err(error) => End::Broken(format!("{error:#}")),
    };
    life.ended = begun.elapsed();
    life
}

async fn connect(target: SocketAddr) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let stream = TcpStream::connect(target).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (socket, response) =
        tokio_tungstenite::client_async("ws://socket.example/ws", stream).await.context("handshake")?;
    ensure!(response.status().as_u16() == 101, "handshake answered {}", response.status());
    Ok(socket)
}

async fn echo(
    socket: &mut WebSocketStream<TcpStream>,
    plan: &Plan,
    number: usize,
    stop: &AtomicBool,
    open: &AtomicUsize,
    life: &mut Life,
) -> End {
    // Spread over the pause, so that they do not all speak at once.
    tokio::time::sleep(plan.pause * (number as u32) / (plan.count as u32)).await;
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        match tokio::time::timeout(ECHO_WITHIN, exchange(socket, &format!("{number}:{}", life.echoes))).await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return ending(&error),
            Err(_) => return End::Broken("no echo".to_owned()),
        }
        life.slowest = life.slowest.max(sent.elapsed());
        life.echoes += 1;
        if life.echoes == 1 {
            open.fetch_add(1, Ordering::Relaxed);
        }
        // Listens while it pauses: a close frame may come at any time.
        match tokio::time::timeout(plan.pause, socket.next()).await {
            Err(_) => {}
            Ok(message) => match judge(message) {
                Ok(text) => return End::Broken(format!("unasked message {text:?}")),
                Err(error) => return ending(&error),
            },
        }
    }
    End::Open
}

async fn exchange(socket: &mut WebSocketStream<TcpStream>, text: &str) -> anyhow::Result<()> {
    socket.send(Message::text(text)).await?;
    let echoed = judge(socket.next().await)?;
    ensure!(echoed == text, "sent {text:?}, got {echoed:?}");
    Ok(())
}

/// The text of a message; a close frame is an [`Ending`].
fn judge(message: Option<Result<Message, Error>>) -> anyhow::Result<String> {
    match message {
        Some(Ok(Message::Text(text))) => Ok(text.as_str().to_owned()),
        Some(Ok(Message::Close(frame))) => {
            Err(Ending::Closed(frame.map_or(1005, |frame| frame.code.into())).into())
        }
        Some(Ok(other)) => bail!("got {other:?}"),
        Some(Err(error)) => Err(error.into()),
        None => Err(Ending::Ended.into()),
    }
}

/// An end in order, on its way through `?`.
#[derive(Debug)]
enum Ending {
    Closed(u16),
    Ended,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Ending {}

fn ending(error: &anyhow::Error) -> End {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match (error.downcast_ref::<Ending>(), error.downcast_ref::<Error>()) {
        (Some(Ending::Closed(code)), _) => End::Closed(*code),
        (Some(Ending::Ended), _) => End::Ended,
        (_, Some(Error::ConnectionClosed | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
            End::Ended
        }
        (_, Some(Error::Io(error))) if error.kind() == std::io::ErrorKind::BrokenPipe => End::Ended,
        _ => End::Broken(format!("{error:#}")),
    }
}
