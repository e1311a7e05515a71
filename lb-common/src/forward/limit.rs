//! Who may: the deny and allow lists, and how fast one source may open flows.

use crate::flow::{Source, SourceKey};
use crate::hash;
use crate::limits::ICMP_ERRORS_PER_SECOND;
use crate::packet::ipv4;
use crate::tables::Tables;
use crate::vip::{Guard, Settings, VipRow};

/// Whether the source may send to VIPs at all.
#[inline(always)]
pub fn is_denied<T: Tables>(tables: &T, source: &[u8; 16]) -> bool {
    let flags = tables.settings().flags;
    if flags & Settings::GUARD == 0 {
        return false;
    }
    match tables.guard(source) {
        Some(guard) => guard == Guard::Deny as u32,
        None => flags & Settings::ALLOW_ONLY != 0,
    }
}

/// Whether the source itself is denied: not only missing from the allow list, in which no router between us and a client is.
#[inline(always)]
pub fn is_named<T: Tables>(tables: &T, source: &[u8; 16]) -> bool {
    tables.settings().flags & Settings::GUARD != 0 && tables.guard(source) == Some(Guard::Deny as u32)
}

/// Whether the source may open a flow now; it has then. Without a limit: always.
#[inline(always)]
pub fn may_open<T: Tables>(tables: &T, vip: u32, row: &VipRow, source: &[u8; 16]) -> bool {
    if row.source_rate == 0 {
        return true;
    }
    let key = SourceKey { address: network_of(source), vip };
    match taken(tables.source(&key), tables.now_ns(), row.source_rate, row.source_burst) {
        Some(left) => {
            tables.set_source(&key, &left);
            true
        }
        None => false,
    }
}

/// Whether an ICMP error may be sent now (RFC 4443, section 2.4 f: their rate must be limited); it is then.
#[inline(always)]
pub fn may_answer<T: Tables>(tables: &T) -> bool {
    let answers = tables.answers();
    let bucket = if answers.filled_at_ns == 0 { None } else { Some(answers) };
    let left = taken(bucket, tables.now_ns(), ICMP_ERRORS_PER_SECOND, ICMP_ERRORS_PER_SECOND);
    if let Some(left) = &left {
        tables.set_answers(left);
    }
    left.is_some()
}

/// Counts a SYN; whether they come faster than the VIP does ordinary handshakes for: in this second and the last more than in two.
#[inline(always)]
pub fn is_flooded<T: Tables>(tables: &T, vip: u32, row: &VipRow) -> bool {
    if row.syn_rate == 0 {
        return false;
    }
    let Some(mut window) = tables.syn_window(vip) else { return false };
    let second = (tables.now_ns() / 1_000_000_000) as u32;
    if window.second != second {
        // After a quiet second the one before had none.
        window.before = if window.second.wrapping_add(1) == second { window.now } else { 0 };
        (window.second, window.now) = (second, 0);
    }
    window.now = window.now.wrapping_add(1);
    tables.set_syn_window(vip, &window);
    window.now as u64 + window.before as u64 > 2 * row.syn_rate as u64
}

/// An IPv4 address is one source; of IPv6 it is the /64, of which one host has all addresses.
#[inline(always)]
fn network_of(source: &[u8; 16]) -> [u8; 16] {
    if ipv4::is_mapped(source) {
        return *source;
    }
    bytemuck::must_cast([hash::halves(source)[0], 0])
}

/// What is left when a token is taken from a bucket that gains `rate` each second and holds `burst` (one at least); `None`: there is none. Two
/// CPUs may take the same one: a limit need not be exact.
#[inline(always)]
fn taken(bucket: Option<Source>, now_ns: u64, rate: u32, burst: u32) -> Option<Source> {
    let full_milli = if burst == 0 { 1000 } else { burst as u64 * 1000 };
    let tokens_milli = match bucket {
        Some(bucket) => {
            let gained_milli = elapsed_us(bucket.filled_at_ns, now_ns).wrapping_mul(rate as u64) / 1000;
            let sum = bucket.tokens_milli.wrapping_add(gained_milli);
            if sum < full_milli { sum } else { full_milli }
        }
        None => full_milli,
    };
    (tokens_milli >= 1000).then(|| Source { filled_at_ns: now_ns, tokens_milli: tokens_milli - 1000 })
}

/// At most 2³² µs, so that no product overflows.
#[inline(always)]
fn elapsed_us(since_ns: u64, now_ns: u64) -> u64 {
    let elapsed_us = now_ns.saturating_sub(since_ns) / 1000;
    if elapsed_us < u32::MAX as u64 { elapsed_us } else { u32::MAX as u64 }
}
