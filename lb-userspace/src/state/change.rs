//! What an operator is told of a reload: the differences of two configurations, a line each.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::same_process;
use crate::config::model::{Backend, Model, Program, Upstream};

/// What changes from one configuration to the next.
pub(super) fn lines(before: Option<&Model>, after: &Model) -> Vec<String> {
    let Some(before) = before else { return first_lines(after) };
    let mut lines = listener_lines(before, after);
    if before.routes != after.routes {
        lines.push(format!("routes: changed, {} now", after.routes.len()));
    }
    for name in names(&before.upstreams, &after.upstreams) {
        lines.extend(upstream_lines(name, before.upstreams.get(name), after.upstreams.get(name)));
    }
    for name in names(&before.programs, &after.programs) {
        lines.push(program_line(name, before.programs.get(name), after.programs.get(name)));
    }
    lines
}

fn first_lines(after: &Model) -> Vec<String> {
    let listeners = after.listeners.iter().map(|each| format!("listener {}: added", each.name));
    let upstreams = after.upstreams.keys().map(|name| format!("upstream {name}: added"));
    let programs = after.programs.keys().map(|name| format!("program {name}: added"));
    listeners.chain(upstreams).chain(programs).collect()
}

fn names<'m, T>(before: &'m BTreeMap<String, T>, after: &'m BTreeMap<String, T>) -> BTreeSet<&'m String> {
    before.keys().chain(after.keys()).collect()
}

fn listener_lines(before: &Model, after: &Model) -> Vec<String> {
    let of = |model: &Model| -> BTreeMap<String, Vec<std::net::SocketAddr>> {
        model.listeners.iter().map(|each| (each.name.clone(), each.bind.clone())).collect()
    };
    let (was, is) = (of(before), of(after));
    let word = |name: &String| match (was.get(name), is.get(name)) {
        (None, _) => Some("added"),
        (_, None) => Some("removed"),
        (a, b) => (a != b).then_some("changed"),
    };
    names(&was, &is)
        .into_iter()
        .filter_map(|name| Some(format!("listener {name}: {}", word(name)?)))
        .collect()
}

fn upstream_lines(name: &str, before: Option<&Upstream>, after: Option<&Upstream>) -> Vec<String> {
    match (before, after) {
        (None, _) => vec![format!("upstream {name}: added")],
        (_, None) => vec![format!("upstream {name}: removed")],
        (Some(before), Some(after)) => changed_upstream_lines(name, before, after),
    }
}

fn changed_upstream_lines(name: &str, before: &Upstream, after: &Upstream) -> Vec<String> {
    let of = |upstream: &Upstream| -> BTreeMap<String, Backend> {
        upstream.backends.iter().map(|each| (each.address.to_string(), each.clone())).collect()
    };
    let (was, is) = (of(before), of(after));
    let mut lines: Vec<String> = names(&was, &is)
        .into_iter()
        .filter_map(|address| backend_word(was.get(address), is.get(address), address))
        .map(|what| format!("upstream {name}: backend {what}"))
        .collect();
    let same_settings = *before == Upstream { backends: before.backends.clone(), ..after.clone() };
    if !same_settings {
        lines.push(format!("upstream {name}: settings changed"));
    }
    lines
}

fn backend_word(was: Option<&Backend>, is: Option<&Backend>, address: &str) -> Option<String> {
    match (was, is) {
        (None, _) => Some(format!("added {address}")),
        (_, None) => Some(format!("removed {address}")),
        (Some(a), Some(b)) => (a != b).then(|| format!("changed {address}, weight {}", b.weight)),
    }
}

fn program_line(name: &str, before: Option<&Program>, after: Option<&Program>) -> String {
    let what = match (before, after) {
        (None, _) => "added".to_owned(),
        (_, None) => "removed: drained and stopped".to_owned(),
        (Some(before), Some(after)) => changed_program_words(before, after),
    };
    format!("program {name}: {what}")
}

fn changed_program_words(before: &Program, after: &Program) -> String {
    let scaled = (before.instances != after.instances)
        .then(|| format!("instances {} → {}", before.instances, after.instances));
    let unscaled = Program { instances: before.instances, ..after.clone() };
    let process = if !same_process(before, after) {
        Some("changed: replaced one instance after the other")
    } else if *before != unscaled {
        Some("settings changed, processes kept")
    } else {
        None
    };
    let words: Vec<String> = scaled.into_iter().chain(process.map(str::to_owned)).collect();
    if words.is_empty() { "unchanged".to_owned() } else { words.join("; ") }
}
