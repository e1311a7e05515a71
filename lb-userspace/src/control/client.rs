//! The asking side of the control socket, as `lbctl`'s commands use it. Opens a socket and waits on it.
//!
//! It is blocking on purpose: a command asks one question and has nothing else to do until the answer comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, Command, PROTOCOL_VERSION, Request};
use crate::limits::CONTROL_ANSWER_BYTES_MAX;

/// The longest silence: the master says at least [`Answer::More`] every five seconds.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The name of the socket in the run folder.
pub const SOCKET_NAME: &str = "control.sock";

/// A question that is being answered.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Asks the master that runs in `run_dir`.
    ///
    /// # Errors
    /// When there is nobody to ask, or the question could not be sent.
    pub fn ask(run_dir: &Path, command: Command) -> Result<Self, ClientError> {
        let path = run_dir.join(SOCKET_NAME);
        let stream = UnixStream::connect(&path).map_err(|error| refusal(path, error))?;
        stream.set_read_timeout(Some(SILENCE_MAX)).map_err(ClientError::Broken)?;
        stream.set_write_timeout(Some(SILENCE_MAX)).map_err(ClientError::Broken)?;
        send(&stream, command).map_err(ClientError::Broken)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// The next answer that says something; `None` after the last.
    ///
    /// # Errors
    /// When the master falls silent, goes away in the middle of a line, or does not speak the protocol.
    pub fn next_answer(&mut self) -> Result<Option<Answer>, ClientError> {
        loop {
            match self.line()? {
                None => return Ok(None),
                Some(Answer::More) => {}
                Some(answer) => return Ok(Some(answer)),
            }
        }
    }

    /// The next line.
    fn line(&mut self) -> Result<Option<Answer>, ClientError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(CONTROL_ANSWER_BYTES_MAX);
        match bounded.read_until(b'\n', &mut line) {
            Ok(0) => Ok(None),
            Ok(_) if line.last() != Some(&b'\n') => {
                Err(ClientError::Malformed("a line without an end".into()))
            }
            Ok(_) => {
                serde_json::from_slice(&line).map(Some).map_err(|e| ClientError::Malformed(e.to_string()))
            }
            Err(error) if is_timeout(&error) => Err(ClientError::Silent),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(ClientError::Broken(error)),
        }
    }
}

/// Why the master could not be asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach the master at {}: is it running? start it with \"lbctl up\"{}", .0.display(), hint(.0))]
    NotThere(PathBuf),
    /// The socket belongs to somebody else.
    #[error("not allowed to reach the master at {}: use the user that started it, or root (sudo)", .0.display())]
    Denied(PathBuf),
    /// Another error of the operating system while connecting.
    #[error("cannot reach the master at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No line for `SILENCE_MAX`.
    #[error("the master did not answer for {} s: it is stuck or stopped; see its log", SILENCE_MAX.as_secs())]
    Silent,
    /// The connection failed.
    #[error("connection to the master: {0}")]
    Broken(std::io::Error),
    /// The answer is not in our protocol.
    #[error("the master's answer is not understood ({0}): is it another version of lbctl?")]
    Malformed(String),
}

/// What connecting failed with, by what the operator can do about it.
fn refusal(path: PathBuf, source: std::io::Error) -> ClientError {
    match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => ClientError::NotThere(path),
        std::io::ErrorKind::PermissionDenied => ClientError::Denied(path),
        _ => ClientError::Connect { path, source },
    }
}

/// Which other run folder may be meant, where nobody named one and we are not root.
fn hint(path: &Path) -> &'static str {
    let default_of_users = path.starts_with("/run/user") || path.to_string_lossy().starts_with("/tmp/lbctl-");
    if default_of_users { "; root's is reached with sudo" } else { "" }
}

/// Whether a read ended because its time was over.
fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Sends the one request of this connection.
fn send(mut stream: &UnixStream, command: Command) -> std::io::Result<()> {
    let request = Request { version: PROTOCOL_VERSION, command };
    let mut line = serde_json::to_vec(&request).map_err(std::io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests;
