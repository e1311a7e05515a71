//! A backend: answers requests on TCP and echoes datagrams, in a thread inside its namespace; can close and open again.
//!
//! A request is a byte that says what, then a number (little-endian). See [`Request`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc as channel;
use tokio::task::JoinSet;

use super::address::Family;
use super::namespace::Namespace;
use super::pattern;

/// Connections that may wait to be accepted: bursts come while the thread is busy.
const BACKLOG: i32 = 4_096;
/// The largest datagram.
pub const DATAGRAM_MAX: usize = 65_535;

/// What a client may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// So many bytes of the pattern follow; answered with how many were right.
    Upload(u64),
    /// Answered with so many bytes of the pattern.
    Download(u64),
    /// Answered with the number and the backend's.
    Ping(u64),
    /// As `Ping`, then the backend closes the connection.
    Last(u64),
    /// Answered with the 16 bytes of the address that the backend sees as the client's; the number says nothing.
    Source(u64),
}

impl Request {
    /// As on the wire.
    pub fn bytes(self) -> [u8; 9] {
        let (kind, number) = match self {
            Self::Upload(number) => (1, number),
            Self::Download(number) => (2, number),
            Self::Ping(number) => (3, number),
            Self::Last(number) => (4, number),
            Self::Source(number) => (5, number),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn read(bytes: [u8; 9]) -> anyhow::Result<Self> {
        let number = u64::from_le_bytes(bytes[1..].try_into().expect("eight bytes"));
        Ok(match bytes[0] {
            1 => Self::Upload(number),
            2 => Self::Download(number),
            3 => Self::Ping(number),
            4 => Self::Last(number),
            5 => Self::Source(number),
            kind => bail!("no request has the kind {kind}"),
        })
    }
}

/// A running backend, ended when dropped.
pub struct Server {
    orders: Option<channel::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// Closes every socket.
    Close(mpsc::Sender<()>),
    /// Listens again.
    Open(mpsc::Sender<()>),
}

impl Server {
    /// Starts one that listens on these ports of every address, and says `number` when it is asked.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(namespace: &Namespace, number: u32, ports: &[u16]) -> anyhow::Result<Self> {
        let (orders, receiver) = channel::unbounded_channel();
        let ports = ports.to_vec();
        let (started, is_started) = mpsc::channel();
        let thread = namespace.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be made");
            runtime.block_on(run(number, ports, receiver, started));
        });
        is_started.recv().context("the backend's thread ended")??;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Closes every socket, connections too.
    pub fn close(&self) {
        self.order(Order::Close);
    }

    /// Listens again.
    pub fn open(&self) {
        self.order(Order::Open);
    }

    fn order(&self, order: impl FnOnce(mpsc::Sender<()>) -> Order) {
        let (done, is_done) = mpsc::channel();
        let orders = self.orders.as_ref().expect("it runs until it is dropped");
        // A backend that has ended does not answer either.
        let _ = orders.send(order(done));
        is_done.recv().expect("the backend obeys");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.orders.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the backend panicked");
    }
}

async fn run(
    number: u32,
    ports: Vec<u16>,
    mut orders: channel::UnboundedReceiver<Order>,
    started: mpsc::Sender<anyhow::Result<()>>,
) {
    let mut open = match open(number, &ports) {
        Ok(open) => Some(open),
        Err(error) => return started.send(Err(error)).expect("the starter waits"),
    };
    started.send(Ok(())).expect("the starter waits");
    while let Some(order) = orders.recv().await {
        let done = match order {
            Order::Close(done) => {
                if let Some(mut tasks) = open.take() {
                    tasks.shutdown().await;
                }
                done
            }
            Order::Open(done) => {
                open = Some(
                    open.take()
                        .unwrap_or_else(|| self::open(number, &ports).expect("the ports were ours before")),
                );
                done
            }
        };
        // Whoever gave the order may have given up.
        let _ = done.send(());
    }
}

/// Opens every socket; the tasks own them.
fn open(number: u32, ports: &[u16]) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let backend = usize::try_from(number)?;
    for &port in ports {
        let listener = listen(port).with_context(|| format!("listening on {port}"))?;
        tasks.spawn(accept(listener, number));
        for family in Family::BOTH {
            // From a socket of any address the answer would not come from the VIP.
            for address in [family.backend(backend), family.vip()] {
                let socket = datagram_socket(address, port).with_context(|| format!("binding {address}"))?;
                tasks.spawn(echo(socket, number));
            }
        }
    }
    Ok(tasks)
}

fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

fn datagram_socket(address: IpAddr, port: u16) -> anyhow::Result<UdpSocket> {
    let address = SocketAddr::from((address, port));
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // The VIP may be given to the backend later, or never.
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    fragment(&socket, address.ip())?;
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// Large datagrams leave as fragments, without asking how much fits.
///
/// # Errors
/// What the kernel says.
pub fn fragment(socket: &impl AsFd, address: IpAddr) -> anyhow::Result<()> {
    match address {
        IpAddr::V4(_) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?,
        IpAddr::V6(_) => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT)?,
    }
    Ok(())
}

async fn accept(listener: TcpListener, number: u32) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, number));
                }
            }
            // A client that goes away is its own affair.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut stream: TcpStream, number: u32) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut request = [0; 9];
        if stream.read_exact(&mut request).await.is_err() {
            return Ok(());
        }
        match Request::read(request)? {
            Request::Upload(bytes) => {
                let right = receive(&mut stream, bytes, &mut buffer).await?;
                stream.write_all(&right.to_le_bytes()).await?;
            }
            Request::Download(bytes) => send(&mut stream, bytes).await?,
            Request::Ping(token) => stream.write_all(&pong(token, number)).await?,
            Request::Last(token) => {
                stream.write_all(&pong(token, number)).await?;
                return Ok(stream.shutdown().await?);
            }
            Request::Source(_) => {
                let IpAddr::V6(source) = stream.peer_addr()?.ip() else { bail!("the listener is for IPv6") };
                stream.write_all(&source.octets()).await?;
            }
        }
    }
}

/// The answer to [`Request::Ping`].
pub fn pong(token: u64, number: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&token.to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Sends so many bytes of the pattern.
///
/// # Errors
/// When the connection ends.
pub async fn send(stream: &mut TcpStream, bytes: u64) -> anyhow::Result<()> {
    let mut offset = 0;
    while offset < bytes {
        let sent = stream.write(pattern::at(offset, bytes - offset)).await?;
        offset += sent as u64;
    }
    Ok(())
}

/// Receives so many bytes; returns how many of them, from the first on, were the pattern's.
///
/// # Errors
/// When the connection ends before.
pub async fn receive(stream: &mut TcpStream, bytes: u64, buffer: &mut [u8]) -> anyhow::Result<u64> {
    let (mut offset, mut right) = (0, 0);
    while offset < bytes {
        let room = buffer.len().min(usize::try_from(bytes - offset).unwrap_or(usize::MAX));
        let count = stream.read(&mut buffer[..room]).await?;
        if count == 0 {
            bail!("the connection ended after {offset} of {bytes} bytes");
        }
        if right == offset && pattern::is(offset, &buffer[..count]) {
            right += count as u64;
        }
        offset += count as u64;
    }
    Ok(right)
}

/// Sends each datagram back, its first byte replaced by the backend's number.
async fn echo(socket: UdpSocket, number: u32) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // Errors are those of earlier answers (a client that closed): the next datagram is a new one.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(first) = buffer[..count].first_mut() {
            *first = u8::try_from(number).unwrap_or(u8::MAX);
        }
        let _ = socket.send_to(&buffer[..count], from).await;
    }
}
