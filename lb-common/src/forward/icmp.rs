//! Stage `Icmp`: echo requests to a VIP, and ICMP errors about flows that we forwarded.

use super::{Step, fault};
use crate::packet::Frame;
use crate::tables::Tables;

/// The stage.
#[inline(always)]
pub fn icmp<F: Frame, T: Tables>(_frame: &mut F, tables: &T) -> Step {
    Step::Done(fault(tables))
}
