//! The command line of the demonstration's backend.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// A small HTTP server to play with: / /health /slow?ms= /headers /bytes?n= /echo /ws /fail[?exit=1] /close-listener[?for_ms=]
#[derive(Debug, Parser)]
#[command(name = "lbctl demo-backend")]
pub(super) struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: IpAddr,
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 8081)]
    pub(super) port: u16,
    /// Listen on a unix socket instead
    #[arg(long, value_name = "unix:PATH", value_parser = unix_path)]
    pub(super) listen: Option<PathBuf>,
    /// Wait so long before listening
    #[arg(long, value_name = "MS", default_value_t = 0)]
    start_delay_ms: u64,
    /// Name in the answers
    #[arg(long, env = "INSTANCE", default_value = "-")]
    pub(super) instance: String,
}

impl Arguments {
    /// How long to wait before listening.
    pub(super) fn start_delay(&self) -> Duration {
        Duration::from_millis(self.start_delay_ms)
    }

    /// Where it listens, for people.
    pub(super) fn place(&self) -> String {
        match &self.listen {
            Some(path) => format!("unix:{}", path.display()),
            None => std::net::SocketAddr::from((self.host, self.port)).to_string(),
        }
    }
}

/// The path of `unix:/path`.
fn unix_path(text: &str) -> Result<PathBuf, String> {
    text.strip_prefix("unix:").map(PathBuf::from).ok_or_else(|| "must begin with unix:".to_owned())
}
