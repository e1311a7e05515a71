//! Our own program in another role: the worker, and the keeper of output pipes. Started through the exec shim as programs are.
//!
//! Effectful: forks.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;

use super::cgroup::Cgroups;
use super::exec_shim::{Identity, Spec};
use super::fork::{Released, Shim};
use super::life::{Process, describe};

/// What every process of our own is started with.
#[derive(Clone, Debug)]
pub struct Own {
    /// How to fork.
    pub shim: Shim,
    /// Who it runs as; `None`: as the master.
    pub identity: Option<Identity>,
    /// Its RLIMIT_NOFILE.
    pub open_files: u64,
    /// Its nice value.
    pub priority: i32,
    /// Its environment.
    pub environment: Vec<(String, String)>,
}

/// A process that is about to be what it was started for.
pub struct Launched {
    /// The process.
    pub process: Arc<Process>,
    released: Released,
}

impl Own {
    /// Starts `lbctl ROLE` in a leaf of this name, with `link` as descriptor 3 and our standard error for all that it prints.
    ///
    /// # Errors
    /// What kept it from starting.
    pub fn launch(
        &self,
        role: &str,
        leaf: &str,
        cgroups: &Cgroups,
        link: &OwnedFd,
    ) -> anyhow::Result<Launched> {
        let leaf = cgroups.leaf(leaf).context("create its cgroup")?;
        let errors = rustix::stdio::stderr();
        let forked = self.shim.fork([errors, errors], leaf.as_ref()).context("fork")?;
        let process = Process::new(forked.pid, forked.pidfd, leaf).context("watch the process")?;
        let spec = Spec {
            executable: Some("/proc/self/exe".into()),
            command: vec!["lbctl".into(), role.into()],
            environment: self.environment.clone(),
            directory: None,
            identity: self.identity.clone(),
            umask: 0o027,
            open_files: (self.open_files, self.open_files),
            no_new_privileges: true,
            outlives_reader: false,
            priority: self.priority,
            passed: 1,
        };
        let released = forked.waiting.release(&spec, &[link.as_fd()]).map_err(|error| {
            process.clone().abandon();
            anyhow::Error::from(error).context("release the exec shim")
        })?;
        Ok(Launched { process, released })
    }
}

impl Launched {
    /// Waits for its end, and tells in words how it came to it.
    pub async fn ended(self) -> String {
        let Self { process, released } = self;
        let failure = process.executed(released).await.err();
        if failure.is_some() {
            process.kill();
        }
        if let Err(error) = process.ended(|| {}).await {
            log::error!("pidfd not watched pid={} reason=\"{error}\"", process.pid);
        }
        let ending = process.reap().await;
        failure.unwrap_or_else(|| describe(ending))
    }
}
