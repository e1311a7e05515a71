//! SYN cookies by the kernel's helpers (Linux 6.0), which need no socket: its secret, its clock, as for its own listeners.

use aya_ebpf::helpers::generated::{
    bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4,
    bpf_tcp_raw_gen_syncookie_ipv6,
};
use lb_common::flow::FlowKey;
use lb_common::packet::{ipv4, tcp};

/// Length of the TCP header that the helpers are shown, in words of 32 bits.
const HEADER_WORDS: u64 = (tcp::HEADER_BYTES / 4) as u64;
/// What the class is mixed into: the upper bits of the VIP's port, which the cookie depends on as a whole. The helper that checks does not
/// tell the size of segments which the kernel would remember itself.
const CLASS_SHIFT: u32 = 14;

/// See `Tables::cookie`.
#[inline(always)]
pub fn make(key: &FlowKey, sequence: u32, class: u8) -> Option<u32> {
    let mut tcp = header(key, class, sequence, 0);
    let bytes = tcp::HEADER_BYTES as u32;
    let given = if ipv4::is_mapped(&key.source) {
        let mut ip = addresses_ipv4(key);
        // SAFETY: a helper of this program type; both pointers are to local variables of the sizes that it reads.
        unsafe { bpf_tcp_raw_gen_syncookie_ipv4((&raw mut ip).cast(), (&raw mut tcp).cast(), bytes) }
    } else {
        let mut ip = addresses_ipv6(key);
        // SAFETY: as above.
        unsafe { bpf_tcp_raw_gen_syncookie_ipv6((&raw mut ip).cast(), (&raw mut tcp).cast(), bytes) }
    };
    (given >= 0).then_some(given as u32)
}

/// See `Tables::cookie_holds`.
#[inline(always)]
pub fn holds(key: &FlowKey, sequence: u32, class: u8, cookie: u32) -> bool {
    let mut tcp = header(key, class, sequence.wrapping_add(1), cookie.wrapping_add(1));
    let result = if ipv4::is_mapped(&key.source) {
        let mut ip = addresses_ipv4(key);
        // SAFETY: as in `make`.
        unsafe { bpf_tcp_raw_check_syncookie_ipv4((&raw mut ip).cast(), (&raw mut tcp).cast()) }
    } else {
        let mut ip = addresses_ipv6(key);
        // SAFETY: as in `make`.
        unsafe { bpf_tcp_raw_check_syncookie_ipv6((&raw mut ip).cast(), (&raw mut tcp).cast()) }
    };
    result == 0
}

/// A TCP header without options, in words that are aligned on the stack.
#[inline(always)]
fn header(key: &FlowKey, class: u8, sequence: u32, acknowledgement: u32) -> [u64; 3] {
    let words = key.words();
    let target_port = words.target_port ^ ((class as u16) << CLASS_SHIFT).to_be();
    let ports = words.source_port as u64 | (target_port as u64) << 16;
    let length = HEADER_WORDS << 4;
    [ports | (sequence.to_be() as u64) << 32, acknowledgement.to_be() as u64 | length << 32, 0]
}

/// An IPv4 header with addresses only.
#[inline(always)]
fn addresses_ipv4(key: &FlowKey) -> [u64; 3] {
    let (source, target) = (ipv4::unmapped(&key.source), ipv4::unmapped(&key.target));
    [0x45, (source as u64) << 32, target as u64]
}

/// An IPv6 header with addresses only.
#[inline(always)]
fn addresses_ipv6(key: &FlowKey) -> [u64; 5] {
    let words = key.words();
    [0x60, words.source[0], words.source[1], words.target[0], words.target[1]]
}
