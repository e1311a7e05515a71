//! `cargo xtask test`: sets up, builds the binary, runs all tests and counts them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::report::{Counts, Report};
use crate::run::{Profile, build_lbctl, cargo, is_root};
use crate::setup::setup;

/// The chore.
///
/// # Errors
/// When a test failed.
pub fn chore(filter: Option<&str>) -> anyhow::Result<()> {
    let mut report = Report::default();
    tests(&mut report, filter);
    report.finish()
}

/// Runs all tests whose name holds `filter` into `report`.
pub fn tests(report: &mut Report, filter: Option<&str>) {
    report.step("setup", setup);
    report.counted("unit tests", || {
        let packages = ["-p", "xtask", "-p", "lb-common", "-p", "lb-userspace"];
        counted(cargo_test().args(packages).arg("--").args(filter))
    });
    report.counted("end-to-end tests", || {
        let lbctl = build_lbctl(Profile::Debug)?;
        let mut test = cargo_test();
        counted(test.args(["-p", "lb-tests", "--", "--test-threads=2"]).args(filter).env("LBCTL_BIN", lbctl))
    });
}

/// `cargo test` whose tests run as root: they need cgroups, BPF and other users. It builds as the user.
fn cargo_test() -> Command {
    let mut test = cargo(&["test", "--no-fail-fast"]);
    if !is_root() {
        test.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E");
        test.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E");
    }
    test
}

/// Runs `cargo test`, shows what it prints and counts its result lines.
fn counted(test: &mut Command) -> anyhow::Result<Counts> {
    let mut child = test.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
    let output = child.stdout.take().expect("standard output is piped");
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading the output of cargo test")?;
        counts.add_line(&line);
        println!("{line}");
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && counts.failed == 0 {
        // It did not build, or a test ended its whole process.
        counts.failed = 1;
    }
    Ok(counts)
}
