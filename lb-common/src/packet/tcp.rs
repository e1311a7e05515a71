//! TCP headers (RFC 9293).

use bytemuck::{Pod, Zeroable};

use super::Frame;

/// A header without its options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Source port, then destination port in memory.
    pub ports: u32,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Header length in words in the upper half.
    pub words: u8,
    /// [`SYN`] and its neighbours.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Bytes of a header without options.
pub const HEADER_BYTES: usize = 20;
/// Where the checksum is.
pub const CHECKSUM_AT: usize = 16;
/// Where the window is.
pub const WINDOW_AT: usize = 14;
/// The option that says how many bytes a segment may have; the number is in the last two of its four bytes.
pub const SEGMENT_OPTION: u8 = 2;
/// Where the sequence number is.
pub const SEQUENCE_AT: usize = 4;
/// Where the acknowledgement number is.
pub const ACKNOWLEDGEMENT_AT: usize = 8;

/// No more data from the sender.
pub const FIN: u8 = 1;
/// The first packet of a direction.
pub const SYN: u8 = 2;
/// The connection is gone.
pub const RST: u8 = 4;
/// The acknowledgement number counts.
pub const ACK: u8 = 16;
/// The six flags of RFC 793; the two above are ECN's.
pub const FLAGS: u8 = 63;

/// The four bytes at `field` of a TCP header.
#[inline(always)]
pub fn number<F: Frame>(frame: &F, transport_at: usize, field: usize) -> Option<u32> {
    Some(u32::from_be_bytes(frame.read(transport_at + field)?))
}

impl Header {
    /// Bytes of the header with its options, 0–60.
    #[inline(always)]
    pub const fn header_bytes(&self) -> usize {
        (self.words >> 4 << 2) as usize
    }
}

/// A bit for each combination of the six flags that no connection has: none at all, SYN with FIN or RST, RST with FIN,
/// FIN without ACK.
const IMPOSSIBLE: u64 = impossible();

/// Whether no connection has such flags.
#[inline(always)]
pub const fn are_impossible(flags: u8) -> bool {
    IMPOSSIBLE >> (flags & FLAGS) & 1 != 0
}

const fn impossible() -> u64 {
    let (mut set, mut flags) = (0, 0);
    while flags <= FLAGS {
        let opens = flags & SYN != 0;
        let finishes = flags & FIN != 0;
        let resets = flags & RST != 0;
        let nothing = flags & (SYN | FIN | RST | ACK) == 0;
        if nothing || opens && (finishes || resets) || resets && finishes || finishes && flags & ACK == 0 {
            set |= 1 << flags;
        }
        flags += 1;
    }
    set
}

const _: () = assert!(core::mem::size_of::<Header>() == HEADER_BYTES);
