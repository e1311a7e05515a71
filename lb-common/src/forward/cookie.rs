//! Stage `Cookie`: handshakes of NAT VIPs done with SYN cookies while SYNs come too fast.

use super::{Step, fault};
use crate::packet::Frame;
use crate::tables::Tables;

/// The stage.
#[inline(always)]
pub fn cookie<F: Frame, T: Tables>(_frame: &mut F, tables: &T) -> Step {
    Step::Done(fault(tables))
}
