//! Who may: the deny and allow lists, and how fast one source may open flows.

use crate::flow::{Source, SourceKey};
use crate::hash;
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

/// Whether the source may open a flow now; it has then. Without a limit: always.
#[inline(always)]
pub fn may_open<T: Tables>(tables: &T, vip: u32, row: &VipRow, source: &[u8; 16]) -> bool {
    if row.source_rate == 0 {
        return true;
    }
    take(tables, &SourceKey { address: network_of(source), vip }, row.source_rate, row.source_burst)
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

/// Takes a token from a bucket that gains `rate` each second and holds `burst` (one at least). Two CPUs may take the same one: a limit need not be exact.
#[inline(always)]
fn take<T: Tables>(tables: &T, key: &SourceKey, rate: u32, burst: u32) -> bool {
    let now_ns = tables.now_ns();
    let full_milli = if burst == 0 { 1000 } else { burst as u64 * 1000 };
    let tokens_milli = match tables.source(key) {
        Some(source) => {
            let gained_milli = elapsed_us(source.filled_at_ns, now_ns).wrapping_mul(rate as u64) / 1000;
            let sum = source.tokens_milli.wrapping_add(gained_milli);
            if sum < full_milli { sum } else { full_milli }
        }
        None => full_milli,
    };
    if tokens_milli < 1000 {
        return false;
    }
    tables.set_source(key, &Source { filled_at_ns: now_ns, tokens_milli: tokens_milli - 1000 });
    true
}

/// At most 2³² µs, so that no product overflows.
#[inline(always)]
fn elapsed_us(since_ns: u64, now_ns: u64) -> u64 {
    let elapsed_us = now_ns.saturating_sub(since_ns) / 1000;
    if elapsed_us < u32::MAX as u64 { elapsed_us } else { u32::MAX as u64 }
}
