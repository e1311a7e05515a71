//! SYN cookies by the kernel's helpers (Linux 6.0), which a forwarder that has no socket may call.

use lb_common::flow::FlowKey;

/// See `Tables::cookie`.
#[inline(always)]
pub fn make(_key: &FlowKey, _sequence: u32, _class: u8) -> Option<u32> {
    None
}

/// See `Tables::cookie_holds`.
#[inline(always)]
pub fn holds(_key: &FlowKey, _sequence: u32, _class: u8, _cookie: u32) -> bool {
    false
}
