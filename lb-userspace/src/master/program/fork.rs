//! Fork of the exec shim: a process that is in its cgroup from its first moment, and its pidfd.
//!
//! Effectful. `clone3` with `CLONE_INTO_CGROUP` and not a write to `cgroup.procs`: the write takes a lock that waits for an
//! RCU grace period (measured: 29 µs in a burst, 16 ms when it is the first for a while, 2026-10), and the loop waits with it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::master::packet;
use crate::master::program::cgroup::Leaf;
use crate::master::program::exec_shim::{Failure, NOT_EXECUTED, SPEC_BYTES_MAX, Spec};
use crate::master::program::life::end_unwatched;
use crate::master::watched::watched;

/// How the shim is called: our own program, so that it is always the master's own version.
#[derive(Clone, Debug)]
pub struct Shim {
    path: CString,
    arguments: Vec<CString>,
}

impl Default for Shim {
    fn default() -> Self {
        Self { path: c"/proc/self/exe".into(), arguments: vec![c"lbctl".into(), c"__exec".into()] }
    }
}

/// A new process.
pub struct Forked {
    /// Its process id, which the program will keep.
    pub pid: u32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Its shim, which waits to be told what to run.
    pub waiting: Waiting,
}

/// The socket to a shim that waits.
pub struct Waiting {
    socket: OwnedFd,
}

/// A program that is being executed: its shim answers on this socket, or closes it by succeeding.
pub struct Released {
    socket: OwnedFd,
}

#[cfg(test)]
impl Shim {
    /// A test's own program in the shim's place.
    pub fn of_test(arguments: &[&str]) -> Self {
        let text = |word: &&str| CString::new(*word).expect("a literal without a zero byte");
        Self { path: c"/proc/self/exe".into(), arguments: arguments.iter().map(text).collect() }
    }
}

impl Shim {
    /// Starts a shim with these outputs in this cgroup. It does nothing until [`Waiting::release`].
    ///
    /// # Errors
    /// What the operating system says: too many processes, no memory, no permission for the cgroup.
    pub fn fork(&self, outputs: [BorrowedFd<'_>; 2], leaf: Option<&Leaf>) -> io::Result<Forked> {
        let (ours, theirs) = packet::pair()?;
        let mut arguments = self.arguments.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        arguments.push(std::ptr::null());
        let plan = ChildPlan {
            path: self.path.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: [std::ptr::null()],
            descriptors: [theirs.as_raw_fd(), outputs[0].as_raw_fd(), outputs[1].as_raw_fd()],
        };
        let (pid, pidfd) = clone_into(&plan, leaf).or_else(|error| match error.raw_os_error() {
            // Containers forbid clone3 so that libc falls back; so do we.
            Some(libc::ENOSYS | libc::EPERM | libc::EINVAL | libc::E2BIG) => plain_fork(&plan, leaf),
            _ => Err(error),
        })?;
        Ok(Forked { pid, pidfd, waiting: Waiting { socket: ours } })
    }
}

impl Waiting {
    /// Tells the shim what to run. The descriptors become 3, 4, … of the program.
    ///
    /// # Errors
    /// When command and environment are longer than [`SPEC_BYTES_MAX`], or the shim is gone.
    pub fn release(self, spec: &Spec, passed: &[BorrowedFd<'_>]) -> io::Result<Released> {
        let bytes = serde_json::to_vec(spec)?;
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "command and environment are too long"));
        }
        packet::send(&self.socket, &bytes, passed)?;
        Ok(Released { socket: self.socket })
    }
}

impl Released {
    /// Waits until the program is executed.
    ///
    /// # Errors
    /// What the shim could not do: `exec /usr/bin/x: No such file or directory`.
    pub async fn executed(self) -> Result<(), String> {
        let socket = watched(self.socket).map_err(|error| format!("watch the exec shim: {error}"))?;
        let mut buffer = [0; 4096];
        loop {
            let mut ready =
                socket.readable().await.map_err(|error| format!("watch the exec shim: {error}"))?;
            match packet::receive(socket.get_ref(), &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok((0, _)) => return Ok(()),
                // The shim was killed before it read its orders: the pidfd tells how.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(format!("read from the exec shim: {error}")),
                Ok((length, _)) => return Err(reported(&buffer[..length])),
            }
        }
    }
}

fn reported(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Failure>(bytes) {
        Ok(failure) => format!("{}: {}", failure.step, failure.why),
        Err(_) => "exec of the exec shim itself failed".to_owned(),
    }
}

/// All that the child needs between fork and exec, where nothing may be allocated.
struct ChildPlan {
    path: *const libc::c_char,
    arguments: *const *const libc::c_char,
    environment: [*const libc::c_char; 1],
    descriptors: [RawFd; 3],
}

impl ChildPlan {
    /// The child's life: three descriptors, exec. Calls nothing that is not async-signal-safe.
    fn execute(&self) -> ! {
        for (target, source) in self.descriptors.iter().enumerate() {
            // SAFETY: dup2 takes any numbers; the child replaces its own standard descriptors. None of the sources is one
            // of the targets (the standard library opens 0 to 2 at start when they are closed, so ours are higher),
            // except where stdout or stderr is handed on as itself, which dup2 leaves alone.
            unsafe { libc::dup2(*source, target as RawFd) };
        }
        // SAFETY: path, arguments and environment are null-ended C strings and lists that the parent's copy keeps alive.
        unsafe { libc::execve(self.path, self.arguments, self.environment.as_ptr()) };
        let report = b"exec";
        // SAFETY: descriptor 0 is the socket to the master and `report` is four readable bytes.
        unsafe { libc::write(0, report.as_ptr().cast(), report.len()) };
        // SAFETY: _exit ends the process without running anything of the parent's.
        unsafe { libc::_exit(NOT_EXECUTED) }
    }
}

/// `struct clone_args` of linux/sched.h, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn clone_into(plan: &ChildPlan, leaf: Option<&Leaf>) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..Default::default()
    };
    if let Some(leaf) = leaf {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = leaf.directory().as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and a stack this is fork: the child has a copy of our memory and returns here too. It does
    // only what is allowed after fork in a process with threads (`ChildPlan::execute`).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) };
    match pid {
        0 => plan.execute(),
        1.. => {
            // SAFETY: the kernel stored a new descriptor (closed on exec) in `pidfd`, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((pid as u32, pidfd))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn plain_fork(plan: &ChildPlan, leaf: Option<&Leaf>) -> io::Result<(u32, OwnedFd)> {
    // SAFETY: as in `clone_into`.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => plan.execute(),
        1.. => {
            let process = rustix::process::Pid::from_raw(pid).expect("fork returned a positive pid");
            // Not reaped yet, so the number cannot mean another process.
            let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty());
            let placed = pidfd.map_err(io::Error::from).and_then(|pidfd| {
                leaf.map_or(Ok(()), |leaf| leaf.take_in(pid as u32))?;
                Ok((pid as u32, pidfd))
            });
            placed.inspect_err(|_| end_unwatched(pid as u32))
        }
        _ => Err(io::Error::last_os_error()),
    }
}
