//! A log file behind a bounded queue and a writer thread, so that a slow disk slows no request: where the queue is full,
//! records are dropped and counted.
//!
//! Effectful: writes a file, starts a thread.
#![expect(clippy::disallowed_methods, reason = "the deadline of a flush is measured here")]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{LOG_QUEUE_BYTES, LOG_QUEUE_RECORDS};

/// Records that come within this time are written at once.
const BATCH_TIME: Duration = Duration::from_millis(10);
/// Waiting bytes that are written without waiting for more.
const BATCH_BYTES: usize = 64 * 1024;

/// The way into a log; clones lead to the same one. The writer ends when the last of them is gone and all is written.
#[derive(Clone)]
pub struct LogQueue {
    keeper: Arc<Keeper>,
}

/// Tells the writer when the last clone goes.
struct Keeper(Arc<Shared>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.queue().ended = true;
        self.0.changed.notify_all();
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    records: usize,
    next_file: Option<File>,
    is_writing: bool,
    /// Somebody waits for all to be written.
    hurry: bool,
    ended: bool,
    dropped: u64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogQueue {
    /// A queue into `file`, with a thread of this name (at most 15 bytes are shown) that writes it.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(name: &str, file: OwnedFd) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let keeper = Arc::new(Keeper(shared.clone()));
        std::thread::Builder::new().name(name.to_owned()).spawn(move || write(&shared, File::from(file)))?;
        Ok(Self { keeper })
    }

    /// Puts a record (a whole line, LF included) into the queue. Never waits for the disk.
    pub fn push(&self, record: &[u8]) {
        let mut queue = self.keeper.0.queue();
        if queue.records >= LOG_QUEUE_RECORDS || queue.bytes.len() + record.len() > LOG_QUEUE_BYTES {
            queue.dropped += 1;
            return;
        }
        let before = queue.bytes.len();
        queue.bytes.extend_from_slice(record);
        queue.records += 1;
        let wakes = before == 0 || (before < BATCH_BYTES && queue.bytes.len() >= BATCH_BYTES);
        drop(queue);
        if wakes {
            self.keeper.0.changed.notify_all();
        }
    }

    /// Continues in another file. What is queued already goes into the one before.
    pub fn reopen(&self, file: OwnedFd) {
        self.keeper.0.queue().next_file = Some(File::from(file));
        self.keeper.0.changed.notify_all();
    }

    /// How many records were dropped: the queue was full, or the file could not be written.
    pub fn dropped(&self) -> u64 {
        self.keeper.0.queue().dropped
    }

    /// Waits until all that was pushed before is written, at most `within`. Whether it is.
    pub fn flush(&self, within: Duration) -> bool {
        let shared = &self.keeper.0;
        let deadline = Instant::now() + within;
        let mut queue = shared.queue();
        loop {
            if queue.records == 0 && !queue.is_writing && queue.next_file.is_none() {
                return true;
            }
            queue.hurry = true;
            shared.changed.notify_all();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The writer thread.
fn write(shared: &Shared, mut file: File) {
    let mut batch = Vec::new();
    loop {
        let mut queue = wait_for_work(shared);
        std::mem::swap(&mut queue.bytes, &mut batch);
        let records = std::mem::take(&mut queue.records);
        let next_file = queue.next_file.take();
        queue.hurry = false;
        queue.is_writing = true;
        let is_last = queue.ended;
        drop(queue);

        let result = file.write_all(&batch);
        batch.clear();
        if batch.capacity() > 4 * BATCH_BYTES {
            batch = Vec::new();
        }
        file = next_file.unwrap_or(file);

        let mut queue = shared.queue();
        queue.is_writing = false;
        if result.is_err() {
            queue.dropped += records as u64;
        }
        shared.changed.notify_all();
        if is_last {
            return;
        }
    }
}

/// Waits for records, and then a little longer for more of them.
fn wait_for_work(shared: &Shared) -> MutexGuard<'_, Queue> {
    let is_idle = |queue: &mut Queue| queue.records == 0 && queue.next_file.is_none() && !queue.ended;
    let queue = shared.changed.wait_while(shared.queue(), is_idle).unwrap_or_else(PoisonError::into_inner);
    let may_wait = |queue: &mut Queue| {
        queue.bytes.len() < BATCH_BYTES && !queue.hurry && !queue.ended && queue.next_file.is_none()
    };
    shared.changed.wait_timeout_while(queue, BATCH_TIME, may_wait).unwrap_or_else(PoisonError::into_inner).0
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn content(mut file: File) -> String {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    fn file() -> (File, OwnedFd) {
        let file = tempfile::tempfile().unwrap();
        let descriptor = file.try_clone().unwrap().into();
        (file, descriptor)
    }

    #[test]
    fn records_are_written_in_order_from_all_clones() {
        let (file, descriptor) = file();
        let queue = LogQueue::start("test", descriptor).unwrap();
        for number in 0..1000 {
            queue.clone().push(format!("{number}\n").as_bytes());
        }
        assert!(queue.flush(PATIENCE));
        let expect: String = (0..1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(content(file), expect);
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn reopening_splits_between_what_came_before_and_after() {
        let ((old, old_descriptor), (new, new_descriptor)) = (file(), file());
        let queue = LogQueue::start("test", old_descriptor).unwrap();
        queue.push(b"before\n");
        queue.reopen(new_descriptor);
        assert!(queue.flush(PATIENCE));
        queue.push(b"after\n");
        assert!(queue.flush(PATIENCE));
        assert_eq!((content(old).as_str(), content(new).as_str()), ("before\n", "after\n"));
    }

    #[test]
    fn full_queue_drops_and_counts_instead_of_waiting() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = LogQueue::start("test", writer.into()).unwrap();
        let record = [b'x'; 4096];
        let pushed = 2 * LOG_QUEUE_BYTES / record.len() + 100;
        for _ in 0..pushed {
            queue.push(&record);
        }
        assert!(queue.dropped() > 0, "the pipe's reader never reads");
        assert!(!queue.flush(Duration::from_millis(20)));
        drop(reader);
        assert!(queue.flush(PATIENCE), "a broken pipe ends the wait");
        assert!(queue.dropped() > pushed as u64 / 2);
    }
}
