//! The cgroup of one life of one process: who belongs to it, what it may use, and its end.
//!
//! Effectful: writes the cgroup file system.

#![expect(clippy::disallowed_methods, reason = "the cgroup file system is read and written here")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::{make_folder, remove_leaves};
use crate::config::model::Limits;

/// Microseconds of the period that `cpu.max` counts in; the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The cgroup of one life of one process. Its folder goes with it, if nothing is in it.
pub struct Leaf {
    path: PathBuf,
    directory: OwnedFd,
    id: u64,
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // Nothing came of it, or it was removed before; what is still in it, the end of the product's cgroup ends.
        let _ = fs::remove_dir(&self.path);
    }
}

impl Leaf {
    /// Makes its folder.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        make_folder(&path)?;
        Self::open(&path).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })
    }

    fn open(path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
        // On a 64-bit kernel the inode number of a cgroup is its id, as `bpf_get_current_cgroup_id` gives it.
        let id = rustix::fs::fstat(&directory)?.st_ino;
        Ok(Self { path: path.to_owned(), directory, id })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder, for `CLONE_INTO_CGROUP`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// What kernel programs call it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sets what can be limited here.
    ///
    /// # Errors
    /// What the operating system says; a controller that is not there is no error (see
    /// [`Cgroups::lost_limits`](super::Cgroups::lost_limits)).
    pub fn limit(&self, limits: &Limits) -> io::Result<()> {
        if let Some(bytes) = limits.memory_bytes {
            self.set("memory.max", &bytes.to_string())?;
            // Swapping a backend to death is no better than ending it.
            self.set("memory.swap.max", "0")?;
            self.set("memory.oom.group", "1")?;
        }
        if let Some(cores) = limits.cpu_cores {
            let quota_us = (cores * CPU_PERIOD_US as f64).max(1_000.0) as u64;
            self.set("cpu.max", &format!("{quota_us} {CPU_PERIOD_US}"))?;
        }
        if let Some(pids) = limits.pids {
            self.set("pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        match fs::write(self.path.join(file), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && !self.path.join(file).exists() =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Puts a process into it; the slow way, where `CLONE_INTO_CGROUP` does not work.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn take_in(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Ends everything in it, forks in progress included.
    ///
    /// # Errors
    /// What the operating system says (Linux before 5.14 has no `cgroup.kill`).
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether a process, not yet reaped ones aside, is in it.
    pub fn is_populated(&self) -> bool {
        self.number("cgroup.events", "populated") == Some(1)
    }

    /// How often the kernel ended something in it for memory.
    pub fn oom_kills(&self) -> u64 {
        self.number("memory.events", "oom_kill").unwrap_or(0)
    }

    fn number(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the operating system says: `ResourceBusy` while something is in it.
    pub fn remove(&self) -> io::Result<()> {
        remove_leaves(&self.path)?;
        fs::remove_dir(&self.path)
    }
}
