//! Stage `Fragment`: parts of datagrams, of which only the first has ports.

use super::{Step, fault};
use crate::packet::Frame;
use crate::tables::Tables;

/// The stage.
#[inline(always)]
pub fn fragment<F: Frame, T: Tables>(_frame: &mut F, tables: &T) -> Step {
    Step::Done(fault(tables))
}
