//! `cargo xtask up`: builds as the user, runs as root where that is possible.

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use anyhow::Context;

use crate::run::{Profile, as_root, build_lbctl};

/// Becomes `lbctl up`.
///
/// # Errors
/// When the build fails or the program cannot be started.
pub fn up(arguments: &[String]) -> anyhow::Result<()> {
    let lbctl = build_lbctl(Profile::Release)?;
    let lbctl = lbctl.to_str().context("the path of the workspace is not text")?;
    let mut up = as_root(lbctl);
    Err(up.arg("up").args(arguments).stdin(Stdio::inherit()).exec()).context("starting lbctl up")
}
