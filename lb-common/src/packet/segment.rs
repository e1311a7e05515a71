//! TCP segments that we send ourselves, in place of a packet that came: parts of handshakes, resets.

use super::parse::{OFFSET_MASK, Packet};
use super::translate::TTL;
use super::{Frame, ipv4, ipv6, tcp};
use crate::checksum::{finish, fold, word, words_2, words_8};
use crate::flow::FlowKey;

/// Bytes of the TCP header: one option, or as many bytes of nothing.
const HEADER_BYTES: usize = 24;
/// Nothing, as an option.
pub const NO_OPTION: [u8; 4] = [1; 4];

/// A segment without data.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where it comes from and goes to.
    pub ends: FlowKey,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; 0 where the flag is not set.
    pub acknowledgement: u32,
    /// As in [`tcp::Header::flags`].
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// An option of four bytes; [`NO_OPTION`].
    pub option: [u8; 4],
}

impl Segment {
    /// Writes it in place of `packet`, behind the frame's link header. `None`: there is no room.
    #[inline(always)]
    pub fn write<F: Frame>(&self, frame: &mut F, packet: &Packet) -> Option<()> {
        let at = packet.network_at;
        let is_ipv6 = frame.is_set(packet.is_ipv6);
        let header_bytes = if is_ipv6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
        frame.set_bytes(at + header_bytes + HEADER_BYTES)?;
        let ends = self.ends.words();
        if is_ipv6 {
            frame.write(
                at,
                ipv6::Header {
                    version_class_label: 0x6000_0000_u32.to_be(),
                    payload: (HEADER_BYTES as u16).to_be(),
                    next: tcp::PROTOCOL,
                    hops: TTL,
                    source: ends.source,
                    target: ends.target,
                },
            )?;
        } else {
            frame.write(at, self.header_ipv4())?;
        }
        let at = frame.settle(at + header_bytes, OFFSET_MASK);
        frame.write(at, self.header())
    }

    #[inline(always)]
    fn header_ipv4(&self) -> ipv4::Header {
        let (source, target) = (ipv4::unmapped(&self.ends.source), ipv4::unmapped(&self.ends.target));
        let total = ((ipv4::HEADER_BYTES + HEADER_BYTES) as u16).to_be();
        let fragment = ipv4::DO_NOT_FRAGMENT.to_be();
        let sum = word([0x45, 0])
            + total as u32
            + fragment as u32
            + word([TTL, tcp::PROTOCOL])
            + words_2(source.to_ne_bytes())
            + words_2(target.to_ne_bytes());
        ipv4::Header {
            version_words: 0x45,
            traffic_class: 0,
            total,
            identification: 0,
            fragment,
            ttl: TTL,
            protocol: tcp::PROTOCOL,
            checksum: finish(sum),
            source,
            target,
        }
    }

    /// The TCP header in words.
    #[inline(always)]
    fn header(&self) -> [u32; HEADER_BYTES / 4] {
        let ends = self.ends.words();
        let ports = ends.source_port as u32 | (ends.target_port as u32) << 16;
        let (sequence, acknowledgement) = (self.sequence.to_be(), self.acknowledgement.to_be());
        let rest =
            (HEADER_BYTES as u32 / 4) << 4 | (self.flags as u32) << 8 | (self.window.to_be() as u32) << 16;
        let option = u32::from_ne_bytes(self.option);
        let mut sum = words_8(&self.ends.source) + words_8(&self.ends.target);
        sum += word([0, tcp::PROTOCOL]) + (HEADER_BYTES as u16).to_be() as u32;
        for part in [ports, sequence, acknowledgement, rest, option] {
            sum += fold(part) as u32;
        }
        [ports, sequence, acknowledgement, rest, finish(sum) as u32, option]
    }
}
