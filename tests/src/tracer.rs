//! A tracer, as a debugger is one: a process that keeps another from being reaped, or from ending at all.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions};

/// What the tracer keeps the process from.
#[derive(Clone, Copy, Debug)]
pub enum Keeps {
    /// Its parent does not get its status: it ends, and stays a zombie.
    Unreaped,
    /// It stops at the door: killed, it does not end.
    Unended,
}

/// Traces one process for as long as it lives.
pub struct Tracer {
    pid: Pid,
}

impl Tracer {
    /// Begins to trace.
    ///
    /// # Panics
    /// When the process cannot be traced: this needs root.
    pub fn of(traced: u32, keeps: Keeps) -> Self {
        let (read, write) = rustix::pipe::pipe().expect("a pipe can be made");
        // SAFETY: the child of this process, which may have threads, calls only what is async-signal-safe (`trace`).
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            trace(traced, keeps, &write);
        }
        drop(write);
        let mut told = [1];
        let length = rustix::io::read(&read, &mut told).expect("the tracer says how it went");
        assert_eq!((length, told), (1, [0]), "pid {traced} cannot be traced: run `cargo xtask test` as root");
        Self { pid: Pid::from_raw(pid).expect("fork returned a positive pid") }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The tracer's life: attaches, says how it went, and waits for its own end.
fn trace(traced: u32, keeps: Keeps, told: &OwnedFd) -> ! {
    let options = match keeps {
        Keeps::Unreaped => 0,
        Keeps::Unended => libc::PTRACE_O_TRACEEXIT,
    };
    // SAFETY: PTRACE_SEIZE takes numbers only.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, traced as libc::pid_t, 0, options) };
    let answer = [u8::from(result != 0)];
    // SAFETY: the descriptor is open, and the byte is readable.
    unsafe { libc::write(told.as_raw_fd(), answer.as_ptr().cast(), 1) };
    loop {
        // SAFETY: pause only waits for a signal.
        unsafe { libc::pause() };
    }
}
