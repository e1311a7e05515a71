//! Bytes must arrive as they were sent: bodies of random sizes and bytes through `/echo` and back on keep-alive connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use lb_common::limits::SHORT_CUT_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::http1;

/// How many messages there are for each large one.
const LARGE_ONE_IN: u32 = 1000;
const LARGE_BYTES_MAX: usize = 3 * SHORT_CUT_BYTES_MAX as usize;
/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct EchoPlan {
    /// Where.
    pub target: SocketAddr,
    /// Connections at once.
    pub connections: u64,
    /// Messages on all of them together.
    pub messages: u64,
    /// Of the random sizes and bytes.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EchoFigures {
    /// Messages that came back as they were sent.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Sends all messages and compares every byte.
///
/// # Errors
/// At the first that does not come back as it was sent; names seed and message.
pub fn run(plan: EchoPlan) -> anyhow::Result<EchoFigures> {
    println!("seed {}", plan.seed);
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let connections: Vec<_> =
            (0..plan.connections).map(|number| tokio::task::spawn_local(connection(plan, number))).collect();
        let mut all = EchoFigures::default();
        for (number, connection) in connections.into_iter().enumerate() {
            let bytes =
                connection.await?.with_context(|| format!("seed {} connection {number}", plan.seed))?;
            all.bytes += bytes;
            all.messages += plan.messages / plan.connections;
        }
        all.elapsed = begun.elapsed();
        Ok(all)
    })
}

async fn connection(plan: EchoPlan, number: u64) -> anyhow::Result<u64> {
    let mut random = fastrand::Rng::with_seed(plan.seed.wrapping_add(number));
    let mut stream = TcpStream::connect(plan.target).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let mut total = 0;
    let mut received = Vec::new();
    for message in 0..plan.messages / plan.connections {
        let body = body(&mut random);
        let sent_and_read =
            tokio::time::timeout(ANSWER_WITHIN, exchange(&mut stream, &body, &mut received)).await;
        let echoed = sent_and_read
            .unwrap_or_else(|_| bail!("no answer"))
            .with_context(|| format!("message {message} of {} bytes", body.len()))?;
        let differs = echoed.iter().zip(&body).position(|(got, sent)| got != sent);
        ensure!(
            echoed.len() == body.len() && differs.is_none(),
            "message {message}: sent {} bytes, got {}, first difference {differs:?}",
            body.len(),
            echoed.len()
        );
        total += body.len() as u64;
    }
    Ok(total)
}

/// Mostly small, sometimes larger than any socket buffer's first segment; sizes spread evenly over powers of two. A few are larger than
/// what the short-cut holds, so that bytes change between it and TCP.
fn body(random: &mut fastrand::Rng) -> Vec<u8> {
    let limit = if random.u32(..LARGE_ONE_IN) == 0 { LARGE_BYTES_MAX } else { 1 << random.u32(0..=15) };
    let size = random.usize(0..=limit);
    let mut body = vec![0; size];
    random.fill(&mut body);
    body
}

/// Sends and reads at the same time: neither side may wait for the other with full buffers.
async fn exchange(stream: &mut TcpStream, body: &[u8], received: &mut Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let mut message =
        format!("POST /echo HTTP/1.1\r\nHost: echo.example\r\nContent-Length: {}\r\n\r\n", body.len())
            .into_bytes();
    message.extend_from_slice(body);
    let (mut reader, mut writer) = stream.split();
    let send = async { writer.write_all(&message).await.context("sending") };
    let read = async {
        loop {
            if let Some((response, taken)) = http1::response(received, false)? {
                received.drain(..taken);
                ensure!(response.status == 200, "answered {} {}", response.status, response.text());
                return Ok(response.body);
            }
            let count = reader.read_buf(received).await.context("reading")?;
            ensure!(count > 0, "closed after {} bytes", received.len());
        }
    };
    let ((), echoed) = tokio::try_join!(send, read)?;
    Ok(echoed)
}
