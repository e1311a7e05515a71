//! What programs wait for: it must exist, and nobody may wait for itself.

use std::collections::BTreeMap;

use super::context::Context;
use super::named;
use crate::config::model::{AutoRestart, Dependency, DependencyCondition, Model};
use crate::config::read::Parsed;
use crate::config::report::{Place, Problem};

/// One entry of `depends_on` between programs.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    place: Place,
}

/// Checks what sections say about each other.
pub fn check(files: &[Parsed], model: &Model, context: &mut Context<'_>) {
    let edges = edges(files);
    let mut known: Vec<&str> =
        named(files, |file| &file.program).map(|(name, _)| name.value.as_str()).collect();
    known.sort_unstable();
    for edge in edges.iter().filter(|edge| known.binary_search(&edge.to).is_err()) {
        let owner = format!("program \"{}\": depends_on", edge.from);
        context.unknown_reference(&owner, "program", edge.to, edge.place, &known);
    }
    for edge in &edges {
        check_completion(edge, model, context);
    }
    for cycle in cycles(&edges) {
        context.push(cycle_problem(&cycle));
    }
}

/// Entries that name a program, in file order.
fn edges(files: &[Parsed]) -> Vec<Edge<'_>> {
    let programs = named(files, |file| &file.program);
    let mut edges = Vec::new();
    for (name, section) in programs {
        let entries = section.as_ref().and_then(|section| section.value.depends_on.get());
        for (dependency, _) in entries.into_iter().flatten() {
            if !dependency.value.starts_with("tcp:") {
                edges.push(Edge { from: &name.value, to: &dependency.value, place: dependency.place });
            }
        }
    }
    edges
}

/// A program that is always started again never completes.
fn check_completion(edge: &Edge<'_>, model: &Model, context: &mut Context<'_>) {
    let waits_for_end = |dependency: &Dependency| matches!(dependency, Dependency::Program { name, condition: DependencyCondition::Completed } if name == edge.to);
    let is_waiting =
        model.programs.get(edge.from).is_some_and(|from| from.depends_on.iter().any(waits_for_end));
    let is_endless = model.programs.get(edge.to).is_some_and(|to| to.autorestart == AutoRestart::Always);
    if is_waiting && is_endless {
        let message = format!(
            "program \"{}\" waits for \"{}\" to complete, which is always started again",
            edge.from, edge.to
        );
        let hint = format!("write autorestart = \"on-failure\" or \"never\" in [program.{}]", edge.to);
        context.push(Problem::error(edge.place, message, "this never happens", hint));
    }
}

fn cycle_problem(cycle: &[&Edge<'_>]) -> Problem {
    let names: Vec<&str> = cycle.iter().map(|edge| edge.from).collect();
    let shown = format!("{} → {}", names.join(" → "), names[0]);
    let message = format!("depends_on goes in a circle: {shown}");
    let hint = "none of these could start first: remove one of the dependencies";
    let problem = Problem::error(cycle[0].place, message, "waits for itself in the end", hint);
    match cycle.get(1) {
        Some(second) => problem.with_other(second.place, "and this one"),
        None => problem,
    }
}

/// Every circle that a depth-first search meets, each once.
fn cycles<'e, 'a>(edges: &'e [Edge<'a>]) -> Vec<Vec<&'e Edge<'a>>> {
    let mut search = Search { outgoing: BTreeMap::new(), done: BTreeMap::new(), cycles: Vec::new() };
    for edge in edges {
        search.outgoing.entry(edge.from).or_default().push(edge);
    }
    for edge in edges {
        search.visit(edge.from);
    }
    search.cycles
}

struct Search<'e, 'a> {
    outgoing: BTreeMap<&'a str, Vec<&'e Edge<'a>>>,
    /// `false` while a program is on the path, `true` once everything behind it has been seen.
    done: BTreeMap<&'a str, bool>,
    cycles: Vec<Vec<&'e Edge<'a>>>,
}

impl<'e, 'a> Search<'e, 'a> {
    /// Not recursive: a file may chain as many programs as it likes.
    fn visit(&mut self, start: &'a str) {
        if self.done.contains_key(start) {
            return;
        }
        self.done.insert(start, false);
        let mut path: Vec<&'e Edge<'a>> = Vec::new();
        let mut next_of: Vec<(&'a str, usize)> = vec![(start, 0)];
        while let Some((program, next)) = next_of.last_mut() {
            let edge = self.outgoing.get(program).and_then(|edges| edges.get(*next)).copied();
            *next += 1;
            let Some(edge) = edge else {
                self.done.insert(program, true);
                next_of.pop();
                path.pop();
                continue;
            };
            match self.done.get(edge.to) {
                Some(true) => {}
                Some(false) => self.close(&path, edge),
                None => {
                    self.done.insert(edge.to, false);
                    path.push(edge);
                    next_of.push((edge.to, 0));
                }
            }
        }
    }

    fn close(&mut self, path: &[&'e Edge<'a>], last: &'e Edge<'a>) {
        let start = path.iter().position(|edge| edge.from == last.to).unwrap_or(path.len());
        self.cycles.push(path[start..].iter().copied().chain([last]).collect());
    }
}
