//! Proves the short-cut before it is used: on sockets of its own, in a cgroup of its own.
//!
//! The kernel code under the short-cut changes its bugs from release to release; only a try on the running kernel tells.
//!
//! Effectful: makes a cgroup, opens loopback sockets, reads clocks.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "real sockets, files and clocks")]

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lb_common::counter::Counter;
use lb_common::limits::SHORT_CUT_BYTES_MAX;
use rustix::pipe::SpliceFlags;
use thiserror::Error;

use super::object::CounterTable;
use super::resent;
use super::short_cut::ShortCut;

/// Longest wait for a byte on loopback.
const PATIENCE: Duration = Duration::from_millis(200);
/// A sender whose reader sleeps must be stopped before this: our bound, and what TCP buffers with [`SMALL_BUFFER`].
const UNREAD_BYTES_MAX: usize = SHORT_CUT_BYTES_MAX as usize + 2 * 1024 * 1024;
const SMALL_BUFFER: usize = 64 * 1024;
const REQUEST: [u8; 256] = [b'q'; 256];
const RESPONSE: [u8; 1024] = [b'r'; 1024];
/// What loopback's segments of 65,483 bytes leave of 64 KiB, and more than the kernel takes off a segment at once.
pub const REPEATED_BYTES: [u32; 2] = [53, 9_000];
const EXCHANGES_PER_BATCH: u32 = 120;
/// Of each kind, in turns.
const BATCHES: usize = 9;

/// Said where it is true. Web servers do not read so from their clients; other proxies may.
const SPLICE_WARNING: &str = "not for local backends that read their connections with splice(2)";

/// What the self-probe found.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// CPU time of a small exchange over plain loopback.
    plain: Duration,
    /// The same by the short-cut.
    short_cut: Duration,
    /// Whether `splice(2)` from an enrolled socket finds bytes of the short-cut.
    splice: bool,
    took: Duration,
}

impl Report {
    /// How many times as long plain loopback takes.
    pub fn gain(&self) -> f64 {
        self.plain.as_secs_f64() / self.short_cut.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        write!(
            out,
            "a small exchange takes {:.1} µs, over plain loopback {:.1} µs ({:.2} times); bytes exact, also when sent \
             again; FIONREAD exact; senders wait; probed in {} ms",
            micros(self.short_cut),
            micros(self.plain),
            self.gain(),
            self.took.as_millis()
        )?;
        if !self.splice {
            write!(out, "; {SPLICE_WARNING}")?;
        }
        Ok(())
    }
}

/// Why the short-cut is not to be used.
#[derive(Debug, Error)]
pub enum Failure {
    /// The probe itself could not be done.
    #[error("the self-probe could not {0}: {1}")]
    Setting(&'static str, #[source] io::Error),
    /// Nothing was enrolled.
    #[error("the kernel did not enrol a loopback connection ({0})")]
    NotEnrolled(&'static str),
    /// Enrolled, and still by TCP.
    #[error("no message of an enrolled connection took the short-cut ({0})")]
    NotTaken(&'static str),
    /// Bytes went astray.
    #[error("bytes were lost, changed or reordered ({0})")]
    Inexact(&'static str),
    /// Bytes that TCP sends again in other pieces come twice.
    #[error("bytes that TCP sends again would be read twice ({0} of them)")]
    Repeated(u32),
    /// Nginx, Java and .NET ask this way how much there is to read.
    #[error("FIONREAD answers {answer} where {truth} bytes wait ({path}): backends that ask would hang")]
    WrongCount {
        /// How the bytes came.
        path: &'static str,
        /// What the kernel said.
        answer: i32,
        /// What was true.
        truth: i32,
    },
    /// A reader that sleeps would let the kernel's memory fill up.
    #[error("a sender whose reader sleeps is not made to wait after {0} bytes")]
    Unbounded(usize),
}

/// Runs the probe in a thread that enters `cgroup` and leaves it again.
///
/// # Errors
/// See [`Failure`].
pub fn run(cgroup: &PrivateCgroup, ports: &ShortCut, counters: &CounterTable) -> Result<Report, Failure> {
    let probe = Probe { ports, counters };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cgroup.enter().map_err(|error| Failure::Setting("enter its cgroup", error))?;
            let result = probe.all();
            cgroup.leave().map_err(|error| Failure::Setting("leave its cgroup", error))?;
            result
        });
        thread.join().unwrap_or_else(|_| Err(Failure::Setting("run", io::Error::other("it panicked"))))
    })
}

struct Probe<'a> {
    ports: &'a ShortCut,
    counters: &'a CounterTable,
}

/// The two ends of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Probe<'_> {
    fn all(&self) -> Result<Report, Failure> {
        let started = Instant::now();
        self.family("IPv4", "127.0.0.1:0", None)?;
        if TcpListener::bind("[::1]:0").is_ok() {
            self.family("IPv6", "[::1]:0", None)?;
            self.family("IPv4-mapped IPv6", "[::]:0", Some([127, 0, 0, 1]))?;
        }
        self.resent()?;
        let (plain, short_cut) = self.compare().map_err(|error| Failure::Setting("measure", error))?;
        let splice = self.splice().map_err(|error| Failure::Setting("try splice(2)", error))?;
        Ok(Report { plain, short_cut, splice, took: started.elapsed() })
    }

    /// Everything but the time, over one spelling of loopback.
    fn family(&self, name: &'static str, bind: &str, connect: Option<[u8; 4]>) -> Result<(), Failure> {
        let before = self.counters.get(Counter::Enrolled);
        let pair = self.connect(bind, connect).map_err(|error| Failure::Setting("connect", error))?;
        if self.counters.get(Counter::Enrolled) < before + 2 {
            return Err(Failure::NotEnrolled(name));
        }
        let Pair { client, server } = pair;
        for (from, to) in [(&client, &server), (&server, &client)] {
            self.exactness(name, from, to)?;
            counts(from, to)?;
            self.waiting(name, from, to)?;
        }
        Ok(())
    }

    fn connect(&self, bind: &str, connect: Option<[u8; 4]>) -> io::Result<Pair> {
        let listener = socket2::Socket::new(
            socket2::Domain::for_address(bind.parse().map_err(io::Error::other)?),
            socket2::Type::STREAM,
            None,
        )?;
        // Small, so that filling them takes no time; inherited by accepted sockets.
        listener.set_recv_buffer_size(SMALL_BUFFER)?;
        listener.set_send_buffer_size(SMALL_BUFFER)?;
        listener.bind(&bind.parse::<SocketAddr>().map_err(io::Error::other)?.into())?;
        listener.listen(1)?;
        let listener = TcpListener::from(listener);
        let mut address = listener.local_addr()?;
        if let Some(v4) = connect {
            address = (v4, address.port()).into();
        }
        self.ports.enrol_port(address.port());
        let pair = Pair::over(&listener, address);
        self.ports.withdraw_port(address.port());
        pair
    }

    /// Random messages, read in random pieces at random times, arrive as they were sent.
    fn exactness(&self, name: &'static str, from: &TcpStream, to: &TcpStream) -> Result<(), Failure> {
        let before = self.counters.get(Counter::Redirected);
        let mut random = fastrand::Rng::with_seed(7);
        let mut bytes = vec![0; 192 * 1024];
        random.fill(&mut bytes);
        let (mut sent, mut read) = (0, 0);
        let mut buffer = vec![0; 64 * 1024];
        while read < bytes.len() {
            // Never more on the way than the smallest buffer holds: this thread is both ends.
            while sent < bytes.len() && sent - read < SMALL_BUFFER / 4 && random.u8(..4) != 0 {
                let longest = 1 << random.u32(1..14);
                let piece = random.usize(1..longest).min(bytes.len() - sent);
                let room = SMALL_BUFFER / 2 - (sent - read);
                sent += send(from, &bytes[sent..sent + piece.min(room)])?;
            }
            if read < sent {
                let wanted = random.usize(1..=buffer.len());
                let count = receive(to, &mut buffer[..wanted])?;
                if count == 0 || bytes.get(read..read + count) != Some(&buffer[..count]) {
                    return Err(Failure::Inexact(name));
                }
                read += count;
            }
        }
        if self.counters.get(Counter::Redirected) == before {
            return Err(Failure::NotTaken(name));
        }
        Ok(())
    }

    /// A sleeping reader stops the sender; when it wakes it finds every byte, and the short-cut opens again.
    fn waiting(&self, name: &'static str, from: &TcpStream, to: &TcpStream) -> Result<(), Failure> {
        let setting = |error| Failure::Setting("switch a socket's mode", error);
        let piece: Vec<u8> = (0..16 * 1024).map(|index| (index % 251) as u8).collect();
        let mut sent = 0;
        from.set_nonblocking(true).map_err(setting)?;
        loop {
            match (&*from).write(&piece[sent % piece.len()..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(Failure::Setting("send", error)),
            }
            if sent > UNREAD_BYTES_MAX {
                return Err(Failure::Unbounded(sent));
            }
        }
        from.set_nonblocking(false).map_err(setting)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut read = 0;
        while read < sent {
            let count = receive(to, &mut buffer)?;
            let exact = buffer[..count].iter().zip(read..).all(|(byte, at)| *byte == piece[at % piece.len()]);
            if count == 0 || !exact {
                return Err(Failure::Inexact(name));
            }
            read += count;
        }
        let before = self.counters.get(Counter::Redirected);
        send(from, &REQUEST)?;
        receive_exactly(to, &mut buffer[..REQUEST.len()])?;
        if self.counters.get(Counter::Redirected) == before {
            return Err(Failure::NotTaken(name));
        }
        Ok(())
    }

    /// A segment that repeats bytes before it brings new ones is read without them, and the connection goes on.
    fn resent(&self) -> Result<(), Failure> {
        const FRESH: [u8; 100] = [b'f'; 100];
        let pair = self.connect("127.0.0.1:0", None).map_err(|error| Failure::Setting("connect", error))?;
        for (from, to) in [(&pair.server, &pair.client), (&pair.client, &pair.server)] {
            let mut buffer = [0; FRESH.len()];
            // The second goes by TCP: the queue is not empty. So the kernel knows a segment of this direction.
            for _ in 0..2 {
                send(from, &FRESH)?;
            }
            for _ in 0..2 {
                receive_exactly(to, &mut buffer)?;
            }
            for repeated in REPEATED_BYTES {
                resent::send(from, repeated, &FRESH)
                    .map_err(|error| Failure::Setting("send a segment of its own", error))?;
                receive_exactly(to, &mut buffer)?;
                let is_fresh = buffer == FRESH;
                // What `from` did not know of it sends now; the other end has it already and reads on behind it.
                send(from, &FRESH)?;
                send(from, &REQUEST)?;
                let mut next = [0; REQUEST.len()];
                receive_exactly(to, &mut next)?;
                if !is_fresh || next != REQUEST {
                    return Err(Failure::Repeated(repeated));
                }
            }
        }
        Ok(())
    }

    fn splice(&self) -> io::Result<bool> {
        let pair = self.connect("127.0.0.1:0", None)?;
        let (_read, write) = rustix::pipe::pipe()?;
        (&pair.client).write_all(&REQUEST)?;
        pair.server.set_nonblocking(true)?;
        let moved =
            rustix::pipe::splice(&pair.server, None, &write, None, REQUEST.len(), SpliceFlags::NONBLOCK);
        Ok(moved == Ok(REQUEST.len()))
    }

    /// Median time of a small exchange over plain loopback and by the short-cut, measured in turns. One thread plays both
    /// ends, so that this is CPU time and not the scheduler's.
    fn compare(&self) -> io::Result<(Duration, Duration)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let plain = Pair::over(&listener, listener.local_addr()?)?;
        let short = self.connect("127.0.0.1:0", None)?;
        let (mut plain_times, mut short_times) = (Vec::new(), Vec::new());
        plain.batch()?;
        short.batch()?;
        for _ in 0..BATCHES {
            plain_times.push(plain.batch()?);
            short_times.push(short.batch()?);
        }
        Ok((median(plain_times) / EXCHANGES_PER_BATCH, median(short_times) / EXCHANGES_PER_BATCH))
    }
}

impl Pair {
    fn over(listener: &TcpListener, address: SocketAddr) -> io::Result<Self> {
        let client = TcpStream::connect_timeout(&address, PATIENCE)?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        socket2::SockRef::from(&client).set_recv_buffer_size(SMALL_BUFFER)?;
        socket2::SockRef::from(&client).set_send_buffer_size(SMALL_BUFFER)?;
        Ok(Self { client, server })
    }

    fn batch(&self) -> io::Result<Duration> {
        let started = Instant::now();
        let mut buffer = [0; RESPONSE.len()];
        for _ in 0..EXCHANGES_PER_BATCH {
            (&self.client).write_all(&REQUEST)?;
            (&self.server).read_exact(&mut buffer[..REQUEST.len()])?;
            (&self.server).write_all(&RESPONSE)?;
            (&self.client).read_exact(&mut buffer)?;
        }
        Ok(started.elapsed())
    }
}

/// `FIONREAD` counts bytes that came by the short-cut, and those that came by TCP behind them.
fn counts(from: &TcpStream, to: &TcpStream) -> Result<(), Failure> {
    let small = [7; 100];
    for (path, truth) in [("by the short-cut", 100), ("by both ways", 200)] {
        // The second small message goes by TCP: the queue is not empty.
        send(from, &small)?;
        let started = Instant::now();
        let mut answer = waiting_bytes(to)?;
        while answer != truth && started.elapsed() < PATIENCE / 4 {
            std::thread::yield_now();
            answer = waiting_bytes(to)?;
        }
        if answer != truth {
            return Err(Failure::WrongCount { path, answer, truth });
        }
    }
    receive_exactly(to, &mut [0; 200])
}

fn waiting_bytes(socket: &TcpStream) -> Result<i32, Failure> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to the pointer, which is that of a live local variable.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result < 0 {
        return Err(Failure::Setting("ask FIONREAD", io::Error::last_os_error()));
    }
    Ok(count)
}

fn send(mut to: &TcpStream, bytes: &[u8]) -> Result<usize, Failure> {
    to.write_all(bytes).map_err(|error| Failure::Setting("send", error))?;
    Ok(bytes.len())
}

fn receive(mut from: &TcpStream, buffer: &mut [u8]) -> Result<usize, Failure> {
    from.read(buffer).map_err(|error| Failure::Setting("receive", error))
}

fn receive_exactly(mut from: &TcpStream, buffer: &mut [u8]) -> Result<(), Failure> {
    from.read_exact(buffer).map_err(|error| Failure::Setting("receive", error))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A threaded cgroup under our own: only the probe's thread enters it, and only what it contains sees the programs.
pub struct PrivateCgroup {
    folder: PathBuf,
    parent: PathBuf,
}

impl PrivateCgroup {
    /// Makes it; it is removed when dropped.
    ///
    /// # Errors
    /// There is no cgroup v2, or we may not write there.
    pub fn create(name: &str) -> io::Result<Self> {
        let parent = own_cgroup().ok_or_else(|| io::Error::other("cgroup v2 is not mounted"))?;
        // Unique in this process too: tests run side by side.
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let folder = parent.join(format!("lbctl-{name}-{}-{thread}", std::process::id()));
        fs::create_dir(&folder)?;
        let cgroup = Self { folder, parent };
        fs::write(cgroup.folder.join("cgroup.type"), "threaded")?;
        Ok(cgroup)
    }

    /// Where it is.
    #[cfg(test)]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its folder, to attach programs to.
    ///
    /// # Errors
    /// What `open` says.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.folder)
    }

    /// Moves the calling thread in: sockets that it opens from now on belong to this cgroup.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enter(&self) -> io::Result<()> {
        move_thread(&self.folder)
    }

    /// Moves the calling thread back; the cgroup can be removed only when it is empty.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn leave(&self) -> io::Result<()> {
        move_thread(&self.parent)
    }
}

impl Drop for PrivateCgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            log::warn!("cgroup {} stays: {error}", self.folder.display());
        }
    }
}

fn move_thread(folder: &Path) -> io::Result<()> {
    // 0 is the thread that writes.
    fs::write(folder.join("cgroup.threads"), "0")
}

/// This process's own cgroup v2 folder.
pub fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4))?
    })?;
    let inner = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(mount).join(inner))
}
