//! One control connection: one request line, then the loop's answers until the last.
//!
//! Effectful: reads and writes a unix socket.

#![expect(clippy::disallowed_methods, reason = "reads the name of the asking program in /proc")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::audit::{self, Audit, Peer};
use crate::control::protocol::{Answer, Command, FailureKind, PROTOCOL_VERSION, Request};
use crate::limits::CONTROL_REQUEST_BYTES_MAX;
use crate::master::inbox::{ANSWERS_MAX, ControlRequest, Inbox, Input};

/// Time for the request line, and for the client to take an answer.
const CLIENT_WITHIN: Duration = Duration::from_secs(5);
/// Longest silence towards the client.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(4);

/// A client that has connected.
pub struct Connection {
    stream: BufReader<UnixStream>,
    inbox: Inbox,
    audit: Arc<Audit>,
}

impl Connection {
    /// Not yet read from.
    pub fn new(stream: UnixStream, inbox: Inbox, audit: Arc<Audit>) -> Self {
        Self { stream: BufReader::new(stream), inbox, audit }
    }

    /// From the request to the last answer.
    pub async fn serve(mut self) {
        if let Err(error) = self.exchange().await {
            log::debug!("control connection ended reason=\"{error}\"");
        }
    }

    async fn exchange(&mut self) -> io::Result<()> {
        let peer = self.peer()?;
        let request = match tokio::time::timeout(CLIENT_WITHIN, self.request()).await {
            Ok(request) => request?,
            Err(_) => Err(Refusal::new(FailureKind::Failed, "no request line within 5 s")),
        };
        let command = match request.and_then(|command| allowed(&peer, command)) {
            Ok(command) => command,
            Err(refusal) => return self.write(&refusal.into()).await,
        };
        let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
        let actor = format!("uid={} pid={}", peer.uid, peer.pid);
        let asked = ControlRequest { command: command.clone(), actor, answers: sender };
        if self.inbox.send(Input::Command(asked)).await.is_err() {
            return self.write(&Refusal::new(FailureKind::Failed, "the master is ending").into()).await;
        }
        let outcome = self.relay(&mut answers).await;
        if audit::acts(&command) {
            let words = outcome.as_ref().map_or_else(|error| format!("client lost: {error}"), audit::outcome);
            self.audit.write(&peer, &command, &words);
        }
        outcome.map(drop)
    }

    fn peer(&self) -> io::Result<Peer> {
        let credentials = rustix::net::sockopt::socket_peercred(self.stream.get_ref())?;
        let pid = credentials.pid.as_raw_nonzero().get();
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Peer { uid: credentials.uid.as_raw(), pid, program: program.trim().to_owned() })
    }

    /// The request line, or the answer that refuses it.
    async fn request(&mut self) -> io::Result<Result<Command, Refusal>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(CONTROL_REQUEST_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return Ok(Err(Refusal::new(FailureKind::Failed, "the request line has no end, or is too long")));
        }
        // The version first: what else is in the line may be unknown to us.
        let version =
            serde_json::from_slice::<serde_json::Value>(&line).ok().and_then(|line| line["version"].as_u64());
        if version != Some(PROTOCOL_VERSION.into()) {
            let message = format!("this master speaks version {PROTOCOL_VERSION} of the control protocol");
            return Ok(Err(Refusal::new(FailureKind::Version, &message)));
        }
        let request = serde_json::from_slice::<Request>(&line);
        Ok(request
            .map(|request| request.command)
            .map_err(|error| Refusal::new(FailureKind::Failed, &error.to_string())))
    }

    /// Hands on answers; says [`Answer::More`] while there is none.
    async fn relay(&mut self, answers: &mut mpsc::Receiver<Answer>) -> io::Result<Answer> {
        loop {
            let answer = match tokio::time::timeout(HEARTBEAT_EVERY, answers.recv()).await {
                Err(_) => Answer::More,
                Ok(Some(answer)) => answer,
                Ok(None) => Refusal::new(FailureKind::Failed, "the master ended before it was done").into(),
            };
            self.write(&answer).await?;
            if is_last(&answer) {
                return Ok(answer);
            }
        }
    }

    async fn write(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        let written = tokio::time::timeout(CLIENT_WITHIN, self.stream.write_all(&line)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Root and the master's own user may ask; the mode of the socket says the same.
fn allowed(peer: &Peer, command: Command) -> Result<Command, Refusal> {
    if peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() {
        return Ok(command);
    }
    Err(Refusal::new(FailureKind::Denied, &format!("uid {} may not control this master", peer.uid)))
}

/// Why a request is not answered.
struct Refusal {
    kind: FailureKind,
    message: String,
}

impl Refusal {
    fn new(kind: FailureKind, message: &str) -> Self {
        Self { kind, message: message.to_owned() }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Failed { kind: refusal.kind, message: refusal.message }
    }
}

/// Whether nothing follows it.
pub fn is_last(answer: &Answer) -> bool {
    !matches!(answer, Answer::More | Answer::Line { .. } | Answer::Event(_) | Answer::Frame(_))
}
