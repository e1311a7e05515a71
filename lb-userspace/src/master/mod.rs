//! The privileged process: one loop that turns what happens into events, asks `state::step`, and performs the effects.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::control::protocol::{Capability, InstanceStatus};

mod inbox;
pub mod kernel;
mod listeners;
mod packet;
mod port_holder;
mod probe;
pub mod program;
mod run_dir;
mod watched;

/// Where the configuration comes from, at start and at each reload.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// A file, with what it includes.
    File(PathBuf),
    /// Text that is part of the program: the demonstration.
    Embedded {
        /// The name shown in reports.
        name: String,
        /// The configuration.
        text: String,
    },
}

/// What `lbctl up` was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to reach.
    pub config: ConfigSource,
    /// Lock, control socket, audit log and state live here.
    pub run_dir: PathBuf,
}

/// What runs once the start is over: everything is IN, or the start took a second.
#[derive(Clone, Debug)]
pub struct Started {
    /// `[node] name`.
    pub node: String,
    /// `name address` of each listening socket, ports resolved.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Where `/metrics`, `/healthz` and `/readyz` answer.
    pub metrics: Option<SocketAddr>,
    /// Instances of programs as they are now.
    pub instances: Vec<InstanceStatus>,
    /// What of the machine is in use, and what is not and why.
    pub capabilities: Vec<Capability>,
    /// Whether everything that was to start is ready.
    pub ready: bool,
    /// Since [`run`] was called.
    pub took: Duration,
}

/// Runs the node until it is told to end, and returns when nothing of it is left.
///
/// Must run on a current-thread runtime on the main thread.
///
/// # Errors
/// What kept it from starting: an invalid configuration (the rendered report), another master in the run folder, a
/// listening address in use.
pub async fn run(options: Options, on_started: impl FnOnce(&Started)) -> anyhow::Result<ExitCode> {
    let _ = (options, on_started);
    anyhow::bail!("the master's loop has not landed yet")
}
