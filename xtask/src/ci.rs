//! `cargo xtask ci`: all that must hold before a change lands.

use anyhow::Context;

use crate::ebpf;
use crate::fuzz;
use crate::guest;
use crate::report::Report;
use crate::run::{cargo, run};
use crate::test;

/// The chore. Every step runs even when one before it failed.
///
/// # Errors
/// When a step failed.
pub fn ci() -> anyhow::Result<()> {
    let mut report = Report::default();
    report.step("format", format);
    report.step("clippy", clippy);
    report.step("fuzz targets", fuzz::lint);
    report.step("documentation", documentation);
    report.step("tool chain of the kernel object", ebpf::install);
    report.step("kernel object", || ebpf::ebpf(true));
    test::tests(&mut report, None);
    guest::tests(&mut report, "6.1");
    report.finish()
}

/// Formatting and lints only.
///
/// # Errors
/// At the first that does not hold.
pub fn lint() -> anyhow::Result<()> {
    format()?;
    clippy()?;
    documentation()
}

fn format() -> anyhow::Result<()> {
    run(&mut cargo(&["fmt", "--all", "--", "--check"])).context("run `cargo fmt --all`")
}

fn clippy() -> anyhow::Result<()> {
    // The workspace's default members: the kernel object and the fuzz targets have builds of their own.
    run(&mut cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> anyhow::Result<()> {
    let mut doc = cargo(&["doc", "--no-deps", "--document-private-items"]);
    run(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
}
