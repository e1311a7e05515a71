//! Packets with descriptors over a `SOCK_SEQPACKET` socket pair: to the exec shim and to workers.
//!
//! Effectful: sends and receives. A packet is whole or not there; descriptors arrive with the packet that names them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Descriptors in one packet.
pub const DESCRIPTORS_MAX: usize = 4;

/// Two connected ends, closed on exec. The first is the master's and does not block.
///
/// # Errors
/// What the operating system says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sends one packet.
///
/// # Errors
/// `WouldBlock` when the other side does not keep up, `BrokenPipe` when it is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than a packet takes"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet into `buffer`: its length and its descriptors (closed on exec). Length 0 is the end.
///
/// # Errors
/// What the operating system says; a packet longer than `buffer` is `InvalidData`.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet longer than agreed"));
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_arrives_whole_with_its_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let memory = crate::table::shared_memory("test", 4096).unwrap();
        send(&ours, b"one", &[memory.as_fd()]).unwrap();
        send(&ours, b"two", &[]).unwrap();
        let mut buffer = [0; 16];
        let (length, descriptors) = receive(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], descriptors.len()), (&b"one"[..], 1));
        assert_eq!(rustix::fs::fstat(&descriptors[0]).unwrap().st_size, 4096);
        let (length, descriptors) = receive(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], descriptors.len()), (&b"two"[..], 0));
        drop(ours);
        assert_eq!(receive(&theirs, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn longer_packet_than_agreed_is_refused() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, b"more than four", &[]).unwrap();
        assert_eq!(receive(&theirs, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
