//! A TCP segment whose first bytes its receiver has already, made up for the self-probe: such segments come when TCP sends
//! bytes again in other pieces than before, too seldom to wait for one.
//!
//! Effectful: sends one packet to a loopback address.
#![expect(clippy::disallowed_types, reason = "real sockets")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use lb_common::checksum;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const TCP_HEADER_BYTES: usize = 20;
const IP_HEADER_BYTES: usize = 20;
const TTL: u8 = 64;
/// PSH and ACK.
const FLAGS: u8 = 0x18;
/// Unscaled. Small: the receiver takes it for its sender's window.
const WINDOW: u16 = 255;
/// `TCP_REPAIR_QUEUE`: none, that of received bytes, that of sent ones (linux/tcp.h).
const QUEUE_RECEIVED: libc::c_int = 1;
const QUEUE_SENT: libc::c_int = 2;
/// `TCP_REPAIR`: on, and off without a window probe.
const REPAIR_ON: libc::c_int = 1;
const REPAIR_OFF: libc::c_int = -1;

/// Sends the other end of `from`, a TCP connection over IPv4, a segment that begins `repeated` bytes before the next byte
/// that `from` will send: first zeros, then `fresh`, which the caller must send himself afterwards, for `from` knows nothing
/// of it.
///
/// # Errors
/// What the operating system says; without `CAP_NET_RAW` and `CAP_NET_ADMIN` that it is not permitted.
pub fn send(from: &TcpStream, repeated: u32, fresh: &[u8]) -> io::Result<()> {
    let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (from.local_addr()?, from.peer_addr()?) else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let (sends_next, receives_next) = sequence_numbers(from)?;
    let mut segment = Vec::with_capacity(TCP_HEADER_BYTES + repeated as usize + fresh.len());
    segment.extend(local.port().to_be_bytes());
    segment.extend(peer.port().to_be_bytes());
    segment.extend(sends_next.wrapping_sub(repeated).to_be_bytes());
    segment.extend(receives_next.to_be_bytes());
    segment.extend([(TCP_HEADER_BYTES as u8 / 4) << 4, FLAGS]);
    segment.extend(WINDOW.to_be_bytes());
    // The checksum, filled in below, and the urgent pointer.
    segment.extend([0; 4]);
    segment.resize(TCP_HEADER_BYTES + repeated as usize, 0);
    segment.extend(fresh);
    let checksum = tcp_checksum(*local.ip(), *peer.ip(), &segment);
    segment[16..18].copy_from_slice(&checksum.to_ne_bytes());

    let mut packet = ip_header(*local.ip(), *peer.ip(), segment.len());
    packet.extend(segment);
    // This protocol only sends: no other traffic is copied to the socket.
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let sent = raw.send_to(&packet, &SockAddr::from(peer))?;
    if sent == packet.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The kernel fills in the lengths and the checksum.
fn ip_header(local: Ipv4Addr, peer: Ipv4Addr, segment_bytes: usize) -> Vec<u8> {
    let mut header = vec![0; IP_HEADER_BYTES];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((IP_HEADER_BYTES + segment_bytes) as u16).to_be_bytes());
    header[8] = TTL;
    header[9] = libc::IPPROTO_TCP as u8;
    header[12..16].copy_from_slice(&local.octets());
    header[16..20].copy_from_slice(&peer.octets());
    header
}

fn tcp_checksum(local: Ipv4Addr, peer: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = segment.len() as u16;
    let mut sum = checksum::words_2(local.octets()) + checksum::words_2(peer.octets());
    sum += checksum::word([0, libc::IPPROTO_TCP as u8]) + checksum::word(length.to_be_bytes());
    for pair in segment.chunks(2) {
        sum += checksum::word([pair[0], pair.get(1).copied().unwrap_or(0)]);
    }
    checksum::finish(sum)
}

/// The sequence numbers that the socket will send and receive next.
fn sequence_numbers(socket: &TcpStream) -> io::Result<(u32, u32)> {
    set(socket, libc::TCP_REPAIR, REPAIR_ON)?;
    let numbers = next_of(socket, QUEUE_SENT).and_then(|sent| Ok((sent, next_of(socket, QUEUE_RECEIVED)?)));
    set(socket, libc::TCP_REPAIR, REPAIR_OFF)?;
    numbers
}

fn next_of(socket: &TcpStream, queue: libc::c_int) -> io::Result<u32> {
    set(socket, libc::TCP_REPAIR_QUEUE, queue)?;
    let mut number: u32 = 0;
    let mut length = size_of_val(&number) as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes to the pointer, which is that of a live local variable of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(number) } else { Err(io::Error::last_os_error()) }
}

fn set(socket: &TcpStream, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option reads `length` bytes from the pointer, which is that of a live local variable of that size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
