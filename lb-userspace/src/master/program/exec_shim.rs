//! The step between fork and the real program: `lbctl __exec`.
//!
//! Effectful. Runs before any runtime or thread exists, because it changes what belongs to the whole process. It waits for
//! the [`Spec`] on descriptor 0: the master sends it once the kernel watches this very process, so nothing that the program
//! does can be missed. The socket closes on exec, which tells the master that the program runs; a [`Failure`] on it tells
//! why it does not.

#![expect(clippy::disallowed_methods, reason = "the shim's own place in /proc is read and written here")]

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Gid, Resource, Rlimit, Uid};
use serde::{Deserialize, Serialize};

use crate::master::packet;

/// Bytes of a serialised [`Spec`]; the kernel's default for one packet is a little more.
pub const SPEC_BYTES_MAX: usize = 192 * 1024;
/// Exit code of a shim whose program could not be executed; the same as a shell's.
pub const NOT_EXECUTED: i32 = 127;

/// What the shim makes of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The file to execute where it is not what the first word says.
    pub executable: Option<PathBuf>,
    /// The words of the command; the first is searched in the `PATH` of `environment` when it has no `/`.
    pub command: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Where it starts; `None`: `/`.
    pub directory: Option<PathBuf>,
    /// Who it runs as; `None`: as the master.
    pub identity: Option<Identity>,
    /// File creation mask.
    pub umask: u32,
    /// Soft and hard RLIMIT_NOFILE.
    pub open_files: (u64, u64),
    /// Set `no_new_privs`: for our own workers, not for programs (they may call `sudo`, `ping`, …).
    pub no_new_privileges: bool,
    /// Keep the output pipes readable in the program itself, so that it outlives the one who reads them (programs). Without,
    /// writing fails when nobody reads any more (our own workers, which must not wait for a reader).
    pub outlives_reader: bool,
    /// Its nice value: the master's own is not for everybody.
    pub priority: i32,
    /// Descriptors that came with this packet, to be left open as 3, 4, ….
    pub passed: usize,
}

/// User, group and supplementary groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// What the shim answers when the program could not be executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done: `exec /usr/bin/x`.
    pub step: String,
    /// What the operating system said.
    pub why: String,
}

/// The body of `lbctl __exec`: `main` calls it before anything else. Returns only when the program could not be started;
/// the master has been told then.
///
/// # Errors
/// What failed.
pub fn exec_shim() -> anyhow::Result<Infallible> {
    // Above the numbers that passed descriptors get.
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 32)?;
    let (spec, passed) = receive_spec(&socket)?;
    let failure = match become_program(&spec, passed) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let report = serde_json::to_vec(&failure)?;
    packet::send(&socket, &report, &[])?;
    std::process::exit(NOT_EXECUTED)
}

fn receive_spec(socket: &OwnedFd) -> anyhow::Result<(Spec, Vec<OwnedFd>)> {
    let mut buffer = vec![0; SPEC_BYTES_MAX];
    let (length, passed) = packet::receive(socket, &mut buffer)?;
    anyhow::ensure!(length > 0, "the master went away before it said what to run");
    Ok((serde_json::from_slice(&buffer[..length])?, passed))
}

/// The steps, in the order that lets each still do what it needs.
fn become_program(spec: &Spec, passed: Vec<OwnedFd>) -> Result<Infallible, Failure> {
    let step = |what: &str| what.to_owned();
    rustix::process::setsid().or_fail(|| step("setsid"))?;
    if spec.outlives_reader {
        keep_output_readable();
    }
    close_stdin().or_fail(|| step("open /dev/null"))?;
    close_on_exec_from_3().or_fail(|| step("close_range"))?;
    place(passed, spec.passed).or_fail(|| step("pass descriptors"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(spec.umask));
    let (soft, hard) = spec.open_files;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })
        .or_fail(|| format!("set open_files to {hard}"))?;
    give_up_favours();
    // Lowering a priority is always allowed; where it stays as it was nothing is lost.
    let _ = rustix::process::setpriority_process(None, spec.priority);
    if let Some(identity) = &spec.identity {
        identity.assume().or_fail(|| format!("switch to uid {} gid {}", identity.uid, identity.gid))?;
    }
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).or_fail(|| step("no_new_privs"))?;
    }
    let directory = spec.directory.as_deref().unwrap_or(Path::new("/"));
    rustix::process::chdir(directory).or_fail(|| format!("chdir {}", directory.display()))?;
    reset_signals();
    execute(spec)
}

trait OrFail<T> {
    fn or_fail(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { step: step(), why: plain(&error.into()) })
    }
}

/// An error of the operating system without Rust's ` (os error 2)`.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Opens both output pipes for reading too, so that they have a reader when the master is gone: the program then goes on
/// (until a pipe is full) where SIGPIPE would end it. Not a pipe, or no `/proc`: it stays as it is.
fn keep_output_readable() {
    for descriptor in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let is_pipe = rustix::fs::fstat(descriptor).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
        });
        if !is_pipe {
            continue;
        }
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        if let Ok(both) = rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
            let _ = replace(descriptor, &both);
        }
    }
}

/// What whoever started the master granted it, and not all that comes of it: capabilities that every program would inherit (systemd's
/// `AmbientCapabilities`), and to be ended last where memory is short (`OOMScoreAdjust`). Other limits go on to programs, as they do from
/// a shell.
fn give_up_favours() {
    // Kernels that do not know of them grant none.
    let _ = rustix::thread::clear_ambient_capability_set();
    const SCORE: &str = "/proc/self/oom_score_adj";
    if std::fs::read_to_string(SCORE).is_ok_and(|score| is_favoured(&score)) {
        let _ = std::fs::write(SCORE, "0");
    }
}

/// A score above 0 is no favour: a container's place among others.
fn is_favoured(score: &str) -> bool {
    score.trim().parse::<i32>().is_ok_and(|score| score < 0)
}

fn close_stdin() -> io::Result<()> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())?;
    replace(rustix::stdio::stdin(), &null)
}

/// `dup2`, without closing on exec.
fn replace(target: BorrowedFd<'_>, source: &OwnedFd) -> io::Result<()> {
    duplicate_to(source, target.as_raw_fd())
}

fn duplicate_to(source: &OwnedFd, target: i32) -> io::Result<()> {
    // SAFETY: dup2 takes any two numbers; `target` is 0, 1, 2 or the number of a passed descriptor, none of which any
    // Rust object of this single-threaded process owns when it is replaced (see `place`).
    let result = unsafe { libc::dup2(source.as_raw_fd(), target) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn close_on_exec_from_3() -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets a flag on open descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    // Linux before 5.11: one by one.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: fcntl(F_SETFD) only sets a flag, on any number; one that is closed meanwhile is an error we ignore.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Makes the passed descriptors 3, 4, …: first out of the way, then into place. Leaks them into the program on purpose.
fn place(passed: Vec<OwnedFd>, expected: usize) -> io::Result<()> {
    if passed.len() != expected {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "other number of descriptors than announced"));
    }
    if passed.is_empty() {
        return Ok(());
    }
    let high = passed
        .iter()
        .map(|descriptor| rustix::io::fcntl_dupfd_cloexec(descriptor, 64))
        .collect::<Result<Vec<_>, _>>()?;
    for descriptor in passed {
        // Their numbers may be the ones to be filled now; the process is about to become another.
        std::mem::forget(descriptor);
    }
    for (position, descriptor) in high.iter().enumerate() {
        duplicate_to(descriptor, 3 + position as i32)?;
    }
    Ok(())
}

impl Identity {
    /// Becomes this user for good. The shim has one thread, so the thread's ids are the process's.
    fn assume(&self) -> rustix::io::Result<()> {
        let gid = Gid::from_raw(self.gid);
        let uid = Uid::from_raw(self.uid);
        let groups = self.groups.iter().map(|group| Gid::from_raw(*group)).collect::<Vec<_>>();
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_groups(&groups)?;
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
    }
}

/// Default action for every signal and nothing blocked: whatever our own starter ignored is not the program's affair.
fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid action for any signal; for those that cannot be changed it is an error we ignore.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was initialised above; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

fn execute(spec: &Spec) -> Result<Infallible, Failure> {
    let first = spec.command.first().map_or("", String::as_str);
    let shown = spec.executable.as_deref().unwrap_or(Path::new(first));
    let failure = |why: String| Failure { step: format!("exec {}", shown.display()), why };
    let text = |words: &mut dyn Iterator<Item = Vec<u8>>| {
        words
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| failure("a word holds a zero byte".into()))
    };
    let arguments = text(&mut spec.command.iter().map(|word| word.clone().into_bytes()))?;
    let environment =
        text(&mut spec.environment.iter().map(|(name, value)| format!("{name}={value}").into_bytes()))?;
    let search = spec.environment.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
    let mut error = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates(shown, search) {
        let attempt = execve(&candidate, &arguments, &environment);
        if attempt.raw_os_error() == Some(libc::ENOENT) && candidate.exists() {
            return Err(failure("the interpreter named in its first line does not exist".into()));
        }
        // Keep looking as a shell does, but remember a file that is there and may not be executed.
        match attempt.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => error = attempt,
            _ => return Err(failure(plain(&attempt))),
        }
    }
    Err(failure(plain(&error)))
}

fn candidates(file: &Path, search: &str) -> Vec<PathBuf> {
    if file.as_os_str().as_bytes().contains(&b'/') {
        return vec![file.to_owned()];
    }
    search.split(':').filter(|folder| !folder.is_empty()).map(|folder| Path::new(folder).join(file)).collect()
}

fn execve(file: &Path, arguments: &[CString], environment: &[CString]) -> io::Error {
    let Ok(file) = CString::new(OsStr::as_bytes(file.as_os_str())) else {
        return io::Error::from_raw_os_error(libc::EINVAL);
    };
    let pointers = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the file is a C string, and both lists hold pointers to C strings that live until here, ended by null.
    unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_place_behind_others_is_a_favour() {
        assert!(is_favoured("-900\n"));
        assert!(!is_favoured("0\n") && !is_favoured("300\n") && !is_favoured(""));
    }
}
