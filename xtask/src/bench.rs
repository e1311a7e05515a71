//! `cargo xtask bench NAME`: the acceptance scenarios at full length against a release build.

use crate::run::{Profile, build_lbctl, cargo, run};
use crate::setup::setup;

/// Benches of the kernel programs alone.
const WITHOUT_LBCTL: [&str; 3] = ["l4", "agreement", "smoke"];

/// Builds for release and runs the bench program of `lb-tests` with these arguments.
///
/// # Errors
/// When the build fails or a figure misses its target.
pub fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let mut bench = cargo(&["run", "--quiet", "--release", "-p", "lb-tests", "--bin", "lb-bench", "--"]);
    bench.args(arguments);
    if arguments.first().is_none_or(|name| !WITHOUT_LBCTL.contains(&name.as_str())) {
        setup()?;
        bench.env("LBCTL_BIN", build_lbctl(Profile::Release)?);
    }
    run(&mut bench)
}
