//! The command line of `lbctl`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::exit;
use super::steering::endpoint::{self, VipEndpoint};
use crate::config::units::Timespan;

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
    /// Show what the kernel steers: VIPs with packets, bytes and flows per second, and each backend's share
    Vip(Vips),
    /// Say where a flow goes, and why
    Flow {
        /// What about it
        #[command(subcommand)]
        command: FlowCommand,
    },
    /// Write a VIP's frames, with what was decided about each, to a pcapng file for tshark or Wireshark
    Capture(Capture),
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

/// Which VIPs, and how they are shown.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Vips {
    /// Names or addresses of VIPs; all if none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// As JSON, with counts instead of rates
    #[arg(long)]
    pub json: bool,
    /// Again every second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// Something else than showing
    #[command(subcommand)]
    pub command: Option<VipCommand>,
}

/// What else there is to say about a VIP.
#[derive(Debug, Subcommand)]
pub enum VipCommand {
    /// Print the commands that make a host a backend of this VIP: address, tunnel, filters, segment size
    BackendSetup {
        /// Name or address of the VIP
        name: String,
    },
}

/// What to ask about a flow.
#[derive(Debug, Subcommand)]
pub enum FlowCommand {
    /// Say which backend a flow goes to, or would go to if it began now, and why
    Lookup {
        /// Who sends: 192.0.2.7:51000
        #[arg(value_parser = endpoint::client)]
        client: SocketAddr,
        /// To whom: 203.0.113.10:443, 203.0.113.10:443/udp
        #[arg(value_parser = endpoint::vip)]
        vip: VipEndpoint,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// What to capture, and where to.
#[derive(Debug, Args)]
pub struct Capture {
    /// Name or address of the VIP
    pub vip: String,
    /// The file, overwritten if there is one; - for standard output
    #[arg(long, value_name = "FILE")]
    pub pcap: PathBuf,
    /// End after so many frames
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// End after this time: 10s, 5m
    #[arg(long = "for", value_name = "DURATION")]
    pub within: Option<Timespan<1>>,
    /// Only one frame in so many, a power of two
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = power_of_two)]
    pub every: u32,
}

fn power_of_two(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number: &u32| number.is_power_of_two());
    number.ok_or_else(|| "not a power of two: 1, 2, 4, 8, …".to_owned())
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
    fn vip_is_shown_unless_something_else_is_asked() {
        let parse = |words: &[&str]| Arguments::try_parse_from(words).map(|arguments| arguments.command);
        let Ok(Command::Vip(shown)) = parse(&["lbctl", "vip", "web", "--json"]) else { panic!() };
        assert_eq!((shown.names.as_slice(), shown.json), (&["web".to_owned()][..], true));
        let Ok(Command::Vip(setup)) = parse(&["lbctl", "vip", "backend-setup", "web"]) else { panic!() };
        assert!(matches!(setup.command, Some(VipCommand::BackendSetup { name }) if name == "web"));
    }

    #[test]
    fn a_capture_is_bounded_and_its_file_named() {
        let parse = |words: &str| Arguments::try_parse_from(words.split(' '));
        assert!(parse("lbctl capture web --pcap x --count 5 --for 10s --every 8").is_ok());
        assert!(parse("lbctl capture web --count 5").is_err());
        assert!(parse("lbctl capture web --pcap x --count 0").is_err());
        assert!(parse("lbctl capture web --pcap x --every 3").is_err());
        assert!(parse("lbctl capture web --pcap x --for 10").is_err());
    }

    #[test]
    fn stopping_everything_must_be_said() {
        assert!(Arguments::try_parse_from(["lbctl", "stop"]).is_err());
        assert!(Arguments::try_parse_from(["lbctl", "stop", "--all"]).is_ok());
        assert!(Arguments::try_parse_from(["lbctl", "stop", "docs", "docs:1"]).is_ok());
        assert!(Arguments::try_parse_from(["lbctl", "stop", "docs", "--all"]).is_err());
    }
}
