//! WebSocket as far as a relay must know it: what asks for it, where a frame ends, how a close frame looks (RFC 6455).
//!
//! A tunnel that must end (its backend is drained) may be given a close frame, but only between two frames; inside one
//! our bytes would be read as payload.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Version};

/// Bytes of the longest reason in a close frame: a control frame holds 125, two are the code (RFC 6455 §5.5).
const CLOSE_REASON_BYTES_MAX: usize = 123;
const OPCODE_CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Whether a request asks for a WebSocket: HTTP/1.1 GET with `Upgrade: websocket`, nominated by `Connection`. The gate
/// (`framing`) holds back the bytes after exactly these requests.
pub fn is_upgrade(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    method == Method::GET
        && version == Version::HTTP_11
        && lists(headers, &header::UPGRADE, b"websocket")
        && lists(headers, &header::CONNECTION, b"upgrade")
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token))
}

/// Follows one direction of a tunnel. Control frames may stand between the fragments of a message, so a frame boundary
/// is all that a close frame needs.
#[derive(Clone, Debug, Default)]
pub struct FrameTracker {
    at: At,
    closed: bool,
}

#[derive(Clone, Debug, Default)]
enum At {
    /// Between two frames.
    #[default]
    Boundary,
    /// In a frame's header: its first bytes so far, at most 14.
    Header { bytes: [u8; 14], count: usize },
    /// In a frame's payload.
    Payload { left: u64 },
    /// The bytes are not WebSocket frames; there are no boundaries any more.
    Lost,
}

impl FrameTracker {
    /// Takes note of relayed bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Lost => return,
                At::Payload { left } => {
                    let taken = (bytes.len() as u64).min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.at = At::Boundary;
                    }
                    bytes = &bytes[taken as usize..];
                }
                At::Boundary => {
                    let mut header = [0; 14];
                    header[0] = first;
                    self.at = At::Header { bytes: header, count: 1 };
                    bytes = rest;
                }
                At::Header { bytes: header, count } => {
                    header[*count] = first;
                    *count += 1;
                    if *count == header_bytes(header[1]) {
                        let header = *header;
                        self.enter_payload(&header);
                    }
                    bytes = rest;
                }
            }
        }
    }

    fn enter_payload(&mut self, header: &[u8; 14]) {
        let left = match header[1] & !MASKED {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => u64::from_be_bytes(header[2..10].try_into().expect("eight bytes")),
            short => u64::from(short),
        };
        self.closed |= header[0] & 0x0f == OPCODE_CLOSE;
        self.at = match left {
            0 => At::Boundary,
            // RFC 6455 §5.2: the most significant bit must be 0.
            _ if left > i64::MAX as u64 => At::Lost,
            left => At::Payload { left },
        };
    }

    /// Whether a frame of our own could be written now without breaking another.
    pub fn at_boundary(&self) -> bool {
        matches!(self.at, At::Boundary)
    }

    /// Whether a close frame went by; nothing may follow it.
    pub fn closed(&self) -> bool {
        self.closed
    }
}

/// Bytes of a frame's header, from its second byte.
const fn header_bytes(second: u8) -> usize {
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + if second & MASKED == 0 { 0 } else { 4 }
}

/// A close frame with `code` (1001 going away, 1012 service restart) and `reason`, cut to what a control frame
/// holds. Frames to a backend must be masked, frames to a client must not (RFC 6455 §5.1).
pub fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    let length = (2 + reason.len()) as u8;
    let mut frame = vec![FINAL | OPCODE_CLOSE, length];
    if let Some(mask) = mask {
        frame[1] |= MASKED;
        frame.extend(mask);
    }
    let mask = mask.unwrap_or_default();
    let payload = code.to_be_bytes().into_iter().chain(reason.bytes());
    frame.extend(payload.zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
