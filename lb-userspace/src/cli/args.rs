//! The command line of `lbctl`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::exit;

/// A load balancer and process supervisor in one program.
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, max_term_width = 100, after_help = exit::TABLE, arg_required_else_help = true)]
pub struct Arguments {
    /// What all commands understand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What all commands understand.
#[derive(Debug, Args)]
pub struct Global {
    /// Folder of the control socket and of what the master remembers; one master for each.
    /// [default: /run/lbctl as root, else lbctl in $XDG_RUNTIME_DIR, else /tmp/lbctl-UID]
    #[arg(long, global = true, env = "LBCTL_RUN_DIR", value_name = "DIR", hide_env_values = true)]
    pub run_dir: Option<PathBuf>,
    /// Configuration file.
    /// [default: /etc/lbctl/lb.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the master in the foreground; without a configuration file, the built-in demonstration
    Up,
    /// Check the configuration file: every error with its place, and what is legal but looks wrong
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show instances and backends: what they are, and why
    Status {
        /// Which
        #[command(flatten)]
        names: Names,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Drain, stop and wait until stopped
    Stop {
        /// Which
        #[command(flatten)]
        names: Selection,
        /// Without draining
        #[arg(long)]
        now: bool,
    },
    /// Start and wait until ready
    Start {
        /// Which
        #[command(flatten)]
        names: Selection,
    },
    /// Restart one instance after the other, each drained first
    Restart {
        /// Which
        #[command(flatten)]
        names: Selection,
        /// All at once, without draining
        #[arg(long)]
        now: bool,
    },
    /// Take out of rotation but keep running; static backends too: UPSTREAM/ADDRESS
    Drain {
        /// Which
        #[command(flatten)]
        names: Selection,
    },
    /// Put back into rotation
    Undrain {
        /// Which
        #[command(flatten)]
        names: Selection,
    },
    /// Read the configuration file again and apply it; an invalid one changes nothing
    Reload,
    /// Show what programs wrote to stdout and stderr
    Logs {
        /// Which
        #[command(flatten)]
        names: Names,
        /// How much
        #[command(flatten)]
        tail: Tail,
    },
    /// Show what happened: every change with its cause and who caused it
    Events {
        /// How much
        #[command(flatten)]
        tail: Tail,
    },
    /// Show what this host allows, what is in use, why, and what to change
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration file
    Schema,
    /// Print a completion script: `source <(lbctl completions bash)`
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// Which instances; all if none is named.
#[derive(Debug, Args)]
pub struct Names {
    /// Programs (docs) or instances (docs:0); all if none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Which instances; all only if that is said.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Selection {
    /// Programs (docs) or instances (docs:0)
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Everything
    #[arg(long)]
    pub all: bool,
}

/// Which part of a log.
#[derive(Debug, Args)]
pub struct Tail {
    /// Go on with what comes from now
    #[arg(short, long)]
    pub follow: bool,
    /// The last so many lines
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 20)]
    pub lines: usize,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_dir_may_follow_the_command() {
        let arguments = Arguments::try_parse_from(["lbctl", "status", "--run-dir", "/x"]).unwrap();
        assert_eq!(arguments.global.run_dir, Some(PathBuf::from("/x")));
    }

    #[test]
    fn stopping_everything_must_be_said() {
        assert!(Arguments::try_parse_from(["lbctl", "stop"]).is_err());
        assert!(Arguments::try_parse_from(["lbctl", "stop", "--all"]).is_ok());
        assert!(Arguments::try_parse_from(["lbctl", "stop", "docs", "docs:1"]).is_ok());
        assert!(Arguments::try_parse_from(["lbctl", "stop", "docs", "--all"]).is_err());
    }
}
