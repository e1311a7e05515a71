//! `[guard]` → model: two lists of networks, one of which may come from a file.

use std::collections::BTreeMap;

use ipnet::IpNet;
use lb_common::limits::GUARDED_NETWORKS_MAX;

use super::context::Context;
use super::only;
use crate::config::model::steering::Guard;
use crate::config::read::Parsed;
use crate::config::reading::{Field, FromText, Located};
use crate::config::report::{Place, Problem, quote};

/// Mistakes in a file of networks that are reported one by one.
const FILE_MISTAKES_MAX: usize = 5;

/// The lists.
pub fn guard(files: &[Parsed], context: &mut Context<'_>) -> Guard {
    let Some(section) = only(files, "guard", |file| &file.guard, context) else { return Guard::default() };
    let section = &section.value;
    check_both(&section.deny, &section.allow, context);
    let mut deny = networks(&section.deny);
    deny.extend(deny_file(&section.deny_file, context));
    let guard = Guard { deny: tidy(deny), allow: tidy(networks(&section.allow)) };
    let amount = guard.deny.len() + guard.allow.len();
    if amount > GUARDED_NETWORKS_MAX as usize {
        let message = format!("[guard] names {amount} networks, and one node holds {GUARDED_NETWORKS_MAX}");
        context.push(Problem::of_file(message, "join neighbours into larger networks"));
    }
    guard
}

fn networks(field: &Field<Vec<Located<IpNet>>>) -> Vec<IpNet> {
    field.get().into_iter().flatten().map(|network| network.value).collect()
}

/// Without host bits, sorted, each once.
fn tidy(mut networks: Vec<IpNet>) -> Vec<IpNet> {
    for network in &mut networks {
        *network = network.trunc();
    }
    networks.sort_unstable();
    networks.dedup();
    networks
}

/// A network that is denied and allowed says nothing.
fn check_both(
    deny: &Field<Vec<Located<IpNet>>>,
    allow: &Field<Vec<Located<IpNet>>>,
    context: &mut Context<'_>,
) {
    let denied: BTreeMap<IpNet, Place> =
        deny.get().into_iter().flatten().map(|network| (network.value.trunc(), network.place)).collect();
    for network in allow.get().into_iter().flatten() {
        if let Some(first) = denied.get(&network.value.trunc()) {
            let message = format!("[guard] denies and allows {}", network.value);
            let hint = "remove one of them; the longer prefix wins where they differ";
            let problem = Problem::error(network.place, message, "allowed here", hint);
            context.push(problem.with_other(*first, "denied here"));
        }
    }
}

fn deny_file(field: &Field<String>, context: &mut Context<'_>) -> Vec<IpNet> {
    let Some(written) = field.located() else { return Vec::new() };
    let Some(path) = context.path(field) else { return Vec::new() };
    match context.system.text(&path) {
        Ok(text) => listed(&text, written, context),
        Err(error) => {
            let message = format!("[guard]: deny_file {} cannot be read: {error}", written.value);
            let hint = "create it with one network per line, or leave the key out; a path is relative to the file that names it";
            context.push(Problem::error(written.place, message, "cannot be read", hint));
            Vec::new()
        }
    }
}

/// The networks in a file: one per line, `#` begins a comment.
fn listed(text: &str, file: &Located<String>, context: &mut Context<'_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    let mut mistakes = 0;
    for (index, line) in text.lines().enumerate() {
        let network = line.split('#').next().unwrap_or_default().trim();
        if network.is_empty() {
            continue;
        }
        match IpNet::from_text(network) {
            Ok(network) => networks.push(network),
            Err(refusal) => {
                mistakes += 1;
                if mistakes <= FILE_MISTAKES_MAX {
                    let message =
                        format!("{}:{}: {} is not a network", file.value, index + 1, quote(network));
                    context.push(Problem::error(file.place, message, "in this file", refusal.hint));
                }
            }
        }
    }
    if mistakes > FILE_MISTAKES_MAX {
        let message = format!("{}: {mistakes} lines are no networks", file.value);
        let hint = "write one network per line, such as \"10.0.0.0/8\"; # begins a comment";
        context.push(Problem::error(file.place, message, "is this the file that was meant?", hint));
    }
    networks
}
