//! One chunked body (RFC 9112 §7.1), byte by byte; trailers line by line.

use super::head::field;
use super::{Lines, content};
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, HEADERS_MAX, TRAILER_BYTES_MAX};
use crate::reason::Reason;
use crate::worker::request::rewrite::is_forbidden_in_trailers;

/// Hex digits of a chunk size: what 64 bits hold, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;

/// Where the body stands after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More of it is to come.
    More,
    /// It is complete.
    End,
    /// It is broken.
    Bad(Reason),
}

/// What was read of a body so far.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailers: usize,
    lines: Lines,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size {
        digits: u8,
        size: u64,
    },
    /// Space between the size and the `;` of an extension.
    Space {
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailers,
}

impl Default for At {
    fn default() -> Self {
        Self::Size { digits: 0, size: 0 }
    }
}

impl Chunked {
    /// Judges `bytes`: how many may pass, and where the body stands after them. Trailer lines pass whole.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (usize, Verdict) {
        let mut pass = 0;
        while pass < bytes.len() {
            match self.at {
                At::Trailers => {
                    let (taken, verdict) = self.trailers(&bytes[pass..]);
                    return (pass + taken, verdict);
                }
                At::Data { left } => {
                    let taken = ((bytes.len() - pass) as u64).min(left);
                    pass += taken as usize;
                    self.at = if left == taken { At::DataCr } else { At::Data { left: left - taken } };
                }
                _ => match self.byte(bytes[pass]) {
                    Some(at) => {
                        self.at = at;
                        pass += 1;
                    }
                    None => return (pass, Verdict::Bad(Reason::BadRequest)),
                },
            }
        }
        (pass, Verdict::More)
    }

    /// Where `byte` leads from a place outside of data and trailers; `None` where it must not stand there.
    fn byte(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < SIZE_DIGITS_MAX =>
            {
                let digit = char::from(byte).to_digit(16)?;
                let size = size << 4 | u64::from(digit);
                (size <= i64::MAX as u64).then_some(At::Size { digits: digits + 1, size })
            }
            (At::Size { digits: 1.., size }, b'\r') | (At::Extension { size }, b'\r') => {
                Some(At::SizeLf { size })
            }
            (At::Size { digits: 1.., size } | At::Space { size }, b';') => {
                self.extension(At::Extension { size })
            }
            (At::Size { digits: 1.., size } | At::Space { size }, b' ' | b'\t') => {
                self.extension(At::Space { size })
            }
            (At::Extension { .. }, b'\t' | b' '..=b'~' | 0x80..) => self.extension(self.at),
            (At::SizeLf { size: 0 }, b'\n') => Some(At::Trailers),
            (At::SizeLf { size }, b'\n') => Some(At::Data { left: size }),
            (At::DataCr, b'\r') => Some(At::DataLf),
            (At::DataLf, b'\n') => Some(At::default()),
            _ => None,
        }
    }

    fn extension(&mut self, at: At) -> Option<At> {
        self.extension_bytes += 1;
        (self.extension_bytes <= CHUNK_EXTENSION_BYTES_MAX).then_some(at)
    }

    fn trailers(&mut self, bytes: &[u8]) -> (usize, Verdict) {
        // What is given begins with the first line that has not passed.
        self.lines.start = 0;
        loop {
            let pass = self.lines.start;
            let Some(line) = self.lines.next(bytes) else { break };
            match self.trailer(line) {
                Ok(false) => {}
                Ok(true) => return (self.lines.start, Verdict::End),
                Err(reason) => return (pass, Verdict::Bad(reason)),
            }
        }
        let pass = self.lines.start;
        let partial = bytes.len() - pass;
        if self.trailer_bytes + partial >= TRAILER_BYTES_MAX {
            return (pass, Verdict::Bad(Reason::HeadersTooLarge));
        }
        self.lines.searched = partial;
        (pass, Verdict::More)
    }

    /// Takes one trailer line; whether it was the empty one that ends the body.
    fn trailer(&mut self, line: &[u8]) -> Result<bool, Reason> {
        self.trailer_bytes += line.len();
        if self.trailer_bytes >= TRAILER_BYTES_MAX {
            return Err(Reason::HeadersTooLarge);
        }
        let line = content(line)?;
        if line.is_empty() {
            return Ok(true);
        }
        self.trailers += 1;
        if self.trailers > HEADERS_MAX {
            return Err(Reason::HeadersTooLarge);
        }
        let (name, _) = field(line)?;
        if is_forbidden_in_trailers(name) { Err(Reason::BadRequest) } else { Ok(false) }
    }
}
