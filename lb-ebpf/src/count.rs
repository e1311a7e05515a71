//! Counting events.

use lb_common::counter::Counter;

use crate::maps::COUNTERS;

/// One more.
#[inline(always)]
pub fn one(counter: Counter) {
    many(counter, 1);
}

/// `amount` more.
#[inline(always)]
pub fn many(counter: Counter, amount: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is this CPU's own entry, valid while the program runs. A program that interrupts another
        // on the same CPU can lose a count, which a statistic may.
        unsafe { *value += amount };
    }
}
