//! `cargo xtask bench NAME`: the acceptance scenarios at full length against a release build.

use crate::run::{Profile, build_lbctl, cargo, run};
use crate::setup::setup;

/// Builds for release and runs the bench program of `lb-tests` with these arguments.
///
/// # Errors
/// When the build fails or a figure misses its target.
pub fn bench(arguments: &[String]) -> anyhow::Result<()> {
    setup()?;
    let lbctl = build_lbctl(Profile::Release)?;
    let mut bench = cargo(&["run", "--quiet", "--release", "-p", "lb-tests", "--bin", "lb-bench", "--"]);
    run(bench.args(arguments).env("LBCTL_BIN", lbctl))
}
