//! The process that keeps output pipes (`program::output::keeper`): started before any program, again when it ends, ended last.
//!
//! Effectful: starts a process.

#![expect(clippy::disallowed_methods, reason = "one that failed is started again after a while")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::inbox::{Inbox, Input};
use super::packet;
use super::program::cgroup::Cgroups;
use super::program::life::Process;
use super::program::output::Outputs;
use super::program::own::{Launched, Own};
use super::run_dir::RecordedProcess;

/// Time before one that has ended is replaced.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The keeper's process.
pub struct Keeper {
    own: Own,
    inbox: Inbox,
    process: Option<Arc<Process>>,
    starts: u64,
}

impl Keeper {
    /// None yet.
    pub fn new(own: Own, inbox: Inbox) -> Self {
        Self { own, inbox, process: None, starts: 0 }
    }

    /// Starts it, and has it told of all pipes, those that are there and those that come.
    ///
    /// # Errors
    /// What kept it from starting. [`Input::StartKeeper`] comes after a while, as it does when it ends.
    pub fn start(&mut self, cgroups: &Cgroups, outputs: &mut Outputs) -> anyhow::Result<()> {
        let started = self.try_start(cgroups, outputs);
        if started.is_err() {
            self.start_again_later(None);
        }
        started
    }

    fn try_start(&mut self, cgroups: &Cgroups, outputs: &mut Outputs) -> anyhow::Result<()> {
        let (ours, theirs) = packet::pair().context("socket pair to the keeper")?;
        let leaf = format!("output.{}", self.starts);
        self.starts += 1;
        let launched = self.own.launch("__output", &leaf, cgroups, &theirs).context("start the keeper")?;
        self.process = Some(launched.process.clone());
        self.start_again_later(Some(launched));
        outputs.keep_by(ours).context("watch the link to the keeper")
    }

    /// When it has ended, or never began, and some time has passed.
    fn start_again_later(&self, launched: Option<Launched>) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let how = match launched {
                Some(launched) => launched.ended().await,
                None => "not started".to_owned(),
            };
            tokio::time::sleep(AGAIN_AFTER).await;
            let _ = inbox.send(Input::StartKeeper { how }).await;
        });
    }

    /// Ends it: no program is left that might write.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// What the run folder's record says of it.
    pub fn recorded(&self) -> Option<RecordedProcess> {
        self.process.as_ref()?.recorded("output")
    }
}
