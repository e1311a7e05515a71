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

/// A VLAN tag in two bytes: which VLAN, in network order, and whether the tag is of 802.1ad. 0: no tag, or one with a priority only.
#[inline(always)]
pub const fn tag(kind: u16, control: u16) -> u16 {
    let vlan = control & VLAN_MASK;
    match kind {
        VLAN => vlan,
        SERVICE_VLAN if vlan != 0 => vlan | OF_SERVICE,
        _ => 0,
    }
}

/// A [`tag`] as it lies in a frame: its type, or `otherwise` where there is none, then which VLAN. Without a branch, since each is two ways for
/// the verifier.
#[inline(always)]
pub const fn tag_words(tag: u16, otherwise: u16) -> (u16, u16) {
    let is_of_service = (tag >> OF_SERVICE.trailing_zeros() & 1).wrapping_neg();
    let kind = VLAN ^ (VLAN ^ SERVICE_VLAN) & is_of_service;
    (otherwise ^ (otherwise ^ kind) & is_there(tag).wrapping_neg(), tag & VLAN_MASK)
}

/// 1 where there is a tag, else 0; without a branch.
#[inline(always)]
pub const fn is_there(tag: u16) -> u16 {
    ((tag as u32).wrapping_neg() >> 31) as u16
}

/// The VLAN in a tag, whose other bits are priority.
const VLAN_MASK: u16 = 0x0fff_u16.to_be();
/// Of those, the one that says in [`tag`] that it is of 802.1ad.
const OF_SERVICE: u16 = 0x1000_u16.to_be();

/// Whether what follows is a VLAN tag.
#[inline(always)]
pub const fn is_tag(kind: u16) -> bool {
    kind == VLAN || kind == SERVICE_VLAN
}
