//! Installs what the tests need and this machine lacks: Debian packages, and a Python environment under target/.

use std::path::PathBuf;

use anyhow::Context;

use crate::run::{as_root, command, run, succeeds, target};

/// A Debian package and a program of it by which we see that it is there.
struct Package {
    name: &'static str,
    program: &'static str,
}

/// What the end-to-end tests run beside lbctl.
const PACKAGES: [Package; 8] = [
    Package { name: "nginx-light", program: "nginx" },
    Package { name: "haproxy", program: "haproxy" },
    Package { name: "python3", program: "python3" },
    Package { name: "util-linux", program: "setpriv" },
    Package { name: "iproute2", program: "ip" },
    Package { name: "nftables", program: "nft" },
    Package { name: "ethtool", program: "ethtool" },
    Package { name: "tcpdump", program: "tcpdump" },
];

/// Python packages of the tests' environment.
const PYTHON_PACKAGES: [&str; 1] = ["gunicorn==23.0.0"];

/// Installs what is missing.
///
/// # Errors
/// When apt-get or pip fail.
pub fn setup() -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        PACKAGES.iter().filter(|package| !is_there(package.program)).map(|package| package.name).collect();
    if !succeeds(command("python3").args(["-c", "import venv, ensurepip"])) {
        missing.push("python3-venv");
    }
    apt_install(&missing)?;
    python_environment()
}

/// Installs Debian packages, if any are named.
///
/// # Errors
/// When apt-get fails.
pub fn apt_install(names: &[&str]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    run(as_root("apt-get").args(["update", "-qq"])).context("apt-get update")?;
    let mut install = as_root("env");
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "-qq",
        "--no-install-recommends",
    ]);
    run(install.args(names)).with_context(|| format!("installing {}", names.join(" ")))
}

/// Where the Python environment is; tests look for it there.
fn venv() -> PathBuf {
    target().join("venv")
}

fn python_environment() -> anyhow::Result<()> {
    if succeeds(command(venv().join("bin/python")).args(["-c", "import gunicorn"])) {
        return Ok(());
    }
    run(command("python3").args(["-m", "venv", "--clear"]).arg(venv()))
        .context("making the Python environment")?;
    let mut pip = command(venv().join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PYTHON_PACKAGES);
    run(&mut pip).context("installing Python packages")
}

/// Whether a program is in `PATH` or in one of the folders of root.
fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| PathBuf::from(folder).join(program).is_file())
}
