//! Stage `Answer`: ICMP "too big" and "time exceeded" to the sender of a packet that cannot go on.

use super::{Step, fault};
use crate::packet::Frame;
use crate::tables::Tables;

/// The stage.
#[inline(always)]
pub fn answer<F: Frame, T: Tables>(_frame: &mut F, tables: &T) -> Step {
    Step::Done(fault(tables))
}
