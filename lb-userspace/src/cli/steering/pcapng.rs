//! Writes captured frames as pcapng (draft-ietf-opsawg-pcapng), with what was decided as each packet's comment.
//!
//! Three kinds of block and three options are all that is needed; a library for all of the format would be more code to audit than this.

use std::io::{self, Write};

use crate::control::protocol::steering::CapturedFrame;

/// Block types (section 11.1 of the draft).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Options: of any block, of section headers, of interface descriptions.
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
/// Times are in units of 10⁻⁹ s.
const NANOSECONDS: u8 = 9;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// The most that a frame keeps; none is larger.
const SNAP_BYTES: u32 = lb_common::limits::CAPTURE_BYTES_MAX as u32;

/// A capture file that grows.
pub struct Writer<W> {
    output: W,
    interfaces: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins the file.
    ///
    /// # Errors
    /// Of `output`.
    pub fn new(mut output: W) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend_from_slice(&0x1a2b_3c4d_u32.to_ne_bytes());
        body.extend_from_slice(&1_u16.to_ne_bytes());
        body.extend_from_slice(&0_u16.to_ne_bytes());
        // The section's length is not known.
        body.extend_from_slice(&u64::MAX.to_ne_bytes());
        option(&mut body, USER_APPLICATION, concat!("lbctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(&mut body);
        block(&mut output, SECTION_HEADER, &body)?;
        Ok(Self { output, interfaces: Vec::new() })
    }

    /// Adds a frame, and makes sure that it reaches a reader.
    ///
    /// # Errors
    /// Of the output.
    pub fn frame(&mut self, frame: &CapturedFrame) -> io::Result<()> {
        let interface = self.interface(&frame.interface)?;
        let mut body = Vec::with_capacity(64 + frame.bytes.len());
        body.extend_from_slice(&interface.to_ne_bytes());
        body.extend_from_slice(&((frame.wall_ns >> 32) as u32).to_ne_bytes());
        body.extend_from_slice(&(frame.wall_ns as u32).to_ne_bytes());
        body.extend_from_slice(&(frame.bytes.len() as u32).to_ne_bytes());
        body.extend_from_slice(&frame.original_bytes.to_ne_bytes());
        padded(&mut body, &frame.bytes);
        option(&mut body, COMMENT, comment(frame).as_bytes());
        end_of_options(&mut body);
        block(&mut self.output, ENHANCED_PACKET, &body)?;
        self.output.flush()
    }

    /// The number of an interface, described when it is met first.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(known) = self.interfaces.iter().position(|known| known == name) {
            return Ok(known as u32);
        }
        let mut body = Vec::new();
        body.extend_from_slice(&ETHERNET.to_ne_bytes());
        body.extend_from_slice(&0_u16.to_ne_bytes());
        body.extend_from_slice(&SNAP_BYTES.to_ne_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        option(&mut body, TIME_RESOLUTION, &[NANOSECONDS]);
        end_of_options(&mut body);
        block(&mut self.output, INTERFACE_DESCRIPTION, &body)?;
        self.interfaces.push(name.to_owned());
        Ok(self.interfaces.len() as u32 - 1)
    }
}

/// What was decided, in words that a display filter finds: `frame.comment contains "reason=denied"`.
pub fn comment(frame: &CapturedFrame) -> String {
    let mut text = format!("verdict={}", frame.verdict);
    text.extend(frame.reason.iter().map(|reason| format!(" reason={reason}")));
    text.extend(frame.backend.iter().map(|backend| format!(" backend={backend}")));
    text
}

/// A block with its length before and after.
fn block(output: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = body.len() as u32 + 12;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(&length.to_ne_bytes());
    output.write_all(&bytes)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(u16::MAX.into())];
    body.extend_from_slice(&code.to_ne_bytes());
    body.extend_from_slice(&(value.len() as u16).to_ne_bytes());
    padded(body, value);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend_from_slice(&[0; 4]);
}

/// The bytes, and zeroes up to a multiple of four.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(interface: &str, bytes: &[u8]) -> CapturedFrame {
        CapturedFrame {
            wall_ns: 0x1_0000_0002,
            interface: interface.into(),
            original_bytes: 1500,
            bytes: bytes.to_vec(),
            verdict: "drop".into(),
            reason: Some("denied".into()),
            backend: None,
        }
    }

    /// Types and bodies of the blocks in a file, which must be made of whole ones.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let number = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
            let length = number(4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(number(length - 4) as usize, length, "the length is repeated at the end");
            blocks.push((number(0), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        blocks
    }

    #[test]
    fn each_interface_is_described_once_and_before_its_first_frame() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        for (interface, bytes) in [("eth0", &b"abcde"[..]), ("eth1", b""), ("eth0", b"xyz")] {
            writer.frame(&frame(interface, bytes)).unwrap();
        }
        let kinds: Vec<u32> = blocks(&file).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, 1, 6, 1, 6, 6]);
    }

    #[test]
    fn a_frame_carries_time_lengths_bytes_and_verdict() {
        let mut file = Vec::new();
        Writer::new(&mut file).unwrap().frame(&frame("eth0", b"abcde")).unwrap();
        let (_, body) = blocks(&file).pop().unwrap();
        let words: Vec<u32> =
            body[..20].chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [0, 1, 2, 5, 1500]);
        assert_eq!(&body[20..28], b"abcde\0\0\0");
        assert_eq!(&body[28..30], COMMENT.to_ne_bytes());
        assert_eq!(&body[32..32 + 26], b"verdict=drop reason=denied");
    }
}
