//! The keeper: `lbctl __output`, which holds the reading end of every output pipe, so that no program waits for a reader when the
//! master is gone: it reads them to nowhere then.
//!
//! Effectful: reads a socket and pipes. A process of its own, since it must outlive master and worker; it has no runtime and no
//! privilege, and wakes only when a program ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Weak;

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::limits::OUTPUT_PIPES_MAX;
use crate::master::packet;
use crate::master::watched::watched;

/// What names the socket to the master among what is waited for.
const LINK: u64 = 0;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// A reading end, for as long as its reader lives.
pub type Pipe = Weak<AsyncFd<OwnedFd>>;

/// The master's way to the keeper: pipes that are put into it reach the keeper, until either ends.
///
/// # Errors
/// What epoll says.
pub fn way_to(socket: OwnedFd) -> io::Result<mpsc::Sender<Pipe>> {
    let socket = watched(socket)?;
    let (sender, mut pipes) = mpsc::channel::<Pipe>(OUTPUT_PIPES_MAX);
    tokio::spawn(async move {
        while let Some(pipe) = pipes.recv().await {
            // One that has ended meanwhile needs nobody.
            let Some(pipe) = pipe.upgrade() else { continue };
            if let Err(error) = send(&socket, &pipe).await {
                log::debug!("link to the keeper of output ended reason=\"{error}\"");
                return;
            }
        }
    });
    Ok(sender)
}

async fn send(socket: &AsyncFd<OwnedFd>, pipe: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        match packet::send(socket.get_ref(), b"pipe", &[pipe.get_ref().as_fd()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?.clear_ready(),
            other => return other,
        }
    }
}

/// The keeper's life: holds what comes over `link` until that ends, then reads until every pipe has ended.
///
/// # Errors
/// What the operating system says.
pub fn keep(link: &OwnedFd) -> io::Result<()> {
    // The worker may be of the same user: it shall not get at the pipes of programs.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let mut kept = Kept::new()?;
    kept.hold(link)?;
    kept.read_to_nowhere()
}

struct Kept {
    epoll: OwnedFd,
    pipes: HashMap<u64, OwnedFd>,
    next: u64,
}

impl Kept {
    fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, pipes: HashMap::new(), next: LINK + 1 })
    }

    fn hold(&mut self, link: &OwnedFd) -> io::Result<()> {
        epoll::add(&self.epoll, link, EventData::new_u64(LINK), EventFlags::IN)?;
        loop {
            for event in self.wait()? {
                match event.data.u64() {
                    LINK => match packet::receive(link, &mut [0; 16]) {
                        Ok((0, _)) => return Ok(()),
                        Ok((_, pipes)) => pipes.into_iter().try_for_each(|pipe| self.take(pipe))?,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        // As after a master that was killed with packets on their way to it.
                        Err(_) => return Ok(()),
                    },
                    // Nobody can write to it any more; what is in it the master reads.
                    ended => drop(self.pipes.remove(&ended)),
                }
            }
        }
    }

    /// Nothing is to be heard of it but its end.
    fn take(&mut self, pipe: OwnedFd) -> io::Result<()> {
        epoll::add(&self.epoll, &pipe, EventData::new_u64(self.next), EventFlags::empty())?;
        self.pipes.insert(self.next, pipe);
        self.next += 1;
        Ok(())
    }

    fn read_to_nowhere(mut self) -> io::Result<()> {
        for (number, pipe) in &self.pipes {
            epoll::modify(&self.epoll, pipe, EventData::new_u64(*number), EventFlags::IN)?;
        }
        let mut nowhere = vec![0; READ_BYTES];
        while !self.pipes.is_empty() {
            for event in self.wait()? {
                let number = event.data.u64();
                let Some(pipe) = self.pipes.get(&number) else { continue };
                match rustix::io::read(pipe, &mut nowhere[..]) {
                    Ok(1..) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Ok(0) | Err(_) => drop(self.pipes.remove(&number)),
                }
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(events),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;
    use crate::master::program::output::reader;

    /// A keeper in a thread, which is told of one pipe: its writing end, our end of the link, and the keeper.
    fn with_a_pipe() -> (std::fs::File, OwnedFd, thread::JoinHandle<io::Result<()>>) {
        let (ours, theirs) = packet::pair().unwrap();
        let (read, write) = reader::pipe(None).unwrap();
        packet::send(&ours, b"pipe", &[read.as_fd()]).unwrap();
        let keeper = thread::spawn(move || {
            let mut kept = Kept::new()?;
            kept.hold(&theirs)?;
            kept.read_to_nowhere()
        });
        (write.into(), ours, keeper)
    }

    #[test]
    fn writer_is_read_to_its_end_when_the_master_is_gone() {
        let (mut program, master, keeper) = with_a_pipe();
        drop(master);
        for _ in 0..64 {
            program.write_all(&[b'x'; 64 * 1024]).unwrap();
        }
        assert!(!keeper.is_finished());
        drop(program);
        keeper.join().unwrap().unwrap();
    }

    #[test]
    fn pipe_whose_writer_ended_is_let_go() {
        let (program, master, keeper) = with_a_pipe();
        drop(program);
        drop(master);
        keeper.join().unwrap().unwrap();
    }
}
