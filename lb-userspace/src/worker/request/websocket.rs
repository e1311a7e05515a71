//! WebSocket as far as a relay must know it: where a frame ends, how a close frame looks (RFC 6455).
//!
//! A tunnel that must end (its backend is drained) may be given a close frame, but only between two frames; inside one
//! our bytes would be read as payload.

/// Bytes of the longest reason in a close frame: a control frame holds 125, two are the code (RFC 6455 §5.5).
const CLOSE_REASON_BYTES_MAX: usize = 123;
const OPCODE_CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

    use super::*;

    /// A frame as another implementation writes it.
    fn frame(opcode: OpCode, is_final: bool, mask: Option<[u8; 4]>, payload: Vec<u8>) -> Vec<u8> {
        let mut frame = Frame::message(payload, OpCode::Data(Data::Binary), is_final);
        frame.header_mut().opcode = opcode;
        frame.header_mut().mask = mask;
        let mut bytes = Vec::new();
        frame.format(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn boundaries_are_between_frames_only() {
        for mask in [None, Some([1, 2, 3, 4])] {
            for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
                let bytes = frame(OpCode::Data(Data::Binary), true, mask, vec![7; length]);
                let mut tracker = FrameTracker::default();
                assert!(tracker.at_boundary());
                for &byte in &bytes[..bytes.len() - 1] {
                    tracker.feed(&[byte]);
                    assert!(!tracker.at_boundary());
                }
                tracker.feed(&bytes[bytes.len() - 1..]);
                assert!(tracker.at_boundary(), "{length} {mask:?}");
                assert!(!tracker.closed());
            }
        }
    }

    #[test]
    fn impossible_length_has_no_boundary_ever_after() {
        let mut tracker = FrameTracker::default();
        tracker.feed(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        tracker.feed(&[0; 1000]);
        assert!(!tracker.at_boundary());
    }

    #[test]
    fn close_frame_is_what_another_implementation_writes() {
        for (code, reason) in [(1001, ""), (1012, "restart"), (1001, "going away")] {
            let close = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                code: CloseCode::from(code),
                reason: reason.into(),
            };
            let mut expect = Vec::new();
            Frame::close(Some(close)).format(&mut expect).unwrap();
            assert_eq!(close_frame(code, reason, None), expect);
            let mask = [9, 8, 7, 6];
            let masked = close_frame(code, reason, Some(mask));
            let unmasked: Vec<u8> =
                masked[6..].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            assert_eq!(unmasked, expect[2..]);
            let mut tracker = FrameTracker::default();
            tracker.feed(&masked);
            assert!(tracker.at_boundary() && tracker.closed());
        }
        assert_eq!(close_frame(1001, &"é".repeat(100), None).len(), 2 + 2 + 122);
    }

    proptest! {
        #[test]
        fn boundaries_do_not_depend_on_how_bytes_are_cut(
            frames in prop::collection::vec((0..300_usize, any::<bool>(), any::<Option<[u8; 4]>>(), 0..4_u8), 1..8),
            sizes in prop::collection::vec(1..50_usize, 1..6),
        ) {
            let mut stream = Vec::new();
            let mut ends = vec![0];
            for (length, is_final, mask, kind) in frames {
                let (opcode, length, is_final) = match kind {
                    0 => (OpCode::Data(Data::Text), length, is_final),
                    1 => (OpCode::Data(Data::Continue), length, is_final),
                    2 => (OpCode::Control(Control::Ping), length.min(125), true),
                    _ => (OpCode::Control(Control::Pong), length.min(125), true),
                };
                stream.extend(frame(opcode, is_final, mask, vec![0x88; length]));
                ends.push(stream.len());
            }
            let mut tracker = FrameTracker::default();
            let (mut at, mut sizes) = (0, sizes.into_iter().cycle());
            while at < stream.len() {
                let end = stream.len().min(at + sizes.next().unwrap());
                tracker.feed(&stream[at..end]);
                at = end;
                prop_assert_eq!(tracker.at_boundary(), ends.contains(&at));
            }
            prop_assert!(!tracker.closed());
        }
    }
}
