//! The short-cut between two local sockets: how each finds the other end, and when a message may take it.
//!
//! A message that takes the short-cut is put into the reader's queue at once; one that goes by TCP arrives later. The
//! reader takes short-cut messages first. So going from short-cut to TCP keeps the order always, and going back keeps
//! it only when the reader has read every byte that was ever sent by TCP. [`way`] says which way each message goes.

use bytemuck::{Pod, Zeroable};

use crate::limits::{SHORT_CUT_BYTES_MAX, SHORT_CUT_SMALL_BYTES};

/// An IPv6 address, or an IPv4 one in its mapped form: one spelling for one address.
///
/// Four words, each with its bytes as they lie in a packet: that is how the kernel hands addresses out, and single bytes
/// would cost the program a hundred instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// The address of an IPv4 socket, its bytes as they lie in a packet.
    #[inline(always)]
    pub const fn from_v4(v4: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), v4])
    }

    /// Whether it is in 127.0.0.0/8, mapped or not, or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.0;
        let mapped = c == 0xffff_u32.to_be() && d.to_be() >> 24 == 127;
        a == 0 && b == 0 && (mapped || (c == 0 && d == 1_u32.to_be()))
    }
}

/// A connection as one of its ends sees it: the key of the map in which the ends find each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct EndKey {
    /// The network namespace's cookie: equal tuples of two namespaces never meet.
    pub namespace: u64,
    /// This end's address.
    pub local: Address,
    /// The other end's address.
    pub remote: Address,
    /// This end's port, host order.
    pub local_port: u32,
    /// The other end's port, host order.
    pub remote_port: u32,
}

const _: () = assert!(core::mem::size_of::<EndKey>() == 48);

impl EndKey {
    /// The same connection as the other end sees it.
    #[inline(always)]
    pub const fn of_peer(&self) -> Self {
        Self {
            namespace: self.namespace,
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
        }
    }

    /// Whether both ends are on this host's loopback.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        self.local.is_loopback() && self.remote.is_loopback()
    }
}

/// Which socket an end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct End {
    /// Its cookie, never used twice; the key in the map of sockets.
    pub cookie: u64,
    /// Where its `struct sock` lies. Read only before a redirect to `cookie`, whose success proves that it was alive.
    pub socket: u64,
}

/// What an enrolled socket remembers (socket storage: it goes with the socket).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Half {
    /// Its own view of the connection.
    pub key: EndKey,
    /// Where its own `struct sock` lies.
    pub socket: u64,
    /// The other end; cookie 0 while it is not known.
    pub peer: End,
}

const _: () = assert!(core::mem::size_of::<Half>() == 72);

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into the reader's queue.
    ShortCut,
    /// By TCP: bytes sent by TCP before were not read yet, and would be overtaken.
    TcpUnread,
    /// By TCP: the reader is behind, and TCP is who can make the sender wait.
    TcpNoCredit,
}

/// Which way a message of `bytes` goes, given the sequence number that the sender will write next, the one that the reader
/// will read next, and the bytes charged to the reader's queue.
///
/// The bounds: what waits in a reader's queue never exceeds [`SHORT_CUT_BYTES_MAX`] by short-cut messages, and small
/// messages, each of which costs the kernel a fixed 1 KiB or so, take the short-cut only into an empty queue.
#[inline(always)]
pub const fn way(writes_next: u32, reads_next: u32, queued_bytes: u32, bytes: u32) -> Way {
    if writes_next != reads_next {
        return Way::TcpUnread;
    }
    let small_behind_others = bytes < SHORT_CUT_SMALL_BYTES && queued_bytes != 0;
    // Written without an addition so that no queue length can wrap it.
    let full = bytes > SHORT_CUT_BYTES_MAX || queued_bytes > SHORT_CUT_BYTES_MAX - bytes;
    if small_behind_others || full { Way::TcpNoCredit } else { Way::ShortCut }
}

/// How many bytes at the beginning of a segment of `bytes` came before: it begins with the sequence number `begins`, and the
/// one before it ended before `expected`.
///
/// TCP may send bytes again in other pieces than before. A plain socket's reader skips what it has read; the kernel hands
/// an enrolled socket whole segments instead (`tcp_read_skb`, Linux 6.18), so that we must take the beginning off.
#[inline(always)]
pub const fn repeated(expected: u32, begins: u32, bytes: u32) -> u32 {
    let before = expected.wrapping_sub(begins);
    if before.cast_signed() <= 0 {
        0
    } else if before < bytes {
        before
    } else {
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_came_before_are_counted_over_the_wrap_and_never_beyond_the_segment() {
        assert_eq!(repeated(100, 100, 10), 0);
        assert_eq!(repeated(100, 47, 100), 53);
        assert_eq!(repeated(100, 101, 10), 0);
        assert_eq!(repeated(100, 50, 20), 20);
        assert_eq!(repeated(3, u32::MAX - 1, 100), 5);
        assert_eq!(repeated(u32::MAX - 1, 3, 100), 0);
        assert_eq!(repeated(100, 47, 0), 0);
    }

    #[test]
    fn loopback_is_known_in_each_spelling() {
        let v4 = |v4| Address::from_v4(u32::from_ne_bytes(v4)).is_loopback();
        assert!(v4([127, 0, 0, 1]) && v4([127, 255, 3, 4]));
        assert!(!v4([126, 0, 0, 1]) && !v4([10, 0, 0, 127]) && !v4([0, 0, 0, 1]));
        let v6 = |text: &str| {
            let bytes = text.parse::<core::net::Ipv6Addr>().unwrap().octets();
            Address(bytemuck::cast(bytes)).is_loopback()
        };
        assert!(v6("::1") && v6("::ffff:127.0.0.1"));
        assert!(!v6("::") && !v6("::2") && !v6("fe80::1") && !v6("::127.0.0.1") && !v6("1::ffff:127.0.0.1"));
    }

    #[test]
    fn peer_of_the_peer_is_oneself() {
        let key = EndKey {
            namespace: 9,
            local: Address::from_v4(1),
            remote: Address::from_v4(2),
            local_port: 1,
            remote_port: 2,
        };
        assert_ne!(key.of_peer(), key);
        assert_eq!(key.of_peer().of_peer(), key);
    }

    #[test]
    fn message_goes_by_tcp_while_tcp_bytes_are_unread_or_the_reader_is_behind() {
        let max = SHORT_CUT_BYTES_MAX;
        assert_eq!(way(5, 5, 0, 1), Way::ShortCut);
        assert_eq!(way(5, 4, 0, 1), Way::TcpUnread);
        assert_eq!(way(0, u32::MAX, 0, 1), Way::TcpUnread);
        assert_eq!(way(5, 5, 1, 1), Way::TcpNoCredit);
        assert_eq!(way(5, 5, 1, SHORT_CUT_SMALL_BYTES), Way::ShortCut);
        assert_eq!(way(5, 5, 0, max), Way::ShortCut);
        assert_eq!(way(5, 5, 0, max + 1), Way::TcpNoCredit);
        assert_eq!(way(5, 5, 1, max), Way::TcpNoCredit);
        assert_eq!(way(5, 5, u32::MAX, 4096), Way::TcpNoCredit);
        assert_eq!(way(5, 5, 0, u32::MAX), Way::TcpNoCredit);
    }
}
