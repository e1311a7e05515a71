//! The link layer: where the network header begins, behind up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use super::Frame;

/// Bytes of a header without tags.
pub const HEADER_BYTES: usize = 14;
/// Bytes that each tag adds.
pub const TAG_BYTES: usize = 4;
/// Where the type is in a header without tags.
pub const TYPE_AT: usize = 12;

/// Type of IPv4; these are as they lie in the frame.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// Type of IPv6.
pub const IPV6: u16 = 0x86dd_u16.to_be();
/// Type of a VLAN tag (802.1Q).
pub const VLAN: u16 = 0x8100_u16.to_be();
/// Type of an outer VLAN tag (802.1ad).
pub const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();

/// Where the network header begins, and its type. `None`: shorter than its headers.
#[inline(always)]
pub fn network<F: Frame>(frame: &F) -> Option<(usize, u16)> {
    let mut kind: u16 = frame.read(TYPE_AT)?;
    let mut at = HEADER_BYTES;
    if is_tag(kind) {
        kind = frame.read(TYPE_AT + TAG_BYTES)?;
        at += TAG_BYTES;
        if is_tag(kind) {
            kind = frame.read(TYPE_AT + 2 * TAG_BYTES)?;
            at += TAG_BYTES;
        }
    }
    Some((frame.settle(at, 31), kind))
}

#[inline(always)]
fn is_tag(kind: u16) -> bool {
    kind == VLAN || kind == SERVICE_VLAN
}
