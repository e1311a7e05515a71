//! Packets: how their bytes are reached, what is read from them, and what is written into them.

pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod parse;
pub mod quoted;
pub mod rewrite;
pub mod segment;
pub mod tcp;
pub mod translate;
pub mod udp;

use bytemuck::Pod;

/// A frame as the decisions see it: bytes that are there or not.
///
/// The kernel's compares each access with the end of the frame, which is what its verifier wants to see; the host's is a
/// buffer with room in front, of the size that XDP gives.
pub trait Frame {
    /// Bytes from the link-layer header to the end.
    fn bytes(&self) -> usize;

    /// Whether it has at least so many bytes; cheaper than [`Self::bytes`] where it has.
    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        self.bytes() >= bytes
    }

    /// The value at `at`; `None` beyond the end. In place, without alignment.
    fn read<T: Pod>(&self, at: usize) -> Option<T>;

    /// Writes the value at `at`; `None` beyond the end, and nothing is written.
    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()>;

    /// Moves the beginning: `bytes` more in front, or fewer where negative. What is new has any content. `None`: there is no room, and nothing
    /// has changed.
    fn grow_front(&mut self, bytes: i32) -> Option<()>;

    /// Cuts or extends the end so that the frame has so many bytes. `None`: not possible, and nothing has changed.
    fn set_bytes(&mut self, bytes: usize) -> Option<()>;

    /// The interface that the frame came from.
    fn ingress(&self) -> u32;

    /// `at`, which is at most `mask` (one less than a power of two).
    ///
    /// The kernel's verifier follows each constant that a branch left in a variable separately, and verifies all that comes
    /// after once for each. Here it forgets the value and keeps the bound, so that the ways join again.
    #[inline(always)]
    fn settle(&self, at: usize, mask: usize) -> usize {
        at & mask
    }

    /// Whether `fact` is not zero, tested as if for the first time; see [`Self::settle`]. A number, because what is made from a
    /// `bool` is again two ways.
    #[inline(always)]
    fn is_set(&self, fact: u8) -> bool {
        self.settle(fact as usize, 0xff) != 0
    }
}
