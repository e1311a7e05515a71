//! Stage `Nat`: translated flows. Holds the rewriting of known flows and the opening of new ones.

use super::{Step, fault};
use crate::packet::Frame;
use crate::packet::parse::Packet;
use crate::tables::Tables;

/// The stage.
#[inline(always)]
pub fn nat<F: Frame, T: Tables>(_frame: &mut F, tables: &T) -> Step {
    Step::Done(fault(tables))
}

/// A packet of a translated flow that is known, in either direction: rewritten and counted. `None`: no such flow.
///
/// Part of the program `steer`, for packets that VIPs with NAT might have: small and quick.
#[inline(always)]
pub fn known<F: Frame, T: Tables>(_frame: &mut F, _tables: &T, _packet: &Packet) -> Option<Step> {
    None
}
