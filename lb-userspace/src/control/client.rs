//! The asking side of the control socket, as `lbctl`'s commands use it. Opens a socket and waits on it.
//!
//! It is blocking on purpose: a command asks one question and has nothing else to do until the answer comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::credentials;
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
    /// The last answer has come.
    is_over: bool,
}

impl Client {
    /// Asks the master that runs in `run_dir`.
    ///
    /// # Errors
    /// When there is nobody to ask, or the question could not be sent.
    pub fn ask(run_dir: &Path, command: Command) -> Result<Self, ClientError> {
        let path = run_dir.join(SOCKET_NAME);
        let stream = connect(&path).map_err(|error| refusal(path.clone(), error))?;
        let uid = credentials::of_peer(&stream).map_err(ClientError::Broken)?.uid;
        if !is_trusted(uid, rustix::process::geteuid().as_raw()) {
            return Err(ClientError::Stranger { path, uid });
        }
        match send(&stream, command) {
            // One that has no place for us says so and does not read: its answer is there.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(ClientError::Broken(error)),
            _ => Ok(Self { reader: BufReader::new(stream), is_over: false }),
        }
    }

    /// The next answer that says something; `None` after the last.
    ///
    /// # Errors
    /// When the master falls silent, goes away before its last answer, or does not speak the protocol.
    pub fn next_answer(&mut self) -> Result<Option<Answer>, ClientError> {
        while !self.is_over {
            match self.line()? {
                Answer::More => {}
                answer => {
                    self.is_over = answer.is_last();
                    return Ok(Some(answer));
                }
            }
        }
        Ok(None)
    }

    /// The next line.
    fn line(&mut self) -> Result<Answer, ClientError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(CONTROL_ANSWER_BYTES_MAX);
        match bounded.read_until(b'\n', &mut line) {
            Ok(0) => Err(ClientError::Ended),
            Ok(_) if line.last() != Some(&b'\n') => {
                Err(ClientError::Malformed("a line without an end".into()))
            }
            Ok(_) => serde_json::from_slice(&line).map_err(|e| ClientError::Malformed(e.to_string())),
            Err(error) if is_timeout(&error) => Err(ClientError::Silent),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(ClientError::Ended),
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
    /// Somebody else's program answers there.
    #[error("not asked: what answers at {} runs as uid {uid}, which is neither root nor you", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
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
    /// The connection ended before the last answer.
    #[error("the master ended before it had answered: see its log for what became of it")]
    Ended,
    /// The connection failed.
    #[error("connection to the master: {0}")]
    Broken(std::io::Error),
    /// The answer is not in our protocol.
    #[error("the master's answer is not understood ({0}): is it another version of lbctl?")]
    Malformed(String),
}

/// Connects. A master that is stopped takes nobody when its queue is full: that has the same deadline as its answers.
fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    socket.set_write_timeout(Some(SILENCE_MAX))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// Whether a master of this user may be asked: where the folder of the socket lies in a place where everybody may make one, anybody
/// may be there first. Root named the folder, or it is one that only root can make.
const fn is_trusted(master: u32, own: u32) -> bool {
    master == 0 || master == own || own == 0
}

/// What connecting failed with, by what the operator can do about it.
fn refusal(path: PathBuf, source: std::io::Error) -> ClientError {
    match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => ClientError::NotThere(path),
        std::io::ErrorKind::PermissionDenied => ClientError::Denied(path),
        std::io::ErrorKind::WouldBlock => ClientError::Silent,
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
