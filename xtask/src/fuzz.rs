//! `cargo xtask fuzz`: every fuzz target of tests/fuzz for a given time.

use anyhow::{Context, ensure};

use crate::report::Report;
use crate::run::{cargo, command, root, run, succeeds};
use crate::setup::apt_install;

/// Runs each target for `seconds`.
///
/// # Errors
/// When one finds an input that fails, or cannot be built.
pub fn fuzz(seconds: u64) -> anyhow::Result<()> {
    if !succeeds(command("cargo-fuzz").arg("--version")) {
        run(&mut cargo(&["install", "--locked", "cargo-fuzz"])).context("installing cargo-fuzz")?;
    }
    install_compiler()?;
    let mut report = Report::default();
    for target in targets()? {
        report.step(&target, || fuzz_one(&target, seconds));
    }
    report.finish()
}

/// Whether all targets still build, without running them.
///
/// # Errors
/// When one does not, or has a lint.
pub fn lint() -> anyhow::Result<()> {
    install_compiler()?;
    run(&mut cargo(&["clippy", "-p", "lb-fuzz", "--bins", "--", "-D", "warnings"]))
}

/// libFuzzer is C++.
fn install_compiler() -> anyhow::Result<()> {
    if succeeds(command("c++").arg("--version")) { Ok(()) } else { apt_install(&["g++"]) }
}

/// The targets: one file each in tests/fuzz/fuzz_targets.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".rs")).map(str::to_owned));
    }
    ensure!(!names.is_empty(), "no fuzz target in {}", folder.display());
    names.sort();
    Ok(names)
}

/// The sanitizers need a nightly compiler; coverage alone does not, and our code has next to no `unsafe`.
fn fuzz_one(target: &str, seconds: u64) -> anyhow::Result<()> {
    let corpus = format!("tests/fuzz/corpus/{target}");
    std::fs::create_dir_all(&corpus).with_context(|| format!("making {corpus}"))?;
    let mut fuzz = command("cargo-fuzz");
    fuzz.args(["run", "--sanitizer", "none", "--fuzz-dir", "tests/fuzz", target, &corpus]);
    // Inputs that a test of the same name has are seeds.
    let seeds = format!("tests/fixtures/{target}");
    fuzz.args(std::path::Path::new(&seeds).is_dir().then_some(seeds));
    fuzz.args(["--", &format!("-max_total_time={seconds}"), "-rss_limit_mb=4096", "-print_final_stats=1"]);
    run(fuzz.env("CARGO_PROFILE_RELEASE_LTO", "off"))
}
