//! A client: TCP connections that ask backends ([`Request`]) and compare what comes.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::namespace::Namespace;
use super::server::{self, Request};

/// How long nothing may move.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs asynchronous work in a thread inside the namespace.
///
/// # Panics
/// When the work does.
pub fn run<T: Send>(namespace: &Namespace, work: impl Future<Output = T> + Send) -> T {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(work)
    })
}

/// An open connection to a backend.
pub struct Connection {
    stream: TcpStream,
    tokens: u64,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When it takes too long or is refused.
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, tokens: 0 })
    }

    /// Connects from an address and port of its own.
    ///
    /// # Errors
    /// As [`Self::open`], or when the port is taken.
    pub async fn open_from(client: SocketAddr, address: SocketAddr) -> std::io::Result<Self> {
        let socket = match client {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(client)?;
        let stream = timeout(PATIENCE, socket.connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, tokens: 0 })
    }

    /// Asks who answers.
    ///
    /// # Errors
    /// When the connection ends, nothing comes, or the answer is not to this question.
    pub async fn ping(&mut self) -> anyhow::Result<u32> {
        self.ask(Request::Ping).await
    }

    /// As [`Self::ping`]; the backend then closes the connection, which must be seen too.
    ///
    /// # Errors
    /// As [`Self::ping`], or when more comes than was asked for.
    pub async fn last(mut self) -> anyhow::Result<u32> {
        let number = self.ask(Request::Last).await?;
        let rest = timeout(PATIENCE, self.stream.read(&mut [0; 1])).await.context("no end came")??;
        ensure!(rest == 0, "more bytes than were asked for");
        Ok(number)
    }

    /// Whom the backend sees as the client.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn source(&mut self) -> anyhow::Result<IpAddr> {
        self.stream.write_all(&Request::Source(0).bytes()).await?;
        let mut octets = [0; 16];
        timeout(PATIENCE, self.stream.read_exact(&mut octets)).await.context("no answer came")??;
        Ok(IpAddr::from(octets).to_canonical())
    }

    /// Our own address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local(&self) -> anyhow::Result<IpAddr> {
        Ok(self.stream.local_addr()?.ip())
    }

    async fn ask(&mut self, request: impl FnOnce(u64) -> Request) -> anyhow::Result<u32> {
        self.tokens += 1;
        self.stream.write_all(&request(self.tokens).bytes()).await?;
        let mut answer = [0; 12];
        timeout(PATIENCE, self.stream.read_exact(&mut answer)).await.context("no answer came")??;
        let (token, number) = answer.split_at(8);
        ensure!(token == self.tokens.to_le_bytes(), "an answer to another question");
        Ok(u32::from_le_bytes(number.try_into().expect("four bytes")))
    }

    /// Sends so many bytes, which the backend compares.
    ///
    /// # Errors
    /// When one is wrong or the connection ends.
    pub async fn upload(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.stream.write_all(&Request::Upload(bytes).bytes()).await?;
        server::send(&mut self.stream, bytes).await?;
        let mut right = [0; 8];
        timeout(PATIENCE, self.stream.read_exact(&mut right)).await.context("no answer came")??;
        let right = u64::from_le_bytes(right);
        ensure!(right == bytes, "byte {right} of {bytes} was not what was sent");
        Ok(())
    }

    /// Receives so many bytes and compares them.
    ///
    /// # Errors
    /// When one is wrong or the connection ends.
    pub async fn download(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.stream.write_all(&Request::Download(bytes).bytes()).await?;
        let mut buffer = vec![0; 64 * 1024];
        let right = server::receive(&mut self.stream, bytes, &mut buffer).await?;
        ensure!(right == bytes, "byte {right} of {bytes} was not what was sent");
        Ok(())
    }
}

/// How long one transfer took each way.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// To the backend.
    pub up: Duration,
    /// From it.
    pub down: Duration,
}

/// Sends and receives so many bytes over one connection, all compared.
///
/// # Errors
/// When a byte is wrong, the connection ends or nothing moves.
pub fn transfer(namespace: &Namespace, address: SocketAddr, bytes: u64) -> anyhow::Result<Transfer> {
    run(namespace, async {
        let mut connection = Connection::open(address).await.context("connecting")?;
        let started = Instant::now();
        timeout(3 * PATIENCE, connection.upload(bytes))
            .await
            .context("the upload hangs")?
            .context("upload")?;
        let up = started.elapsed();
        let started = Instant::now();
        let download = timeout(3 * PATIENCE, connection.download(bytes));
        download.await.context("the download hangs")?.context("download")?;
        Ok(Transfer { up, down: started.elapsed() })
    })
}

/// Opens so many connections at once, asks on each until all are open, and once more; returns how many each backend has.
///
/// # Errors
/// When one fails, or changes its backend.
pub fn parallel(namespace: &Namespace, address: SocketAddr, count: usize) -> anyhow::Result<Vec<usize>> {
    run(namespace, async {
        let mut opening = JoinSet::new();
        for _ in 0..count {
            opening.spawn(async move {
                let mut connection = Connection::open(address).await?;
                let backend = connection.ping().await?;
                anyhow::Ok((connection, backend))
            });
        }
        let mut open = Vec::new();
        while let Some(opened) = opening.join_next().await {
            open.push(opened?.with_context(|| format!("connection {} of {count}", open.len()))?);
        }
        let mut shares = Vec::new();
        for (connection, backend) in &mut open {
            let again = connection.ping().await?;
            if again != *backend {
                bail!("a connection to backend {backend} was answered by {again}");
            }
            let backend = usize::try_from(again)?;
            shares.resize(shares.len().max(backend + 1), 0);
            shares[backend] += 1;
        }
        Ok(shares)
    })
}
