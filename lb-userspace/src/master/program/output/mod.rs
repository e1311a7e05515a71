//! What programs write: captured from pipes, kept in memory, written to files, never in the way of the program.
//!
//! Effectful. One reading task per pipe, one writer thread for all files. Memory, queue and followers are bounded: whoever is too
//! slow loses lines and is told how many.

pub mod file;
pub mod keeper;
pub mod reader;
pub mod ring;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, mpsc};
use tokio::task::{AbortHandle, JoinHandle};

use crate::config::model::ProgramLog;
use crate::master::watched::watched;
use file::Writer;
use keeper::Pipe;
use ring::{Line, Ring, Stream};

/// Lines that a follower may be behind before it loses some.
const FOLLOWER_LINES_MAX: usize = 1024;

/// A line as followers get it.
#[derive(Clone, Debug)]
pub struct Followed {
    /// `program:index`.
    pub instance: Arc<str>,
    /// Which stream.
    pub stream: Stream,
    /// Without line end.
    pub text: Arc<str>,
}

/// The captured output of all instances.
pub struct Outputs {
    rings: HashMap<String, SharedRing>,
    /// What reads the pipes of each instance's last life.
    reading: HashMap<String, Vec<AbortHandle>>,
    /// All reading ends that are open.
    pipes: Vec<Pipe>,
    /// To who keeps them open when we are gone.
    keeper: Option<mpsc::Sender<Pipe>>,
    followers: broadcast::Sender<Followed>,
    writer: Writer,
}

/// The memory of one instance, over its lives.
#[derive(Clone, Default)]
pub struct SharedRing(Arc<Mutex<Ring>>);

impl SharedRing {
    /// The ring, for as long as it takes to add or copy lines.
    pub fn lock(&self) -> MutexGuard<'_, Ring> {
        // A reader that panicked left whole lines behind: still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two write ends for a new process, and the tasks that read.
pub struct Capture {
    /// To become the process's stdout.
    pub stdout: OwnedFd,
    /// To become the process's stderr.
    pub stderr: OwnedFd,
    /// Reads both until the process and all that inherited the pipes are gone.
    pub readers: Vec<JoinHandle<()>>,
    /// Where the lines go.
    pub ring: SharedRing,
}

impl Outputs {
    /// Nothing captured yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            rings: HashMap::new(),
            reading: HashMap::new(),
            pipes: Vec::new(),
            keeper: None,
            followers: broadcast::channel(FOLLOWER_LINES_MAX).0,
            writer: Writer::start()?,
        })
    }

    /// Pipes for a new life of `instance`, whose files belong to `owner` (so that it can open `/dev/stderr` itself).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn capture(
        &mut self,
        instance: &str,
        log: &ProgramLog,
        owner: Option<(u32, u32)>,
    ) -> std::io::Result<Capture> {
        let ring = self.rings.entry(instance.to_owned()).or_default().clone();
        ring.lock().last_error_line = None;
        self.leave(instance);
        let (mut readers, mut pipes) = (Vec::new(), Vec::new());
        let mut open = |stream: Stream, path: &Option<PathBuf>| {
            let (read, write) = reader::pipe(owner)?;
            let sink = path.as_ref().map(|path| self.writer.file(path, log.rotate_bytes, log.keep));
            let target = reader::Target {
                instance: instance.into(),
                stream,
                ring: ring.clone(),
                followers: self.followers.clone(),
                sink,
            };
            let read = Arc::new(watched(read)?);
            pipes.push(Arc::downgrade(&read));
            readers.push(reader::start(read, target));
            Ok::<_, std::io::Error>(write)
        };
        let stdout = open(Stream::Stdout, &log.stdout)?;
        let stderr = open(Stream::Stderr, &log.stderr)?;
        self.pipes.retain(|pipe| pipe.strong_count() > 0);
        for pipe in pipes {
            self.tell_keeper(&pipe);
            self.pipes.push(pipe);
        }
        self.reading.insert(instance.to_owned(), readers.iter().map(JoinHandle::abort_handle).collect());
        Ok(Capture { stdout, stderr, readers, ring })
    }

    /// There is a keeper at the other end of this socket: it is told of all pipes.
    ///
    /// # Errors
    /// What epoll says.
    pub fn keep_by(&mut self, socket: OwnedFd) -> std::io::Result<()> {
        self.keeper = Some(keeper::way_to(socket)?);
        self.pipes.iter().for_each(|pipe| self.tell_keeper(pipe));
        Ok(())
    }

    fn tell_keeper(&self, pipe: &Pipe) {
        let told = self.keeper.as_ref().map(|keeper| keeper.try_send(pipe.clone()));
        if let Some(Err(mpsc::error::TrySendError::Full(_))) = told {
            log::warn!("keeper of output does not keep up: a program may block when lbctl is killed");
        }
    }

    /// Reads no longer what an earlier life wrote. Where there are no cgroups a process that it left may hold its pipe for ever, and
    /// each life would leave one more.
    fn leave(&mut self, instance: &str) {
        self.reading.remove(instance).into_iter().flatten().for_each(|reader| reader.abort());
    }

    /// The last `count` lines of each instance that `wanted` takes, in the order of names.
    pub fn last(&self, wanted: &dyn Fn(&str) -> bool, count: usize) -> Vec<(String, Line)> {
        let names = self.rings.keys().filter(|name| wanted(name)).cloned().collect::<BTreeSet<_>>();
        let of = |name: &String| self.rings.get(name).map(|ring| ring.lock().last(count)).unwrap_or_default();
        names
            .into_iter()
            .flat_map(|name| of(&name).into_iter().map(move |line| (name.clone(), line)))
            .collect()
    }

    /// Whether anything was ever captured of it.
    pub fn knows(&self, instance: &str) -> bool {
        self.rings.contains_key(instance)
    }

    /// Everything written from now on.
    pub fn follow(&self) -> broadcast::Receiver<Followed> {
        self.followers.subscribe()
    }

    /// Opens all files again, under their names.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Forgets all instances but these.
    pub fn keep(&mut self, names: &BTreeSet<String>) {
        self.rings.retain(|name, _| names.contains(name));
        let gone = self.reading.keys().filter(|name| !names.contains(*name)).cloned().collect::<Vec<_>>();
        gone.iter().for_each(|name| self.leave(name));
    }

    /// Writes what is queued; waits for it at most a second.
    pub fn finish(&self) {
        self.writer.finish();
    }
}
