//! The control socket: who may ask, what was asked, and the answers of the loop, one JSON line each.
//!
//! Effectful: listens on a unix socket. Every wait has a deadline and every connection a bounded number of bytes; the loop never
//! waits for a client.

#![expect(
    clippy::disallowed_methods,
    reason = "the socket file gets its mode and name here; reads /proc for the audit log"
)]

mod audit;
mod connection;

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;

pub use self::audit::wall_ms;
pub use self::connection::is_last;

use self::audit::Audit;
use self::connection::Connection;
use super::inbox::Inbox;
use super::run_dir::RunDir;
use crate::limits::CONTROL_CONNECTIONS_MAX;

/// Listens; connections are served by tasks of their own.
///
/// # Errors
/// The socket or the audit log cannot be made.
pub fn serve(run_dir: &RunDir, inbox: Inbox) -> io::Result<tokio::task::JoinHandle<()>> {
    let listener = listen(run_dir.path(), &run_dir.control_socket())?;
    let audit = Arc::new(Audit::open(&run_dir.audit_log())?);
    let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    Ok(tokio::spawn(async move {
        loop {
            // Beyond the bound clients wait in the backlog.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = Connection::new(stream, inbox.clone(), audit.clone());
                    tokio::spawn(async move {
                        connection.serve().await;
                        drop(place);
                    });
                }
                Err(error) => {
                    log::warn!("control connection not accepted reason=\"{error}\"");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }))
}

/// The socket appears under its name with its mode: it is made in a folder that only we can enter.
fn listen(run_dir: &Path, socket: &Path) -> io::Result<UnixListener> {
    let folder = run_dir.join(".new");
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let new = folder.join("s");
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, socket)?;
    std::fs::remove_dir(&folder)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
