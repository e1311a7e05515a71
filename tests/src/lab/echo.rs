//! Datagrams to a VIP and back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;
use super::pattern;
use super::server::{DATAGRAM_MAX, fragment};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a datagram is sent until an answer comes: the first may teach the sender how much fits.
const TRIES: usize = 4;

/// Sends a datagram of so many bytes and compares what comes back; returns which backend answered.
///
/// # Errors
/// When nothing comes, or something else.
pub fn datagram(namespace: &Namespace, address: SocketAddr, bytes: usize) -> anyhow::Result<u8> {
    namespace.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        fragment(&socket, address.ip())?;
        let socket = std::net::UdpSocket::from(socket);
        socket.connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let sent = pattern::at(0, bytes as u64);
        let mut buffer = vec![0; DATAGRAM_MAX];
        let tried = (0..TRIES).find_map(|_| socket.send(sent).and_then(|_| socket.recv(&mut buffer)).ok());
        let count = tried.with_context(|| format!("no answer to {bytes} bytes"))?;
        ensure!(count == bytes, "{count} bytes came for {bytes}");
        ensure!(buffer[1..count] == sent[1..], "other bytes came back than were sent");
        Ok(buffer[0])
    })
}
