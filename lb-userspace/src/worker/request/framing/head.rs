//! One request head, judged line by line as it comes.

use super::syntax::{is_field_value, is_token, is_token_byte, list, trim};
use super::{Lines, content, target};
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, URI_BYTES_MAX};
use crate::reason::Reason;
use crate::worker::request::protocols;
use crate::worker::request::rewrite::is_protected;

/// A request line's bound: the target's and room for method and version.
pub(super) const REQUEST_LINE_BYTES_MAX: usize = URI_BYTES_MAX + 64;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// The next head.
    None,
    /// This many bytes, more than none.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever the upgrade makes of it.
    Upgrade,
}

/// What was read of a head so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    lines: Lines,
    blank_line_seen: bool,
    request_line: Option<RequestLine>,
    fields: usize,
    hosts: usize,
    content_length: Option<u64>,
    transfer_encoding: Option<TransferEncoding>,
    upgrade_is_nominated: bool,
    upgrade_lists_websocket: bool,
    upgrade_lists_other: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RequestLine {
    is_1_1: bool,
    is_get: bool,
    is_connect: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferEncoding {
    Chunked,
    /// Codings that exist but that we do not relay, before a final `chunked`.
    Unsupported,
}

impl Head {
    /// Whether no byte of the head has come.
    pub(super) fn is_untouched(&self) -> bool {
        self.lines.searched == 0
    }

    /// Judges `bytes`, which begin with the head's first byte. The head's length and what follows it; `None` where it is
    /// not complete.
    ///
    /// # Errors
    /// Why the head must be refused. The verdict does not depend on how the bytes were cut.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<(usize, Body)>, Reason> {
        while let Some(line) = self.lines.next(bytes) {
            self.check_bounds(line, self.lines.start)?;
            let is_last = self.line(content(line)?)?;
            if is_last {
                return Ok(Some((self.lines.start, self.body()?)));
            }
        }
        self.check_bounds(self.lines.partial(bytes), bytes.len())?;
        Ok(None)
    }

    /// Bounds, and the first byte: garbage (a TLS handshake, say) is refused without waiting for a line end.
    fn check_bounds(&self, line: &[u8], head_bytes: usize) -> Result<(), Reason> {
        if self.request_line.is_none() {
            match line.first() {
                Some(&first) if first != b'\r' && !is_token_byte(first) => return Err(Reason::BadRequest),
                _ if line.len() > REQUEST_LINE_BYTES_MAX => return Err(Reason::UriTooLong),
                _ => {}
            }
        }
        if head_bytes > HEAD_BYTES_MAX { Err(Reason::HeadersTooLarge) } else { Ok(()) }
    }

    /// Takes one line; whether it was the last.
    fn line(&mut self, line: &[u8]) -> Result<bool, Reason> {
        match (self.request_line, line) {
            (None, b"") if !self.blank_line_seen => self.blank_line_seen = true,
            (None, _) => self.request_line = Some(request_line(line)?),
            (Some(_), b"") => return Ok(true),
            (Some(_), _) => self.field(line)?,
        }
        Ok(false)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Reason> {
        self.fields += 1;
        if self.fields > HEADERS_MAX {
            return Err(Reason::HeadersTooLarge);
        }
        let (name, value) = field(line)?;
        match name.len() {
            4 if is(name, b"host") => self.host(value),
            7 if is(name, b"upgrade") => self.upgrade(value),
            10 if is(name, b"connection") => self.connection(value),
            14 if looks_like(name, b"content-length") => self.content_length(name, value),
            17 if looks_like(name, b"transfer-encoding") => self.transfer_encoding(name, value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Reason> {
        self.hosts += 1;
        require(self.hosts == 1 && target::is_host(value))
    }

    fn upgrade(&mut self, value: &[u8]) -> Result<(), Reason> {
        self.upgrade_lists_websocket |= list(value).any(|protocol| is(protocol, protocols::WEBSOCKET));
        self.upgrade_lists_other |= list(value).any(protocols::is_other);
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Reason> {
        for option in list(value) {
            require(!is_protected(option))?;
            self.upgrade_is_nominated |= is(option, b"upgrade");
        }
        Ok(())
    }

    /// Digits only, once, without the leading zeros that some would read as octal.
    fn content_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        require(!name.contains(&b'_') && self.content_length.is_none())?;
        require(matches!(value, b"0" | [b'1'..=b'9', ..]))?;
        let length = value.iter().try_fold(0_u64, |sum, digit| {
            let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
            sum.checked_mul(10)?.checked_add(digit).filter(|&sum| sum <= i64::MAX as u64)
        });
        self.content_length = Some(length.ok_or(Reason::BadRequest)?);
        Ok(())
    }

    /// Exactly `chunked`, once. Other registered codings before it are not errors of the client's, only not ours to relay.
    fn transfer_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reason> {
        const OTHERS: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];
        require(!name.contains(&b'_') && self.transfer_encoding.is_none())?;
        self.transfer_encoding = Some(if is(value, b"chunked") {
            TransferEncoding::Chunked
        } else {
            let comma = value.iter().rposition(|&byte| byte == b',').ok_or(Reason::BadRequest)?;
            let mut before = value[..comma].split(|&byte| byte == b',');
            let known = before.all(|coding| OTHERS.iter().any(|other| is(trim(coding), other)));
            require(is(trim(&value[comma + 1..]), b"chunked") && known)?;
            TransferEncoding::Unsupported
        });
        Ok(())
    }

    /// What follows, when all lines are known.
    fn body(&self) -> Result<Body, Reason> {
        let line = self.request_line.expect("the last line comes after the request line");
        require(self.hosts == 1 || !line.is_1_1)?;
        let has_body = self.transfer_encoding.is_some() || self.content_length.is_some_and(|bytes| bytes > 0);
        require(self.transfer_encoding.is_none() || (line.is_1_1 && self.content_length.is_none()))?;
        let may_upgrade = line.is_1_1 && self.upgrade_is_nominated && !line.is_connect;
        let to_websocket = may_upgrade && line.is_get && self.upgrade_lists_websocket;
        require(!(has_body && (to_websocket || line.is_connect)))?;
        // With a body, a change to another protocol is not asked for: the request is relayed as an ordinary one.
        let upgrades = to_websocket || (may_upgrade && self.upgrade_lists_other && !has_body);
        match (self.transfer_encoding, self.content_length) {
            (Some(TransferEncoding::Unsupported), _) => Err(Reason::NotImplemented),
            (Some(TransferEncoding::Chunked), _) => Ok(Body::Chunked),
            (None, Some(bytes)) if bytes > 0 => Ok(Body::Length(bytes)),
            _ if upgrades => Ok(Body::Upgrade),
            _ => Ok(Body::None),
        }
    }
}

/// `METHOD SP target SP HTTP/1.x`, single spaces only.
fn request_line(line: &[u8]) -> Result<RequestLine, Reason> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Reason::BadRequest);
    };
    require(is_token(method))?;
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(Reason::VersionNotSupported);
        }
        _ => return Err(Reason::BadRequest),
    };
    target::check(method, target)?;
    Ok(RequestLine { is_1_1, is_get: method == b"GET", is_connect: method == b"CONNECT" })
}

/// Name and trimmed value of a field line. A line that begins with space (obs-fold), a space before the colon, and
/// control characters are refused.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Reason> {
    let colon = line.iter().position(|&byte| !is_token_byte(byte)).ok_or(Reason::BadRequest)?;
    require(colon > 0 && line[colon] == b':')?;
    let value = &line[colon + 1..];
    require(is_field_value(value))?;
    Ok((&line[..colon], trim(value)))
}

fn is(text: &[u8], lower: &[u8]) -> bool {
    text.eq_ignore_ascii_case(lower)
}

/// Whether `name` is `lower`, or would be to a backend that takes `_` for `-`.
fn looks_like(name: &[u8], lower: &[u8]) -> bool {
    name.iter().zip(lower).all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
}

fn require(condition: bool) -> Result<(), Reason> {
    if condition { Ok(()) } else { Err(Reason::BadRequest) }
}
