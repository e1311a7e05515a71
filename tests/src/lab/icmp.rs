//! ICMP and ICMPv6 as a client sees them: echoes, and errors about what it sent.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A message: type, code, and what follows its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// ICMP type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// From the fifth byte on.
    pub rest: Vec<u8>,
}

/// Sends an echo request and returns how long the answer took.
///
/// # Errors
/// When none comes, or one with other contents.
pub fn ping(namespace: &Namespace, address: IpAddr) -> anyhow::Result<Duration> {
    namespace.run(|| {
        let (request, reply) = if address.is_ipv4() { (8, 0) } else { (128, 129) };
        let socket = raw(address)?;
        let rest: Vec<u8> = [7, 7, 0, 1].into_iter().chain(*b"what goes out comes back").collect();
        let mut message = vec![request, 0, 0, 0];
        message.extend_from_slice(&rest);
        if address.is_ipv4() {
            let sum = !super::frame::sum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let sent = Instant::now();
        socket.send_to(&message, &SocketAddr::from((address, 0)).into())?;
        wait(&socket, address, |message| message.kind == reply && message.rest == rest)?;
        Ok(sent.elapsed())
    })
}

/// Sends a datagram of `bytes` that lives for `hops` hops and may not be fragmented; returns the error that comes back from the VIP.
///
/// # Errors
/// When none comes.
pub fn error_about(
    namespace: &Namespace,
    address: SocketAddr,
    hops: u32,
    bytes: usize,
) -> anyhow::Result<Message> {
    namespace.run(|| {
        let errors = raw(address.ip())?;
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Neither fragmented nor held back by what was learnt before.
        match address {
            SocketAddr::V4(_) => {
                socket.set_ttl_v4(hops)?;
                sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
            }
            SocketAddr::V6(_) => {
                socket.set_unicast_hops_v6(hops)?;
                sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
            }
        }
        let socket = UdpSocket::from(socket);
        socket.connect(address)?;
        let port = socket.local_addr()?.port().to_be_bytes();
        socket.send(&vec![0; bytes])?;
        let is_about_it = |message: &Message| {
            let transport = 4 + if address.is_ipv4() { 20 } else { 40 };
            matches!(message.kind, 1..=4 | 11) && message.rest.get(transport..transport + 2) == Some(&port)
        };
        wait(&errors, address.ip(), is_about_it)
    })
}

impl Message {
    /// Whether it says that the time to live has ended on the way (of ICMPv6 that is type 3, of ICMP 11).
    pub fn is_time_exceeded(&self) -> bool {
        matches!((self.kind, self.code), (3 | 11, 0))
    }

    /// What fits, where it says that something did not.
    pub fn mtu(&self) -> Option<u32> {
        let word = u32::from_be_bytes(self.rest.get(..4)?.try_into().expect("four bytes"));
        match (self.kind, self.code) {
            (3, 4) => Some(word & 0xFFFF),
            (2, 0) => Some(word),
            _ => None,
        }
    }
}

fn raw(address: IpAddr) -> anyhow::Result<Socket> {
    let socket = match address {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
        IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)),
    };
    Ok(socket?)
}

/// The first message from this address that fits.
fn wait(socket: &Socket, from: IpAddr, fits: impl Fn(&Message) -> bool) -> anyhow::Result<Message> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 2_048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let (count, sender) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("no such ICMP message came from {from}")
            }
            Err(error) => return Err(error).context("receiving ICMP"),
        };
        // SAFETY: the kernel has written that many bytes.
        let bytes: Vec<u8> = buffer[..count].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        // IPv4's raw sockets give the IP header too.
        let header = if from.is_ipv4() { usize::from(bytes[0] & 0xF) * 4 } else { 0 };
        let Some([kind, code, _, _, rest @ ..]) = bytes.get(header..) else { continue };
        let message = Message { kind: *kind, code: *code, rest: rest.to_vec() };
        if sender.as_socket().is_some_and(|sender| sender.ip() == from) && fits(&message) {
            return Ok(message);
        }
    }
}
