//! The writer thread: appends captured output to files and rotates them by size.
//!
//! Effectful. A thread of its own, because a disk may take its time. What it cannot take is dropped and counted, and the
//! file says so where it is missing, as soon as it can be written again.

#![expect(clippy::disallowed_methods, reason = "the open files are moved and waited for here")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use crate::append::{self, Place};
use crate::limits::{OUTPUT_QUEUE_BYTES, OUTPUT_QUEUES_BYTES};

/// Messages waiting for the thread; their bytes are bounded besides.
const QUEUE_MESSAGES: usize = 8 * 1024;
/// Time between two tries of what failed: opening a file, rotating it.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for the thread at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

enum Message {
    /// Bytes for the end of a file, and how many were lost before them.
    Append {
        file: Arc<Named>,
        lost_bytes: u64,
        bytes: Vec<u8>,
    },
    Reopen,
    /// A sink has gone, maybe the last one of its file.
    Left,
    Finish(mpsc::SyncSender<()>),
}

/// A file by its name and rules; what is queued for it and what was lost since.
struct Named {
    path: PathBuf,
    rotate_bytes: AtomicU64,
    keep: AtomicU64,
    queued_bytes: AtomicUsize,
    lost_bytes: AtomicU64,
}

/// The way to the thread, with what is on it.
#[derive(Clone)]
struct Queue {
    messages: mpsc::SyncSender<Message>,
    bytes: Arc<AtomicUsize>,
    /// All files are to be opened again, and there was no room to say so.
    reopen: Arc<AtomicBool>,
}

/// The thread's owner.
pub struct Writer {
    queue: Queue,
    /// Those that somebody writes to, or the thread has open.
    files: HashMap<PathBuf, Weak<Named>>,
}

/// The way into one file. The file is closed when the last one has gone.
pub struct Sink {
    file: Arc<Named>,
    queue: Queue,
    /// After the file: whoever hears it looks whether somebody has that still.
    _bell: Bell,
}

/// Rings when it is dropped.
struct Bell(mpsc::SyncSender<Message>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Self> {
        let (sender, messages) = mpsc::sync_channel(QUEUE_MESSAGES);
        let queue = Queue { messages: sender, bytes: Arc::default(), reopen: Arc::default() };
        let (bytes, reopen) = (queue.bytes.clone(), queue.reopen.clone());
        let thread = std::thread::Builder::new().name("output".into());
        thread.spawn(move || append_all(&messages, &bytes, &reopen))?;
        Ok(Self { queue, files: HashMap::new() })
    }

    /// The way into a file; the same for all who name the same path. The last caller's rules count.
    pub fn file(&mut self, path: &Path, rotate_bytes: u64, keep: u32) -> Sink {
        self.files.retain(|_, file| file.strong_count() > 0);
        let known = self.files.get(path).and_then(Weak::upgrade);
        let file = known.unwrap_or_else(|| {
            Arc::new(Named {
                path: path.to_owned(),
                rotate_bytes: AtomicU64::new(0),
                keep: AtomicU64::new(0),
                queued_bytes: AtomicUsize::new(0),
                lost_bytes: AtomicU64::new(0),
            })
        });
        file.rotate_bytes.store(rotate_bytes, Ordering::Relaxed);
        file.keep.store(keep.into(), Ordering::Relaxed);
        self.files.insert(path.to_owned(), Arc::downgrade(&file));
        Sink { file, queue: self.queue.clone(), _bell: Bell(self.queue.messages.clone()) }
    }

    /// Opens all files again, under their names.
    pub fn reopen(&self) {
        if self.queue.messages.try_send(Message::Reopen).is_err() {
            // Out of order, but not lost: the thread looks before the next message.
            self.queue.reopen.store(true, Ordering::SeqCst);
        }
    }

    /// Waits until what is queued is written, at most a second.
    pub fn finish(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.queue.messages.try_send(Message::Finish(done)).is_ok() {
            let _ = wait.recv_timeout(FINISH_WITHIN);
        }
    }
}

impl Sink {
    /// Queues bytes for the file, or drops and counts them.
    pub fn write(&self, bytes: Vec<u8>) {
        let length = bytes.len();
        if length > 0
            && !self.queue(bytes)
            && self.file.lost_bytes.fetch_add(length as u64, Ordering::SeqCst) == 0
        {
            // Nothing may follow for hours: the thread has to hear of the loss. Where even this finds no room, it has
            // thousands of messages before it, and looks for losses after the last.
            self.queue(Vec::new());
        }
    }

    /// Whether there was room.
    fn queue(&self, bytes: Vec<u8>) -> bool {
        let length = bytes.len();
        let here = self.file.queued_bytes.fetch_add(length, Ordering::Relaxed) + length;
        let all = self.queue.bytes.fetch_add(length, Ordering::Relaxed) + length;
        let lost_bytes = self.file.lost_bytes.swap(0, Ordering::SeqCst);
        let message = Message::Append { file: self.file.clone(), lost_bytes, bytes };
        let fits = length == 0 || (here <= OUTPUT_QUEUE_BYTES && all <= OUTPUT_QUEUES_BYTES);
        let queued = fits && self.queue.messages.try_send(message).is_ok();
        if !queued {
            self.file.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            self.queue.bytes.fetch_sub(length, Ordering::Relaxed);
            self.file.lost_bytes.fetch_add(lost_bytes, Ordering::SeqCst);
        }
        queued
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // Where there is no room the thread looks for files without sinks when it has emptied the queue.
        let _ = self.0.try_send(Message::Left);
    }
}

fn append_all(messages: &mpsc::Receiver<Message>, queued_bytes: &AtomicUsize, reopen: &AtomicBool) {
    let mut open = HashMap::<PathBuf, OpenFile>::new();
    loop {
        let message = match messages.try_recv() {
            Err(mpsc::TryRecvError::Empty) => {
                open.values_mut().for_each(OpenFile::tell_what_was_lost);
                open.retain(|_, file| !file.is_left());
                messages.recv()
            }
            Err(mpsc::TryRecvError::Disconnected) => return,
            Ok(message) => Ok(message),
        };
        if reopen.swap(false, Ordering::SeqCst) {
            open.values_mut().for_each(OpenFile::close);
        }
        match message {
            // The queue is empty next, or there is more to do first.
            Ok(Message::Left) => {}
            Ok(Message::Append { file, lost_bytes, bytes }) => {
                file.queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                queued_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                let state = open.entry(file.path.clone()).or_insert_with(|| OpenFile::new(file));
                state.append(lost_bytes, &bytes);
            }
            Ok(Message::Reopen) => open.values_mut().for_each(OpenFile::close),
            Ok(Message::Finish(done)) => {
                open.values_mut().for_each(OpenFile::tell_what_was_lost);
                // Who asked has waited long enough and left, or hears it.
                let _ = done.send(());
            }
            Err(mpsc::RecvError) => return,
        }
    }
}

/// A file as the thread knows it.
struct OpenFile {
    named: Arc<Named>,
    file: Option<File>,
    /// A device or a standard stream cannot be moved away.
    rotates: bool,
    length: u64,
    /// Bytes that are missing from the file and of which it does not say so yet.
    lost_bytes: u64,
    /// When it could not be opened.
    refused_at: Option<Instant>,
    /// When it could not be rotated.
    stuck_at: Option<Instant>,
    /// It could not be written, and that was said.
    fails: bool,
}

impl OpenFile {
    const fn new(named: Arc<Named>) -> Self {
        Self {
            named,
            file: None,
            rotates: false,
            length: 0,
            lost_bytes: 0,
            refused_at: None,
            stuck_at: None,
            fails: false,
        }
    }

    fn append(&mut self, lost_bytes: u64, bytes: &[u8]) {
        self.lost_bytes += lost_bytes;
        if bytes.is_empty() {
            return;
        }
        let appended = self.make_room_for(bytes.len() as u64).and_then(|()| {
            self.write_what_was_lost()?;
            self.write(bytes)
        });
        if appended.is_err() {
            self.lost_bytes += bytes.len() as u64;
        }
    }

    /// To be called when nothing more is queued.
    fn tell_what_was_lost(&mut self) {
        self.lost_bytes += self.named.lost_bytes.swap(0, Ordering::SeqCst);
        if self.lost_bytes > 0 {
            // Where it cannot be written now, it is before what can be.
            let _ = self.open().and_then(|()| self.write_what_was_lost());
        }
    }

    fn write_what_was_lost(&mut self) -> io::Result<()> {
        if self.lost_bytes > 0 {
            self.write(format!("lbctl: {} bytes of output lost here\n", self.lost_bytes).as_bytes())?;
            self.lost_bytes = 0;
        }
        Ok(())
    }

    /// Opens the file, after it was rotated where the bytes would make it too long.
    fn make_room_for(&mut self, bytes: u64) -> io::Result<()> {
        self.open()?;
        let limit = self.named.rotate_bytes.load(Ordering::Relaxed);
        let is_full = self.rotates && limit > 0 && self.length > 0 && self.length + bytes > limit;
        if !is_full || self.stuck_at.is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return Ok(());
        }
        let keep = self.named.keep.load(Ordering::Relaxed);
        match Place::of(&self.named.path).and_then(|place| place.rotate(keep)) {
            Ok(()) => self.stuck_at = None,
            Err(error) => {
                // A file that is too long is better than output that is lost.
                if self.stuck_at.is_none() {
                    log::warn!("output not rotated file={} reason=\"{error}\"", self.named.path.display());
                }
                self.stuck_at = Some(Instant::now());
            }
        }
        self.file = None;
        self.open()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let written = file.write_all(bytes);
        if let Err(error) = &written
            && !self.fails
        {
            log::warn!("output not written file={} reason=\"{error}\"", self.named.path.display());
        }
        self.fails = written.is_err();
        written?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether nobody writes to it any more, and nothing is left to say in it.
    fn is_left(&self) -> bool {
        self.lost_bytes == 0 && Arc::strong_count(&self.named) == 1
    }

    /// To be opened again, and at once.
    fn close(&mut self) {
        (self.file, self.refused_at, self.stuck_at) = (None, None, None);
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        if self.refused_at.is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let opened = append::open(&self.named.path);
        match opened.and_then(|file| Ok((file.metadata()?, file))) {
            Ok((found, file)) => {
                (self.file, self.length, self.refused_at) = (Some(file), found.len(), None);
                self.rotates = found.is_file() && !append::is_standard_stream(&self.named.path);
                Ok(())
            }
            Err(error) => {
                if self.refused_at.is_none() {
                    log::warn!("output not written file={} reason=\"{error}\"", self.named.path.display());
                }
                self.refused_at = Some(Instant::now());
                Err(error)
            }
        }
    }
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

    #[test]
    fn file_that_cannot_be_rotated_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        std::fs::create_dir(folder.path().join("out.log.1")).unwrap();
        std::fs::write(folder.path().join("out.log.1/in-the-way"), "").unwrap();
        let mut writer = Writer::start().unwrap();
        let sink = writer.file(&path, 10, 1);
        sink.write(b"first line\n".to_vec());
        sink.write(b"second line\n".to_vec());
        sink.write(b"third line\n".to_vec());
        writer.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first line\nsecond line\nthird line\n");
    }

    #[test]
    fn file_is_closed_when_nobody_writes_to_it_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let is_open = || {
            let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            files.into_iter().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == path))
        };
        let mut writer = Writer::start().unwrap();
        let (first, second) = (writer.file(&path, 0, 0), writer.file(&path, 0, 0));
        first.write(b"one\n".to_vec());
        drop(first);
        second.write(b"two\n".to_vec());
        writer.finish();
        assert!(is_open());
        drop(second);
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_open() {
            assert!(Instant::now() < deadline, "it stays open");
            std::thread::yield_now();
        }
        writer.file(&path, 0, 0).write(b"three\n".to_vec());
        writer.finish();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn reopening_is_not_lost_in_a_burst() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let (sender, messages) = mpsc::sync_channel(1);
        let queue = Queue { messages: sender, bytes: Arc::default(), reopen: Arc::default() };
        let mut writer = Writer { queue: queue.clone(), files: HashMap::new() };
        let sink = writer.file(&path, 0, 0);
        // Nobody empties the queue, and it is full.
        sink.write(b"one\n".to_vec());
        writer.reopen();
        assert!(queue.reopen.load(Ordering::SeqCst));
        let (bytes, reopen) = (queue.bytes.clone(), queue.reopen.clone());
        std::thread::spawn(move || append_all(&messages, &bytes, &reopen));
        let deadline = Instant::now() + Duration::from_secs(10);
        while queue.reopen.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "nothing is opened again");
            std::thread::yield_now();
        }
    }

    #[test]
    fn device_is_not_rotated() {
        let mut writer = Writer::start().unwrap();
        let sink = writer.file(Path::new("/dev/null"), 10, 1);
        (0..10).for_each(|_| sink.write(b"a long line\n".to_vec()));
        writer.finish();
        assert!(Path::new("/dev/null").exists() && !Path::new("/dev/null.1").exists());
    }

    #[test]
    fn loss_is_told_though_nothing_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        let mut writer = Writer::start().unwrap();
        let sink = writer.file(&path, 0, 0);
        sink.write(b"kept\n".to_vec());
        sink.write(vec![b'x'; OUTPUT_QUEUE_BYTES + 1]);
        let told = format!("kept\nlbctl: {} bytes of output lost here\n", OUTPUT_QUEUE_BYTES + 1);
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_to_string(&path).unwrap_or_default() != told {
            assert!(Instant::now() < deadline, "nothing is told");
            std::thread::yield_now();
        }
    }
}
