//! Asks the kernel for routes and neighbours, and listens to what changes of them (`NETLINK_ROUTE`, rtnetlink(7)).
//!
//! Effectful: two sockets. Answers come at once, since the kernel itself is the other side; news are waited for.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily as Family, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::{Network, NoWay, Route};

/// Groups of news (`RTMGRP_*`, `linux/rtnetlink.h`): links, neighbours, IPv4 addresses, routes and rules, IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400;
/// Answers and news come in datagrams of up to this size (`NLMSG_GOODSIZE` is a page; dumps take up to 32 KiB).
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// News that may wait: a full routing table that flaps is told in some ten megabytes, and asked for anew where it is more.
const NEWS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often a dump is asked for that changes while it is told; what it misses then is news.
const DUMP_TRIES_MAX: u32 = 3;
/// The kernel answers within the call; only a kernel that is stuck takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Datagrams of news taken in one go.
const DATAGRAMS_PER_TURN_MAX: usize = 64;

/// Where questions are asked.
pub struct Kernel {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    /// A socket in the network namespace of this process.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open() -> io::Result<Self> {
        let socket = open(0, SocketFlags::CLOEXEC)?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Everything there is now: interfaces, addresses, neighbours.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn network(&mut self) -> io::Result<Network> {
        let mut network = Network::default();
        for _ in 0..DUMP_TRIES_MAX {
            network = Network::default();
            if self.dump(&mut network)? {
                break;
            }
        }
        Ok(network)
    }

    /// Whether nothing changed in between that would leave the picture with a part of before and one of after.
    fn dump(&mut self, network: &mut Network) -> io::Result<bool> {
        let questions = [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        ];
        let mut is_whole = true;
        for question in questions {
            is_whole &= self.ask(question, NLM_F_DUMP, |message| {
                network.hear(&message);
            })?;
        }
        Ok(is_whole)
    }

    /// The route by which this host would send to `target`.
    ///
    /// # Errors
    /// There is none, or it leads nowhere.
    pub fn route(&mut self, target: IpAddr) -> io::Result<Result<Route, NoWay>> {
        let mut question = RouteMessage::default();
        question.header.address_family = family(target);
        question.header.destination_prefix_length = if target.is_ipv4() { 32 } else { 128 };
        question.attributes.push(RouteAttribute::Destination(RouteAddress::from(target)));
        let mut answer = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(question), NLM_F_ACK, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                answer.get_or_insert(Route::of(&route, target));
            }
        });
        match asked.map_err(|error| error.raw_os_error()) {
            Ok(_) => Ok(answer.unwrap_or(Err(NoWay::NoRoute(target)))),
            Err(Some(libc::ENETUNREACH)) => Ok(Err(NoWay::NoRoute(target))),
            Err(Some(libc::EHOSTUNREACH)) => Ok(Err(NoWay::Refused(target, "unreachable"))),
            Err(Some(libc::EACCES)) => Ok(Err(NoWay::Refused(target, "prohibit"))),
            Err(Some(libc::EINVAL)) => Ok(Err(NoWay::Refused(target, "blackhole"))),
            Err(code) => {
                Err(code.map_or_else(|| io::ErrorKind::TimedOut.into(), io::Error::from_raw_os_error))
            }
        }
    }

    /// Makes the kernel ask for the link-layer address of a neighbour, or ask again whether it is still there: as a packet to it
    /// would, without one (`NTF_USE`). What comes of it is news.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resolve(&mut self, interface: u32, neighbour: IpAddr) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(neighbour);
        message.header.ifindex = interface;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(neighbour.into()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), flags, |_| {}).map(drop)
    }

    /// Asks and hands each answer over, to the end of the dump or the acknowledgement. False where what was dumped changed meanwhile.
    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        mut hear: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let mut is_whole = true;
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        loop {
            let (length, _) =
                rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty())?;
            for message in messages(&self.buffer[..length]) {
                // An answer to a question whose time was over.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                is_whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => hear(message),
                    NetlinkPayload::Done(_) => return Ok(is_whole),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(is_whole),
                            Some(code) => Err(io::Error::from_raw_os_error(code.get().abs())),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// What has changed, as something to wait for.
pub struct News {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    /// Some were lost, and those that are left are older than what will be asked for.
    has_lost: bool,
}

/// A batch of news.
#[derive(Debug)]
pub enum Told {
    /// In the order in which it happened.
    Messages(Vec<RouteNetlinkMessage>),
    /// More happened than fits: everything has to be asked for again.
    Lost,
}

impl News {
    /// Listens from now on, in the network namespace of this process. To be called within a tokio runtime.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open() -> io::Result<Self> {
        let socket = open(GROUPS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        // Without the privilege the ordinary size has to do.
        if sockopt::set_socket_recv_buffer_size_force(&socket, NEWS_BYTES_MAX).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, NEWS_BYTES_MAX)?;
        }
        Ok(Self {
            socket: crate::master::watched::watched(socket)?,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            has_lost: false,
        })
    }

    /// Waits for news. Cancel-safe: nothing is taken before the wait is over.
    pub async fn next(&mut self) -> Told {
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return std::future::pending().await };
            let mut told = Vec::new();
            for _ in 0..DATAGRAMS_PER_TURN_MAX {
                let received =
                    rustix::net::recv(ready.get_inner(), self.buffer.as_mut_slice(), RecvFlags::empty());
                match received {
                    Ok((length, _)) => told.extend(messages(&self.buffer[..length]).filter_map(inner)),
                    Err(rustix::io::Errno::NOBUFS) => self.has_lost = true,
                    Err(_) => {
                        ready.clear_ready();
                        if std::mem::take(&mut self.has_lost) {
                            return Told::Lost;
                        }
                        break;
                    }
                }
            }
            if self.has_lost {
                told.clear();
            }
            if !told.is_empty() {
                return Told::Messages(told);
            }
        }
    }
}

fn open(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(Family::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn inner(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<RouteNetlinkMessage> {
    match message.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

/// The messages of a datagram; what cannot be read is left out, and what follows a length that cannot be too.
fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let one = rest.get(..length).filter(|one| one.len() >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(one).ok())
    })
    .flatten()
}

#[cfg(test)]
mod tests;
