//! The run folder: one master at a time in it, a record of what runs, and the end of what a killed master left running.
//!
//! Effectful: files, locks, signals. Nothing is ended on the word of a bare pid: a cgroup is ours by its name, a process by its
//! pid together with the time at which it was started.

#![expect(
    clippy::disallowed_methods,
    reason = "files of the run folder and of /proc are read and written here"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use super::program::cgroup;
use crate::config::model::Log;

/// Time for left-over processes to go after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// The run folder, locked.
pub struct RunDir {
    path: PathBuf,
    lock: File,
    written: Record,
}

/// `state.json`: what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The master.
    pub master_pid: u32,
    /// The product's cgroup.
    pub cgroup: Option<PathBuf>,
    /// Workers and instances.
    pub processes: Vec<RecordedProcess>,
}

/// A process that may be told from a later one with the same pid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedProcess {
    /// `docs:0`, `worker`.
    pub name: String,
    /// Its pid, which is its process group and session too.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: when it was started, in clock ticks since boot.
    pub start_ticks: u64,
}

impl RunDir {
    /// Makes the folder where needed and locks it.
    ///
    /// # Errors
    /// Another master is in it (its pid is named), the folder cannot be made, or others may change it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("create run folder {}", path.display()))?;
        refuse_strange(path).with_context(|| format!("run folder {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("run folder {}", path.display()))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&file)
            .with_context(|| format!("open {}", file.display()))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "unknown".into() } else { holder.trim().to_owned() };
            anyhow::bail!("run folder {}: another master is in it (pid {holder})", path.display());
        }
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Self { path, lock, written: Record::default() })
    }

    /// The folder, canonical.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The audit log: where the configuration says, else in the folder.
    pub fn audit_log(&self, log: &Log) -> PathBuf {
        log.audit.clone().unwrap_or_else(|| self.path.join("audit.log"))
    }

    fn record_file(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Ends what a killed master left, and removes its files. Of its cgroups only `ours` stays, empty. Tells what it ended.
    ///
    /// # Errors
    /// Something is still there after it was killed.
    pub async fn clean(&self, ours: Option<&Path>) -> anyhow::Result<Vec<String>> {
        let record = self.read_record();
        let mut ended = Vec::new();
        for product in cgroup::product_folders(&self.path).into_iter().chain(record.cgroup.clone()) {
            let is_ours = ours == Some(&product);
            if !product.is_dir() || is_ours && !cgroup::holds_leaves(&product) {
                continue;
            }
            let emptied = match is_ours {
                true => cgroup::empty_tree(&product).await,
                false => cgroup::remove_tree(&product).await,
            };
            emptied.with_context(|| format!("end what an earlier master left in {}", product.display()))?;
            ended.push(format!("cgroup {}", product.display()));
        }
        // A cgroup held them all.
        let loose = record.processes.iter().filter(|_| record.cgroup.is_none());
        for process in loose {
            if process.end().await.with_context(|| format!("end {} pid {}", process.name, process.pid))? {
                ended.push(format!("{} pid {}", process.name, process.pid));
            }
        }
        self.remove_files()?;
        Ok(ended)
    }

    fn read_record(&self) -> Record {
        let text = fs::read_to_string(self.record_file()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Writes what runs now, where it differs from what was written last.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn record(&mut self, record: Record) -> io::Result<()> {
        if record == self.written {
            return Ok(());
        }
        let new = self.path.join("state.json.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&new)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        fs::rename(new, self.record_file())?;
        self.written = record;
        Ok(())
    }

    /// Leaves the folder as it was, but for the audit log and the empty lock file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn close(self) -> io::Result<()> {
        self.remove_files()?;
        self.lock.set_len(0)
    }

    /// Leaves the record too: something of it is still there, and the next master is to end it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn leave(self) -> io::Result<()> {
        remove(&self.control_socket())?;
        self.lock.set_len(0)
    }

    /// Leaves everything as it was found: nothing of an earlier master was ended.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn leave_alone(self) -> io::Result<()> {
        self.lock.set_len(0)
    }

    fn remove_files(&self) -> io::Result<()> {
        remove(&self.control_socket())?;
        remove(&self.record_file())
    }
}

/// Whoever may write to the folder may take the place of everything in it, and what lies in `/tmp` anybody may have made.
fn refuse_strange(path: &Path) -> anyhow::Result<()> {
    // Without a slash at its end, which would follow a link.
    let path = path.components().collect::<PathBuf>();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => {
            anyhow::bail!("it is no folder but a link or a file: name the folder itself")
        }
        folder => folder?,
    };
    let found = rustix::fs::fstat(&folder)?;
    let own = rustix::process::geteuid().as_raw();
    let owner = found.st_uid;
    anyhow::ensure!(owner == own, "it belongs to uid {owner} and not to uid {own}, which we run as");
    anyhow::ensure!(found.st_mode & 0o022 == 0, "others may write to it: `chmod go-w {}`", path.display());
    Ok(())
}

/// Removes a file that need not be there.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl RecordedProcess {
    /// A process that runs now.
    pub fn of(name: &str, pid: u32) -> Option<Self> {
        Some(Self { name: name.to_owned(), pid, start_ticks: start_ticks(pid)? })
    }

    /// Kills it and its group, if it is still the one that was recorded. Whether it was.
    async fn end(&self) -> io::Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid as i32) else { return Ok(false) };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
        // Compared after the pidfd was opened: it cannot mean another process any more.
        if start_ticks(self.pid) != Some(self.start_ticks) {
            return Ok(false);
        }
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        let ended = super::watched::watched(pidfd)?;
        match tokio::time::timeout(GONE_WITHIN, ended.readable()).await {
            Ok(_) => Ok(true),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "still there two seconds after SIGKILL")),
        }
    }
}

/// When a process was started, in clock ticks since boot (proc(5): field 22 of `stat`).
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn second_master_is_refused_and_told_who_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunDir::open(&folder.path().join("run")).unwrap();
        let error = RunDir::open(&folder.path().join("run")).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        first.close().unwrap();
        RunDir::open(&folder.path().join("run")).unwrap();
    }

    #[test]
    fn folder_that_others_may_change_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        let refused = |words: &str| {
            let error = format!("{:#}", RunDir::open(&folder).map(|_| ()).unwrap_err());
            assert!(error.contains(words), "{error}");
            assert!(!folder.join("lock").exists());
        };
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o775)).unwrap();
        refused("others may write to it: `chmod go-w ");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&folder, Some(65_534), None).expect("needs root: run `cargo xtask test`");
        refused("it belongs to uid 65534");
        fs::remove_dir(&folder).unwrap();
        fs::create_dir(parent.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", &folder).unwrap();
        refused("it is no folder but a link");
        assert!(RunDir::open(&parent.path().join("run/")).is_err());
    }

    #[tokio::test]
    async fn process_that_a_killed_master_left_is_ended_and_another_with_its_pid_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut run_dir = RunDir::open(folder.path()).unwrap();
        let mut left = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let left_record = RecordedProcess::of("docs:0", left.id()).unwrap();
        let mut other_record = RecordedProcess::of("docs:1", other.id()).unwrap();
        other_record.start_ticks -= 1;
        run_dir
            .record(Record { master_pid: 1, cgroup: None, processes: vec![left_record, other_record] })
            .unwrap();
        fs::write(run_dir.control_socket(), "").unwrap();
        assert_eq!(run_dir.clean(None).await.unwrap(), [format!("docs:0 pid {}", left.id())]);
        left.wait().unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!run_dir.control_socket().exists() && !run_dir.record_file().exists());
    }

    #[tokio::test]
    async fn cgroup_that_a_killed_master_left_is_emptied_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(folder.path()).unwrap();
        let cgroups = cgroup::Cgroups::set_up(run_dir.path());
        let Some(leaf) = cgroups.leaf("docs.0.1").unwrap() else { return };
        let mut left = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        leaf.take_in(left.id()).unwrap();
        // A test has no init that reaps: someone must, or the cgroup stays.
        let reaped = std::thread::spawn(move || left.wait().unwrap());
        let product = cgroups.product().unwrap();
        let ended = [format!("cgroup {}", product.display())];
        assert_eq!(run_dir.clean(Some(product)).await.unwrap(), ended);
        reaped.join().unwrap();
        assert!(product.exists() && !leaf.path().exists());
        assert_eq!(run_dir.clean(Some(product)).await.unwrap(), [""; 0]);
        run_dir.clean(None).await.unwrap();
        assert!(!product.exists());
    }
}
