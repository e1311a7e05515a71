//! One control connection: one request line, then the loop's answers until the last.
//!
//! Effectful: reads and writes a unix socket.

#![expect(clippy::disallowed_methods, reason = "reads the name of the asking program in /proc")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};

use super::audit::{self, Audit, Peer};
use crate::control::credentials::{self, Credentials};
use crate::control::protocol::{Answer, Command, FailureKind, PROTOCOL_VERSION, Request};
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_FOLLOWERS_MAX, CONTROL_REQUEST_BYTES_MAX};
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
    followers: Arc<Semaphore>,
}

impl Connection {
    /// Not yet read from. Who follows needs a place among the `followers`.
    pub fn new(stream: UnixStream, inbox: Inbox, audit: Arc<Audit>, followers: Arc<Semaphore>) -> Self {
        Self { stream: BufReader::new(stream), inbox, audit, followers }
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
        let command = match request.and_then(|command| self.allowed(&peer, command)) {
            Ok(command) => command,
            Err(refusal) => return self.write(&refusal.into()).await,
        };
        let place = command.follows().then(|| self.followers.clone().try_acquire_owned());
        if let Some(Err(_)) = place {
            let message =
                format!("busy: {CONTROL_FOLLOWERS_MAX} others follow events, logs or captures already");
            return self.write(&Refusal::new(FailureKind::Failed, &message).into()).await;
        }
        let act = command.acts().then(|| self.audit.received(&peer, &command));
        let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
        let actor = format!("uid={} pid={}", peer.uid, peer.pid);
        let asked = ControlRequest { command, actor, answers: sender };
        // Where the loop has ended the way to answer is gone, too.
        let _ = self.inbox.send(Input::Command(asked)).await;
        let outcome = self.relay(&mut answers).await;
        if let Some(act) = act {
            let words = outcome.as_ref().map_or_else(|error| format!("client lost: {error}"), audit::outcome);
            self.audit.ended(&act, &words);
        }
        outcome.map(drop)
    }

    fn peer(&self) -> io::Result<Peer> {
        let Credentials { pid, uid } = credentials::of_peer(self.stream.get_ref())?;
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(Peer { uid, pid, program: program.trim().to_owned() })
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

    /// Root and the master's own user may ask; the mode of the socket says the same.
    fn allowed(&self, peer: &Peer, command: Command) -> Result<Command, Refusal> {
        if peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() {
            return Ok(command);
        }
        self.audit.denied(peer, &command);
        Err(Refusal::new(FailureKind::Denied, &format!("uid {} may not control this master", peer.uid)))
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
            if answer.is_last() {
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

/// Tells a client that there are too many, without waiting for it.
pub fn refuse_busy(stream: &UnixStream) {
    let message = format!("busy: the master answers {CONTROL_CONNECTIONS_MAX} others already");
    let answer = Answer::from(Refusal::new(FailureKind::Failed, &message));
    if let Ok(line) = serde_json::to_string(&answer) {
        // Nothing was written to it before: a line fits, if anybody is there to read it.
        let _ = stream.try_write((line + "\n").as_bytes());
    }
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
