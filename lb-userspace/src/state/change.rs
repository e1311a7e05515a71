//! What an operator is told of a reload: the differences of two configurations, a line each.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::same_process;
use crate::config::model::steering::{Guard, Steering, Vip};
use crate::config::model::{Backend, Model, Program, Upstream};

/// The end of a line that tells of no difference.
const UNCHANGED: &str = "unchanged";

/// What changes from one configuration to the next.
pub(super) fn lines(before: Option<&Model>, after: &Model) -> Vec<String> {
    let Some(before) = before else { return first_lines(after) };
    let mut lines = section_lines(before, after);
    lines.extend(listener_lines(before, after));
    if before.routes != after.routes {
        lines.push(format!("routes: changed, {} now", after.routes.len()));
    }
    for name in names(&before.upstreams, &after.upstreams) {
        lines.extend(upstream_lines(name, before.upstreams.get(name), after.upstreams.get(name)));
    }
    for name in names(&before.programs, &after.programs) {
        lines.push(program_line(name, before.programs.get(name), after.programs.get(name)));
    }
    lines.extend(vip_lines(before, after));
    lines
}

/// How many of `lines` tell of a difference, in words.
pub(super) fn count(lines: &[String]) -> String {
    match lines.iter().filter(|line| !line.ends_with(UNCHANGED)).count() {
        0 => "no changes".to_owned(),
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    }
}

/// What is not listed by name.
fn section_lines(before: &Model, after: &Model) -> Vec<String> {
    let without_vips =
        |model: &Model| Steering { vips: Vec::new(), guard: Guard::default(), ..model.steering.clone() };
    let sections = [
        ("node", before.node != after.node),
        ("metrics", before.metrics_bind != after.metrics_bind),
        ("kernel", before.kernel != after.kernel || without_vips(before) != without_vips(after)),
        ("log", before.log != after.log),
        ("guard", before.steering.guard != after.steering.guard),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| format!("{name}: changed")).collect()
}

fn vip_lines(before: &Model, after: &Model) -> Vec<String> {
    let of = |model: &Model| -> BTreeMap<String, Vip> {
        model.steering.vips.iter().map(|each| (each.name.clone(), each.clone())).collect()
    };
    let (was, is) = (of(before), of(after));
    names(&was, &is)
        .into_iter()
        .filter_map(|name| Some(format!("vip {name}: {}", word(was.get(name), is.get(name))?)))
        .collect()
}

/// What became of a thing with a name; `None`: nothing.
fn word<T: PartialEq>(was: Option<&T>, is: Option<&T>) -> Option<&'static str> {
    match (was, is) {
        (None, _) => Some("added"),
        (_, None) => Some("removed"),
        (a, b) => (a != b).then_some("changed"),
    }
}

fn first_lines(after: &Model) -> Vec<String> {
    let listeners = after.listeners.iter().map(|each| format!("listener {}: added", each.name));
    let upstreams = after.upstreams.keys().map(|name| format!("upstream {name}: added"));
    let programs = after.programs.keys().map(|name| format!("program {name}: added"));
    let vips = after.steering.vips.iter().map(|each| format!("vip {}: added", each.name));
    listeners.chain(upstreams).chain(programs).chain(vips).collect()
}

fn names<'m, T>(before: &'m BTreeMap<String, T>, after: &'m BTreeMap<String, T>) -> BTreeSet<&'m String> {
    before.keys().chain(after.keys()).collect()
}

fn listener_lines(before: &Model, after: &Model) -> Vec<String> {
    let of = |model: &Model| -> BTreeMap<String, Vec<std::net::SocketAddr>> {
        model.listeners.iter().map(|each| (each.name.clone(), each.bind.clone())).collect()
    };
    let (was, is) = (of(before), of(after));
    names(&was, &is)
        .into_iter()
        .filter_map(|name| Some(format!("listener {name}: {}", word(was.get(name), is.get(name))?)))
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
    if words.is_empty() { UNCHANGED.to_owned() } else { words.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::simulation::models::{model, program, upstream};

    fn docs(change: impl FnOnce(&mut Model)) -> Model {
        let mut model = model(vec![upstream("docs")], vec![program("docs", Some("docs"), 1)]);
        change(&mut model);
        model
    }

    fn check(change: impl FnOnce(&mut Model), expect: &str) {
        assert_eq!(count(&lines(Some(&docs(|_| {})), &docs(change))), expect);
    }

    #[test]
    fn only_differences_are_counted() {
        check(|_| {}, "no changes");
        check(|model| model.node.name.push('x'), "1 change");
        check(|model| model.steering.guard.deny = vec!["10.0.0.0/8".parse().unwrap()], "1 change");
        check(|model| model.steering.flows += 1, "1 change");
        check(
            |model| {
                model.programs.get_mut("docs").unwrap().instances = 2;
                model.upstreams.insert("api".into(), upstream("api"));
            },
            "2 changes",
        );
    }
}
