//! Starting programs: what a chore is made of. Prints each command before it runs.
#![expect(clippy::disallowed_methods, reason = "starting programs is what chores do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Makes the workspace root the current folder, wherever `cargo xtask` was called.
pub fn enter_workspace() -> anyhow::Result<()> {
    std::env::set_current_dir(root()).context("entering the workspace root")
}

/// The workspace root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The command, without standard input.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// The cargo that runs us.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

/// Runs to the end.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    eprintln!("+ {}", written(command));
    let status = command.status().with_context(|| format!("starting {}", written(command)))?;
    ensure!(status.success(), "{}: {status}", written(command));
    Ok(())
}

/// Whether it can be started and exits with 0; its output is not shown.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Whether we are root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// The command as root: itself where we are root, else through sudo.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return command(program);
    }
    let mut sudo = command("sudo");
    sudo.arg(program);
    sudo
}

/// Builds the `lbctl` program and says where it is.
///
/// # Errors
/// When the build fails.
pub fn build_lbctl(profile: Profile) -> anyhow::Result<PathBuf> {
    let mut build = cargo(&["build", "-p", "lb-userspace", "--bin", "lbctl"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    run(&mut build).context("building lbctl")?;
    Ok(target().join(profile.folder()).join("lbctl"))
}

/// A cargo profile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Debug,
    /// Quick to run.
    Release,
}

impl Profile {
    fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

fn written(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
