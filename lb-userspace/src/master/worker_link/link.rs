//! One worker's link: a task that sends what is queued, reads what the worker says, and notices when it does not.
//!
//! Effectful: reads and writes the socket pair.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::patience::{Due, Patience};
use crate::link::{FromWorker, PACKET_BYTES_MAX, ToWorker};
use crate::master::inbox::{Inbox, Input};
use crate::master::packet;

/// A message and the descriptor that goes with it.
pub struct Packet {
    /// The message.
    pub message: ToWorker,
    /// Its descriptor.
    pub descriptor: Option<Arc<OwnedFd>>,
}

impl Packet {
    /// A message without a descriptor.
    fn bare(message: ToWorker) -> Self {
        Self { message, descriptor: None }
    }
}

/// What the task works on.
pub struct Link {
    /// Our end.
    pub socket: AsyncFd<OwnedFd>,
    /// What is to be sent.
    pub queue: mpsc::Receiver<Packet>,
    /// The table changed: any number of changes is one message.
    pub table_changed: Arc<Notify>,
    /// To the loop.
    pub inbox: Inbox,
    /// Which worker.
    pub generation: u64,
}

impl Link {
    /// Runs until the link ends, and tells the loop then.
    pub async fn run(mut self) {
        let why = match self.exchange().await {
            Ok(()) => "link closed".to_owned(),
            Err(error) => error.to_string(),
        };
        let _ = self.inbox.send(Input::WorkerLost { generation: self.generation, why }).await;
    }

    async fn exchange(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let mut outgoing: Option<Packet> = None;
        let mut patience = Patience::new();
        loop {
            tokio::select! {
                // What the worker has said counts before what it has not said in time.
                biased;
                ready = self.socket.readable() => {
                    let mut ready = ready?;
                    match packet::receive(self.socket.get_ref(), &mut buffer) {
                        Ok((0, _)) => return Ok(()),
                        Ok((length, _)) => {
                            let message = serde_json::from_slice::<FromWorker>(&buffer[..length])?;
                            patience.heard(&message, Instant::now());
                            if message != FromWorker::Pong {
                                self.tell(message).await;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        Err(error) => return Err(error),
                    }
                }
                packet = self.queue.recv(), if outgoing.is_none() => {
                    match packet {
                        Some(packet) => outgoing = self.send(packet, &mut patience)?,
                        // The master has let go of this worker.
                        None => return Ok(()),
                    }
                }
                () = self.table_changed.notified(), if outgoing.is_none() => {
                    outgoing = self.send(Packet::bare(ToWorker::TableChanged), &mut patience)?;
                }
                ready = self.socket.writable(), if outgoing.is_some() => {
                    let mut ready = ready?;
                    if let Some(packet) = outgoing.take() {
                        outgoing = self.send(packet, &mut patience)?;
                        if outgoing.is_some() {
                            ready.clear_ready();
                        }
                    }
                }
                () = tokio::time::sleep_until(patience.until()) => {
                    match patience.at(Instant::now()) {
                        Due::Nothing => {}
                        Due::Ping if outgoing.is_some() => patience.blocked(Instant::now()),
                        Due::Ping => outgoing = self.send(Packet::bare(ToWorker::Ping), &mut patience)?,
                        Due::Lost(why) => return Err(io::Error::new(io::ErrorKind::TimedOut, why)),
                    }
                }
            }
        }
    }

    /// Sends, or gives the packet back when the worker does not keep up.
    fn send(&self, packet: Packet, patience: &mut Patience) -> io::Result<Option<Packet>> {
        let bytes = serde_json::to_vec(&packet.message)?;
        let descriptor = packet.descriptor.as_ref().map(|descriptor| descriptor.as_fd());
        match packet::send(self.socket.get_ref(), &bytes, descriptor.as_slice()) {
            Ok(()) => {
                patience.sent(&packet.message, Instant::now());
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(packet)),
            Err(error) => Err(error),
        }
    }

    async fn tell(&self, message: FromWorker) {
        let _ = self.inbox.send(Input::Worker { generation: self.generation, message }).await;
    }
}
