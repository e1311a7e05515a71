//! One network namespace: made, entered, removed.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps namespaces.
const FOLDER: &str = "/run/netns";
/// How names begin; the process id follows.
const PREFIX: &str = "lbtest-";

/// A network namespace of this process, removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, its loopback up. `role` is the end of its name.
    ///
    /// # Errors
    /// Without root or `ip`.
    pub fn new(role: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        let mut add = Command::new("ip");
        finish(add.args(["netns", "add", &name])).context("needs root: run `cargo xtask test`")?;
        let namespace = Self { name };
        namespace.ip(&["link set lo up".to_owned()])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// A program inside. Only the network differs: `ip netns exec` would mount another `/sys`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs `ip` with these lines as one batch.
    ///
    /// # Errors
    /// At the first line that fails, with what `ip` says.
    pub fn ip(&self, lines: &[String]) -> anyhow::Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]);
        feed(&mut ip, &lines.join("\n"))
    }

    /// Runs a program inside to its end, with `input` on its standard input.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
        feed(self.command(program).args(arguments), input)
    }

    /// Runs a program inside to its end.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn succeed(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        finish(self.command(program).args(arguments))
    }

    /// Sets kernel parameters below `/proc/sys/net`.
    ///
    /// # Errors
    /// When the kernel has no such parameter or refuses the value.
    pub fn set(&self, parameters: &[(&str, &str)]) -> anyhow::Result<()> {
        self.run(|| {
            for (name, value) in parameters {
                let path = Path::new("/proc/sys/net").join(name);
                std::fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))?;
            }
            Ok(())
        })
    }

    /// Does `work` in a thread that is inside, and waits for it.
    ///
    /// # Panics
    /// When the work does, or when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let done = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(&path).expect("our namespace can be entered");
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `work` in a thread that is inside.
    ///
    /// # Panics
    /// The thread does when the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = self.path();
        std::thread::spawn(move || {
            enter(&path).expect("our namespace can be entered");
            work()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what processes left that no longer run.
pub fn sweep() {
    for entry in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| crate::process::Process::of(pid).is_none()) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    // One that is gone already needs no more.
    let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
}

/// Only for a thread that does nothing else.
fn enter(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("setns")
}

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {complaint}", output.status);
    Ok(())
}

fn feed(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let piped = command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = piped.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
    child.stdin.take().expect("it is piped").write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
