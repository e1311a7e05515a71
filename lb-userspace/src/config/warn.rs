//! What is legal but surely not meant.

use super::model::Model;
use super::read::Parsed;
use super::report::Problem;
use super::system::System;

/// Records a warning for each.
pub fn warn(_files: &[Parsed], _model: &Model, _system: &dyn System, _problems: &mut Vec<Problem>) {}
