//! Every chore of this repository: `cargo xtask --help`.
//!
//! Effectful: chores start programs and read files.

mod bench;
mod ci;
mod ebpf;
mod fuzz;
mod guest;
mod report;
mod run;
mod setup;
mod test;
mod up;

use clap::{Parser, Subcommand};

/// Every chore of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need: Debian packages and a Python environment under target/.
    Setup {
        /// Also what builds the kernel object.
        #[arg(long)]
        ebpf: bool,
    },
    /// Build the kernel object into lb-ebpf/prebuilt.
    Ebpf {
        /// Only compare it with the one that is there.
        #[arg(long)]
        check: bool,
    },
    /// Build lbctl and run it: as root directly, else through sudo.
    Up {
        /// Arguments for `lbctl up`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Set up, build and run all tests.
    Test {
        /// Run only tests whose name holds this.
        filter: Option<String>,
        /// Instead, load and try the kernel programs on this kernel, in a virtual machine: 6.1.
        #[arg(long, conflicts_with = "filter")]
        kernel: Option<String>,
    },
    /// Formatting and lints, warnings denied.
    Lint,
    /// All that must hold before a change lands; the last line counts it.
    Ci,
    /// Measure with a release build; prints figures.
    Bench {
        /// Name of the bench and its options; none lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every fuzz target.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> anyhow::Result<()> {
    run::enter_workspace()?;
    match Arguments::parse().chore {
        Chore::Setup { ebpf: false } => setup::setup(),
        Chore::Setup { ebpf: true } => setup::setup().and_then(|()| ebpf::install()),
        Chore::Ebpf { check } => ebpf::ebpf(check),
        Chore::Up { arguments } => up::up(&arguments),
        Chore::Test { kernel: Some(kernel), .. } => guest::chore(&kernel),
        Chore::Test { filter, .. } => test::chore(filter.as_deref()),
        Chore::Lint => ci::lint(),
        Chore::Ci => ci::ci(),
        Chore::Bench { arguments } => bench::bench(&arguments),
        Chore::Fuzz { seconds } => fuzz::fuzz(seconds),
    }
}
