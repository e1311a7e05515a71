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
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use self::audit::{Audit, wall_ms};

use self::connection::Connection;
use super::inbox::Inbox;
use super::run_dir::RunDir;
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_FOLLOWERS_MAX};

/// Time for the last answers to reach their clients at the end.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// The server.
pub struct Control {
    accepting: JoinHandle<()>,
    places: Arc<Semaphore>,
}

/// Listens; connections are served by tasks of their own.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(run_dir: &RunDir, audit: Arc<Audit>, inbox: Inbox) -> io::Result<Control> {
    let listener = listen(run_dir.path(), &run_dir.control_socket())?;
    let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    let accepting = tokio::spawn(accept(listener, places.clone(), audit, inbox));
    Ok(Control { accepting, places })
}

impl Control {
    /// Takes nobody any more, and waits, not for long, until everybody who asks has the last answer.
    pub async fn finish(self) {
        self.accepting.abort();
        let everybody = self.places.acquire_many(CONTROL_CONNECTIONS_MAX as u32);
        if tokio::time::timeout(FINISH_WITHIN, everybody).await.is_err() {
            log::warn!("control clients did not take their last answers");
        }
    }
}

async fn accept(listener: UnixListener, places: Arc<Semaphore>, audit: Arc<Audit>, inbox: Inbox) {
    let followers = Arc::new(Semaphore::new(CONTROL_FOLLOWERS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let connection = Connection::new(stream, inbox.clone(), audit.clone(), followers.clone());
                    tokio::spawn(async move {
                        connection.serve().await;
                        drop(place);
                    });
                }
                Err(_) => connection::refuse_busy(&stream),
            },
            Err(error) => {
                log::warn!("control connection not accepted reason=\"{error}\"");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
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
