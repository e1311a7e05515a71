//! The beginning of a body, kept for a while.

use bytes::{Bytes, BytesMut};

/// Pieces of a body as one. A single piece is kept as it is. Of several one copy is made: each would hold the whole buffer that it was
/// read into, thousands of bytes for one.
#[derive(Default)]
pub struct Joined {
    only: Bytes,
    copy: BytesMut,
}

impl Joined {
    /// How many there are in all pieces.
    pub fn bytes(&self) -> usize {
        self.only.len() + self.copy.len()
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: &Bytes) {
        if self.bytes() == 0 {
            self.only = piece.clone();
            return;
        }
        if self.copy.is_empty() {
            self.copy.extend_from_slice(&std::mem::take(&mut self.only));
        }
        self.copy.extend_from_slice(piece);
    }

    /// A copy of what stands from `at` on.
    pub fn rest(&self, at: usize) -> Bytes {
        if self.copy.is_empty() { self.only.slice(at..) } else { Bytes::copy_from_slice(&self.copy[at..]) }
    }

    /// All of it; nothing is left.
    pub fn take(&mut self) -> Bytes {
        let Self { only, copy } = std::mem::take(self);
        if copy.is_empty() { only } else { copy.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte at the start of a buffer as long as those that bodies are read into.
    fn byte(value: u8) -> (Bytes, Bytes) {
        let buffer = Bytes::from(vec![value; 8192]);
        (buffer.slice(..1), buffer)
    }

    #[test]
    fn several_pieces_hold_no_buffers() {
        let mut joined = Joined::default();
        let buffers: Vec<Bytes> = (0..100)
            .map(|value| {
                let (piece, buffer) = byte(value);
                joined.push(&piece);
                buffer
            })
            .collect();
        assert!(buffers.iter().all(Bytes::is_unique));
        assert_eq!(joined.bytes(), 100);
        assert_eq!(joined.rest(97), [97, 98, 99][..]);
        assert_eq!(joined.take(), (0..100).collect::<Vec<u8>>());
        assert_eq!(joined.bytes(), 0);
    }

    #[test]
    fn single_piece_is_not_copied() {
        let mut joined = Joined::default();
        let (piece, _buffer) = byte(7);
        joined.push(&piece);
        assert_eq!(joined.rest(0).as_ptr(), piece.as_ptr());
        assert_eq!(joined.take().as_ptr(), piece.as_ptr());
    }
}
