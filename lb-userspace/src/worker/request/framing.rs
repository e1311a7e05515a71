//! The framing of a client's HTTP/1.x byte stream, read strictly: where each head and body ends, and whether any other
//! parser could see it differently. Pure; bytes in, verdicts out.
//!
//! hyper repairs or tolerates some of what request smuggling lives on (bare LF, Content-Length beside
//! Transfer-Encoding, no or several Hosts), and above it the evidence is gone. So every byte passes here first, and
//! hyper sees only what this file found unambiguous.

mod chunked;
mod head;
mod syntax;
mod target;

use crate::limits::HEAD_BYTES_MAX;
use crate::reason::Reason;
use chunked::Chunked;
use head::{Body, Head};

/// What may be done with the bytes given to [`Framing::feed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// So many may be passed on.
    pub pass: usize,
    /// Why the rest may not; `None`: more bytes are needed to judge it.
    pub pause: Option<Pause>,
}

/// Why [`Framing::feed`] stopped before the end of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// A request ends here; what follows is another.
    MessageEnd,
    /// The head that ends here asks for a WebSocket: what follows is read when it is known whether it gets one.
    Upgrade,
    /// What follows is a head that must be refused.
    BadHead(Reason),
    /// What follows breaks the body of the request before it.
    BadBody(Reason),
}

/// Where in the stream we stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between two requests.
    Idle,
    /// In a head.
    Head,
    /// In a body.
    Body,
    /// After a head that asks for a WebSocket.
    Upgrade,
    /// In what is HTTP no more.
    Raw,
    /// Behind a violation; nothing passes.
    Refused,
}

/// The reader's state.
#[derive(Debug)]
pub struct Framing {
    state: State,
    heads: u64,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Length(u64),
    Chunked(Chunked),
    Upgrade,
    Raw,
    Refused(Pause),
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: State::Head(Head::default()), heads: 0 }
    }
}

impl Framing {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges `bytes`, which begin where the bytes passed so far end: what was not passed must be given again. A head
    /// passes whole or not at all.
    pub fn feed(&mut self, bytes: &[u8]) -> Progress {
        let mut pass = 0;
        loop {
            let rest = &bytes[pass..];
            let step = match &mut self.state {
                State::Refused(pause) => return Progress { pass, pause: Some(*pause) },
                State::Upgrade => return Progress { pass, pause: Some(Pause::Upgrade) },
                State::Raw => return Progress { pass: bytes.len(), pause: None },
                State::Head(head) => head.feed(rest).map(Step::from_head).unwrap_or_else(Step::bad_head),
                State::Chunked(chunked) => Step::from_chunked(chunked.feed(rest)),
                State::Length(left) => {
                    let taken = (rest.len() as u64).min(*left);
                    *left -= taken;
                    Step { pass: taken as usize, next: (*left == 0).then_some(Next::Message) }
                }
            };
            pass += step.pass;
            let Some(next) = step.next else { return Progress { pass, pause: None } };
            if let Some(pause) = self.enter(next) {
                return Progress { pass, pause: Some(pause) };
            }
        }
    }

    fn enter(&mut self, next: Next) -> Option<Pause> {
        if matches!(next, Next::Body(_)) {
            self.heads += 1;
        }
        let (state, pause) = match next {
            Next::Body(Body::Length(bytes)) => (State::Length(bytes), None),
            Next::Body(Body::Chunked) => (State::Chunked(Chunked::default()), None),
            Next::Body(Body::Upgrade) => (State::Upgrade, Some(Pause::Upgrade)),
            Next::Body(Body::None) | Next::Message => (State::Head(Head::default()), Some(Pause::MessageEnd)),
            Next::Refuse(pause) => (State::Refused(pause), Some(pause)),
        };
        self.state = state;
        pause
    }

    /// After [`Pause::Upgrade`]: it was granted, everything passes from here on.
    pub fn accept_upgrade(&mut self) {
        if matches!(self.state, State::Upgrade) {
            self.state = State::Raw;
        }
    }

    /// After [`Pause::Upgrade`]: it was not granted, another head follows.
    pub fn refuse_upgrade(&mut self) {
        if matches!(self.state, State::Upgrade) {
            self.state = State::Head(Head::default());
        }
    }

    /// Refuses the head that is being read or awaited, for a cause outside the bytes (the client took too long).
    /// Does nothing elsewhere; returns whether it did.
    pub fn refuse_head(&mut self, reason: Reason) -> bool {
        let in_head = matches!(self.state, State::Head(_));
        if in_head {
            self.state = State::Refused(Pause::BadHead(reason));
        }
        in_head
    }

    /// How many heads have passed.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Where we stand.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Head(head) if head.is_untouched() => Phase::Idle,
            State::Head(_) => Phase::Head,
            State::Length(_) | State::Chunked(_) => Phase::Body,
            State::Upgrade => Phase::Upgrade,
            State::Raw => Phase::Raw,
            State::Refused(_) => Phase::Refused,
        }
    }

    /// How many of the next bytes will pass whatever they are: the rest of a body with a length, all of an upgraded
    /// connection.
    pub fn opaque_bytes(&self) -> u64 {
        match self.state {
            State::Length(left) => left,
            State::Raw => u64::MAX,
            _ => 0,
        }
    }
}

struct Step {
    pass: usize,
    next: Option<Next>,
}

enum Next {
    Body(Body),
    Message,
    Refuse(Pause),
}

impl Step {
    fn from_head(complete: Option<(usize, Body)>) -> Self {
        match complete {
            Some((pass, body)) => Self { pass, next: Some(Next::Body(body)) },
            None => Self { pass: 0, next: None },
        }
    }

    fn bad_head(reason: Reason) -> Self {
        Self { pass: 0, next: Some(Next::Refuse(Pause::BadHead(reason))) }
    }

    fn from_chunked((pass, verdict): (usize, chunked::Verdict)) -> Self {
        let next = match verdict {
            chunked::Verdict::More => None,
            chunked::Verdict::End => Some(Next::Message),
            chunked::Verdict::Bad(reason) => Some(Next::Refuse(Pause::BadBody(reason))),
        };
        Self { pass, next }
    }
}

/// Finds lines that end with CRLF; remembers how far it looked, so that feeding byte by byte costs no more than feeding at once.
#[derive(Debug, Default)]
struct Lines {
    start: usize,
    searched: usize,
}

impl Lines {
    /// The next line including its LF; `None` where it is not complete.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let Some(found) = memchr::memchr(b'\n', &bytes[self.searched..]) else {
            self.searched = bytes.len();
            return None;
        };
        let line = &bytes[self.start..=self.searched + found];
        self.searched += found + 1;
        self.start = self.searched;
        Some(line)
    }

    /// What there is of the line that [`Lines::next`] found incomplete.
    fn partial<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start..]
    }
}

/// `line` without its CRLF.
///
/// # Errors
/// `BadRequest` where it ends with a bare LF.
fn content(line: &[u8]) -> Result<&[u8], Reason> {
    line.strip_suffix(b"\r\n").ok_or(Reason::BadRequest)
}

const _: () = assert!(HEAD_BYTES_MAX > head::REQUEST_LINE_BYTES_MAX);

#[cfg(test)]
mod tests;
