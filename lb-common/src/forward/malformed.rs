//! Stage `Malformed`: packets of no use to anybody, dropped where they are for a VIP's address.

use super::{Step, drop, vip};
use crate::packet::Frame;
use crate::packet::parse::{Unparsed, addresses, parse_beginning};
use crate::tables::Tables;
use crate::verdict::Verdict;

/// The stage.
#[inline(always)]
pub fn malformed<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let (Err(Unparsed::Fault(reason)), Some((_, _, target))) = (parse_beginning(frame), addresses(frame))
    else {
        return Step::Done(Verdict::Pass);
    };
    match vip::of_address(tables, &target) {
        Some(vip) => drop(tables, vip, reason),
        None => Step::Done(Verdict::Pass),
    }
}
