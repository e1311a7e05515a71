//! The writer thread: appends captured output to files and rotates them by size.
//!
//! Effectful. A thread of its own, because a disk may take its time. What it cannot take is dropped and counted, and the
//! file says so as soon as it can be written again.

#![expect(clippy::disallowed_methods, reason = "the open files are moved and waited for here")]

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::limits::OUTPUT_QUEUE_BYTES;

/// Messages waiting for the thread; their bytes are bounded for each file besides.
const QUEUE_MESSAGES: usize = 8 * 1024;
/// Time between two tries to open a file that cannot be opened.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for the thread at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

enum Message {
    Append { file: Arc<Named>, bytes: Vec<u8> },
    Reopen,
    Finish(mpsc::SyncSender<()>),
}

/// A file by its name and rules; what is queued for it and what was lost.
struct Named {
    path: PathBuf,
    rotate_bytes: AtomicU64,
    keep: AtomicU64,
    queued_bytes: AtomicUsize,
    dropped_bytes: AtomicU64,
}

/// The thread's owner.
pub struct Writer {
    queue: mpsc::SyncSender<Message>,
    files: HashMap<PathBuf, Arc<Named>>,
}

/// The way into one file.
#[derive(Clone)]
pub struct Sink {
    file: Arc<Named>,
    queue: mpsc::SyncSender<Message>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Self> {
        let (queue, messages) = mpsc::sync_channel(QUEUE_MESSAGES);
        std::thread::Builder::new().name("output".into()).spawn(move || append_all(&messages))?;
        Ok(Self { queue, files: HashMap::new() })
    }

    /// The way into a file; the same for all who name the same path. The last caller's rules count.
    pub fn file(&mut self, path: &Path, rotate_bytes: u64, keep: u32) -> Sink {
        let named = self.files.entry(path.to_owned()).or_insert_with(|| {
            Arc::new(Named {
                path: path.to_owned(),
                rotate_bytes: AtomicU64::new(0),
                keep: AtomicU64::new(0),
                queued_bytes: AtomicUsize::new(0),
                dropped_bytes: AtomicU64::new(0),
            })
        });
        named.rotate_bytes.store(rotate_bytes, Ordering::Relaxed);
        named.keep.store(keep.into(), Ordering::Relaxed);
        Sink { file: named.clone(), queue: self.queue.clone() }
    }

    /// Opens all files again, under their names.
    pub fn reopen(&self) {
        // A full queue means a stuck disk: there is nothing to be opened on it.
        let _ = self.queue.try_send(Message::Reopen);
    }

    /// Waits until what is queued is written, at most a second.
    pub fn finish(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.queue.try_send(Message::Finish(done)).is_ok() {
            let _ = wait.recv_timeout(FINISH_WITHIN);
        }
    }
}

impl Sink {
    /// Queues bytes for the file, or drops and counts them.
    pub fn write(&self, bytes: Vec<u8>) {
        let length = bytes.len();
        if length == 0 {
            return;
        }
        let queued = self.file.queued_bytes.fetch_add(length, Ordering::Relaxed) + length;
        let full = queued > OUTPUT_QUEUE_BYTES;
        if full || self.queue.try_send(Message::Append { file: self.file.clone(), bytes }).is_err() {
            self.file.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            self.file.dropped_bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

fn append_all(messages: &mpsc::Receiver<Message>) {
    let mut open = HashMap::<PathBuf, OpenFile>::new();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Append { file, bytes } => {
                file.queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                let state = open.entry(file.path.clone()).or_default();
                if state.append(&file, &bytes).is_err() {
                    file.dropped_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            }
            Message::Reopen => open.clear(),
            Message::Finish(done) => drop(done.send(())),
        }
    }
}

#[derive(Default)]
struct OpenFile {
    file: Option<File>,
    length: u64,
    refused_at: Option<Instant>,
}

impl OpenFile {
    fn append(&mut self, named: &Named, bytes: &[u8]) -> io::Result<()> {
        self.open(&named.path)?;
        let limit = named.rotate_bytes.load(Ordering::Relaxed);
        if limit > 0 && self.length > 0 && self.length + bytes.len() as u64 > limit {
            self.file = None;
            rotate(&named.path, named.keep.load(Ordering::Relaxed))?;
            self.open(&named.path)?;
        }
        let dropped = named.dropped_bytes.load(Ordering::Relaxed);
        if dropped > 0 {
            self.write(format!("lbctl: {dropped} bytes of output lost here\n").as_bytes())?;
            named.dropped_bytes.fetch_sub(dropped, Ordering::Relaxed);
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn open(&mut self, path: &Path) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        if self.refused_at.is_some_and(|at| at.elapsed() < OPEN_AGAIN_AFTER) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let opened = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
        match opened.and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((length, file)) => {
                *self = Self { file: Some(file), length, refused_at: None };
                Ok(())
            }
            Err(error) => {
                if self.refused_at.is_none() {
                    log::warn!("output not written file={} reason=\"{error}\"", path.display());
                }
                self.refused_at = Some(Instant::now());
                Err(error)
            }
        }
    }
}

/// `x` → `x.1` → `x.2` … and away beyond `keep`.
fn rotate(path: &Path, keep: u64) -> io::Result<()> {
    let numbered = |number: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_rotated_by_size_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let mut writer = Writer::start().unwrap();
        let sink = writer.file(&path, 100, 2);
        for number in 0..20 {
            sink.write(format!("line {number:02} {}\n", "x".repeat(30)).into_bytes());
        }
        writer.finish();
        let mut names =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        names.sort();
        assert_eq!(names, ["out.log", "out.log.1", "out.log.2"]);
        for name in names {
            assert!(folder.path().join(name).metadata().unwrap().len() <= 100);
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("line 19"));
    }

    #[test]
    fn moved_file_is_written_again_under_its_name_after_reopen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let mut writer = Writer::start().unwrap();
        let sink = writer.file(&path, 0, 0);
        sink.write(b"before\n".to_vec());
        writer.finish();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        writer.reopen();
        sink.write(b"after\n".to_vec());
        writer.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn what_could_not_be_written_is_counted_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("out.log");
        let mut writer = Writer::start().unwrap();
        let sink = writer.file(&path, 0, 0);
        sink.write(b"lost\n".to_vec());
        writer.finish();
        std::fs::create_dir(folder.path().join("missing")).unwrap();
        writer.reopen();
        sink.write(b"kept\n".to_vec());
        writer.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "lbctl: 5 bytes of output lost here\nkept\n");
    }
}
