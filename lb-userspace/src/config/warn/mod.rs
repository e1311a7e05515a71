//! What is legal but surely not meant: said by `lbctl check` and at start, never refused.

mod command;
mod file;
mod port;
mod program;
mod route;
mod vip;

use super::model::Model;
use super::read::Parsed;
use super::report::{Place, Problem, Source};
use super::system::System;

/// Records a warning for each. `model` holds no errors.
pub fn warn(
    files: &[Parsed],
    sources: &[Source],
    model: &Model,
    system: &dyn System,
    problems: &mut Vec<Problem>,
) {
    let view = View { files, sources, model, system };
    problems.extend(port::warnings(&view));
    problems.extend(program::warnings(&view));
    problems.extend(route::warnings(&view));
    problems.extend(file::warnings(&view));
    problems.extend(vip::warnings(&view));
}

/// What warnings are made from.
struct View<'a> {
    files: &'a [Parsed],
    sources: &'a [Source],
    model: &'a Model,
    system: &'a dyn System,
}

impl View<'_> {
    /// The part of `place` that reads `text`; all of it where that cannot be found.
    fn part(&self, place: Place, text: &str) -> Place {
        let whole = self.sources.get(place.file).and_then(|source| source.text.get(place.start..place.end));
        match whole.and_then(|whole| whole.find(text)) {
            Some(offset) => {
                let start = place.start + offset;
                Place { start, end: start + text.len(), ..place }
            }
            None => place,
        }
    }
}
