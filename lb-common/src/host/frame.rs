//! A frame in a buffer, with the room around it that XDP has.

use std::vec;
use std::vec::Vec;

use bytemuck::Pod;

use crate::packet::Frame;

/// `XDP_PACKET_HEADROOM`.
const HEADROOM_BYTES: usize = 256;
/// The kernel's `struct xdp_frame`, which lies at the beginning of the room and is never given away.
const RESERVED_BYTES: usize = 40;
/// A page without the room in front and the kernel's `struct skb_shared_info` behind: the longest frame in one piece.
pub const FRAME_BYTES_MAX: usize = 4096 - HEADROOM_BYTES - 320;
/// Neither end may be moved so that less is left.
const FRAME_BYTES_MIN: usize = 14;
/// In the room: who forgets to write what it added shows this.
const ROOM_FILL: u8 = 0xa5;

/// A frame of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFrame {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ingress: u32,
}

impl HostFrame {
    /// A frame that came from the interface `ingress`.
    ///
    /// # Panics
    /// When it is longer than [`FRAME_BYTES_MAX`].
    pub fn new(bytes: &[u8], ingress: u32) -> Self {
        assert!(bytes.len() <= FRAME_BYTES_MAX, "a frame of {} bytes is not in one piece", bytes.len());
        let mut buffer = vec![ROOM_FILL; HEADROOM_BYTES + FRAME_BYTES_MAX];
        let end = HEADROOM_BYTES + bytes.len();
        buffer[HEADROOM_BYTES..end].copy_from_slice(bytes);
        Self { buffer, start: HEADROOM_BYTES, end, ingress }
    }

    /// The frame as it is now.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

impl Frame for HostFrame {
    fn bytes(&self) -> usize {
        self.end - self.start
    }

    fn read<T: Pod>(&self, at: usize) -> Option<T> {
        let bytes = self.as_slice().get(at..at.checked_add(size_of::<T>())?)?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        let frame = &mut self.buffer[self.start..self.end];
        let bytes = frame.get_mut(at..at.checked_add(size_of::<T>())?)?;
        bytes.copy_from_slice(bytemuck::bytes_of(&value));
        Some(())
    }

    fn grow_front(&mut self, bytes: i32) -> Option<()> {
        let start = self.start.checked_add_signed(-(bytes as isize))?;
        if start < RESERVED_BYTES || start + FRAME_BYTES_MIN > self.end {
            return None;
        }
        self.start = start;
        Some(())
    }

    fn set_bytes(&mut self, bytes: usize) -> Option<()> {
        let end = self.start.checked_add(bytes)?;
        if bytes < FRAME_BYTES_MIN || end > self.buffer.len() {
            return None;
        }
        if end > self.end {
            self.buffer[self.end..end].fill(0);
        }
        self.end = end;
        Some(())
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_end_are_not_there() {
        let mut frame = HostFrame::new(&[1; 20], 1);
        assert_eq!(frame.read::<[u8; 4]>(16), Some([1; 4]));
        assert_eq!(frame.read::<[u8; 4]>(17), None);
        assert_eq!(frame.read::<u8>(usize::MAX), None);
        assert_eq!(frame.write(17, [0u8; 4]), None);
        assert_eq!(frame.as_slice(), [1; 20]);
    }

    #[test]
    fn room_in_front_ends_where_that_of_the_kernel_does() {
        let mut frame = HostFrame::new(&[1; 20], 1);
        assert_eq!(frame.grow_front(217), None);
        assert_eq!(frame.grow_front(216), Some(()));
        assert_eq!(frame.bytes(), 236);
        assert_eq!(frame.grow_front(1), None);
        assert_eq!(frame.grow_front(-222), Some(()));
        assert_eq!(frame.grow_front(-1), None, "an Ethernet header must be left");
        assert_eq!(frame.as_slice(), [1; 14]);
    }

    #[test]
    fn the_end_moves_within_a_page() {
        let mut frame = HostFrame::new(&[1; 20], 1);
        assert_eq!(frame.set_bytes(13), None);
        assert_eq!(frame.set_bytes(14), Some(()));
        assert_eq!(frame.set_bytes(16), Some(()));
        assert_eq!(frame.as_slice()[12..], [1, 1, 0, 0]);
        assert_eq!(frame.set_bytes(FRAME_BYTES_MAX + 1), None);
        assert_eq!(frame.set_bytes(FRAME_BYTES_MAX), Some(()));
    }
}
