//! Reads a pipe to its end, cuts it into lines and hands them on. Always drains: a full disk never stops a program.
//!
//! Effectful: reads pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

use super::file::Sink;
use super::ring::Stream;
use super::{Followed, SharedRing};

/// Bytes read at once.
const READ_BYTES: usize = 32 * 1024;
/// Bytes of a line; a longer one is cut into several.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes that a pipe holds where we may say so: what a program can write while nobody reads.
const PIPE_BYTES: usize = 256 * 1024;

/// Where the lines go.
pub struct Target {
    /// `program:index`.
    pub instance: Arc<str>,
    /// Which stream this is.
    pub stream: Stream,
    /// The instance's memory.
    pub ring: SharedRing,
    /// Those who follow.
    pub followers: broadcast::Sender<Followed>,
    /// The file, if there is one.
    pub sink: Option<Sink>,
}

/// A pipe: our end does not block, the other belongs to `owner`.
///
/// # Errors
/// What the operating system says.
pub fn pipe(owner: Option<(u32, u32)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    // The default size will do where we may not have more.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(&write, Some(uid), Some(gid))?;
    }
    Ok((read, write))
}

/// Starts the reading task.
pub fn start(read: Arc<AsyncFd<OwnedFd>>, target: Target) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = Lines { target, partial: Vec::new() };
        let mut buffer = vec![0; READ_BYTES];
        while let Ok(mut ready) = read.readable().await {
            match rustix::io::read(read.get_ref(), &mut buffer[..]) {
                Ok(0) => break,
                Ok(length) => lines.take(&buffer[..length]),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
            // One program that writes without end must not keep the loop from the others.
            tokio::task::yield_now().await;
        }
        lines.end();
    })
}

struct Lines {
    target: Target,
    partial: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        // Whole lines only reach the file, so that those of several instances do not mix.
        let mut whole = Vec::with_capacity(bytes.len() + self.partial.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            if part.ends_with(b"\n") || self.partial.len() >= LINE_BYTES_MAX {
                self.flush(&mut whole);
            }
        }
        self.write(whole);
    }

    fn end(&mut self) {
        if !self.partial.is_empty() {
            let mut whole = Vec::new();
            self.flush(&mut whole);
            self.write(whole);
        }
    }

    fn flush(&mut self, whole: &mut Vec<u8>) {
        for piece in self.partial.chunks(LINE_BYTES_MAX) {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let text: Arc<str> = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text)).into();
            self.target.ring.lock().push(self.target.stream, &text);
            if self.target.followers.receiver_count() > 0 {
                let line =
                    Followed { instance: self.target.instance.clone(), stream: self.target.stream, text };
                // An error says that the last follower left meanwhile.
                let _ = self.target.followers.send(line);
            }
            whole.extend_from_slice(piece);
            if !piece.ends_with(b"\n") {
                whole.push(b'\n');
            }
        }
        self.partial.clear();
    }

    fn write(&self, bytes: Vec<u8>) {
        if let Some(sink) = &self.target.sink {
            sink.write(bytes);
        }
    }
}
