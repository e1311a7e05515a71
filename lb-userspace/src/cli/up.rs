//! `lbctl up`: becomes the master. Starts its runtime and looks which configuration there is.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::banner::{Reach, banner};
use super::commands::print;
use super::exit::{CommandError, Exit};
use crate::demo;
use crate::master::{self, ConfigSource, Options};

/// The configuration file that is used where none is named.
pub const CONFIG_DEFAULT: &str = "/etc/lbctl/lb.toml";

/// Runs the master until it is told to end. `reach` is what the banner's commands need to reach it.
///
/// # Errors
/// What kept it from starting.
pub fn up(config: Option<&Path>, run_dir: PathBuf, reach: &Reach<'_>) -> Result<Exit, CommandError> {
    let options = Options { config: source(config)?, run_dir };
    // One thread: parent-death signals follow the thread that forked.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let code = runtime.block_on(master::run(options, |started| {
        // The banner is for a person who watches; where nobody reads it the node runs all the same, and nobody waits for the end of this.
        let banner = banner(started, reach);
        let _ = std::thread::Builder::new().name("banner".into()).spawn(move || print(&banner));
    }));
    // A thread that reads the configuration may hang: the process ends without it.
    runtime.shutdown_background();
    let code = code?;
    Ok(if code == std::process::ExitCode::SUCCESS { Exit::Fine } else { Exit::Failed })
}

/// The file that was named, else the default one where it exists, else the demonstration.
fn source(config: Option<&Path>) -> anyhow::Result<ConfigSource> {
    if let Some(path) = config {
        return Ok(ConfigSource::File(path.to_owned()));
    }
    if Path::new(CONFIG_DEFAULT).exists() {
        return Ok(ConfigSource::File(CONFIG_DEFAULT.into()));
    }
    log::info!("no {CONFIG_DEFAULT} and no -c FILE: running the built-in demonstration");
    let executable = std::env::current_exe().context("find the path of this program")?;
    let user = (rustix::process::geteuid().is_root() && open_to_all(&executable)).then_some("nobody");
    let text = demo::config::text(&executable, user);
    Ok(ConfigSource::Embedded { name: demo::config::NAME.to_owned(), text })
}

/// Whether every user may execute the file at `path`: a build in somebody's home often may not be.
fn open_to_all(path: &Path) -> bool {
    const EXECUTE_BY_OTHERS: u32 = 0o001;
    let open = |path: &Path| path.metadata().is_ok_and(|found| found.mode() & EXECUTE_BY_OTHERS != 0);
    path.ancestors().all(open)
}
