//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The `lbctl` program of the same profile as the running test: `$LBCTL_BIN`, or built now.
pub fn lbctl() -> &'static Path {
    static LBCTL: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("LBCTL_BIN") {
        Some(path) => PathBuf::from(path),
        None => built("lb-userspace", "lbctl"),
    });
    &LBCTL
}

/// The program with known habits that tests let lbctl supervise (`program.rs`).
pub fn test_program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let beside = profile_folder().join("lb-test-program");
        if beside.is_file() { beside } else { built("lb-tests", "lb-test-program") }
    });
    &PROGRAM
}

/// The Python environment that `cargo xtask setup` makes.
pub fn venv() -> PathBuf {
    profile_folder().parent().expect("a profile folder lies in the target folder").join("venv")
}

/// `target/debug` or `target/release`: test executables lie in it or in its `deps`.
fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    let folder = own.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps lies in a folder").to_owned()
    } else {
        folder.to_owned()
    }
}

fn built(package: &str, program: &str) -> PathBuf {
    let folder = profile_folder();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "-p", package, "--bin", program]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo can be started");
    assert!(status.success(), "building {program} failed; `cargo xtask test` builds it first");
    folder.join(program)
}
