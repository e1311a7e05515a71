//! The worker's end of the link: packets from the master with the descriptors that come along, and answers back.
//!
//! Effectful: owns a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::link::{FromWorker, PACKET_BYTES_MAX, ToWorker};

/// One message with the descriptor that came along.
#[derive(Debug)]
pub struct Packet {
    /// What the master says.
    pub message: ToWorker,
    /// For `Attach`, `Snapshot` and `Status`; `None` also where the kernel could not give it to us, being out of descriptors.
    pub descriptor: Option<OwnedFd>,
}

/// The worker's end of the link.
pub struct MasterLink {
    socket: AsyncFd<OwnedFd>,
    packet: Box<[u8]>,
}

impl MasterLink {
    /// Takes over the socket; a runtime must be running.
    ///
    /// # Errors
    /// When the socket cannot be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: an `OwnedFd` keeps its descriptor open, and the same, for as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(socket, interest)? };
        Ok(Self { socket, packet: vec![0; PACKET_BYTES_MAX].into_boxed_slice() })
    }

    /// The next packet; `None` once the master has closed its end. Safe to drop and call again.
    ///
    /// # Errors
    /// When the socket fails or the packet is not one of ours.
    pub async fn receive(&mut self) -> io::Result<Option<Packet>> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| receive_packet(socket.get_ref(), &mut self.packet)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the master is gone.
    pub async fn send(&self, message: &FromWorker) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        loop {
            let mut ready = self.socket.writable().await?;
            let mut nothing = SendAncillaryBuffer::default();
            match ready.try_io(|socket| {
                let slices = [IoSlice::new(&bytes)];
                Ok(sendmsg(socket.get_ref(), &slices, &mut nothing, SendFlags::NOSIGNAL)?)
            }) {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

fn receive_packet(socket: impl AsFd, packet: &mut [u8]) -> io::Result<Option<Packet>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = {
        let mut slices = [IoSliceMut::new(packet)];
        recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?
    };
    let mut descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten();
    let descriptor = descriptors.next();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        log::error!("descriptor from the master lost: out of descriptors");
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&packet[..received.bytes])?;
    Ok(Some(Packet { message, descriptor }))
}
