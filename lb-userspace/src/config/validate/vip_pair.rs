//! What VIPs say about each other: no two for the same packet, one way of forwarding per upstream, and bounds.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::limits::{LOOKUP_TABLES_MAX, SPANS_PER_PREFIX_MAX, VIPS_MAX};

use super::context::Context;
use super::vip::Written;
use crate::config::model::steering::{Forward, Mode, PortRange, Vip};
use crate::config::report::{Place, Problem};

/// Records what does not go together.
pub fn check(vips: &[Written<'_>], context: &mut Context<'_>) {
    check_amounts(vips, context);
    check_names(vips, context);
    check_overlaps(vips, context);
    check_modes(vips, context);
    check_spans(vips, context);
}

fn check_amounts(vips: &[Written<'_>], context: &mut Context<'_>) {
    let upstreams: BTreeSet<&str> = vips.iter().filter_map(|written| written.vip.upstream()).collect();
    let amounts = [
        ("VIPs", vips.len(), VIPS_MAX as usize),
        ("upstreams of VIPs", upstreams.len(), LOOKUP_TABLES_MAX as usize),
    ];
    for (what, amount, most) in amounts.into_iter().filter(|(_, amount, most)| amount > most) {
        let message = format!("the configuration has {amount} {what}, and one node holds {most}");
        let hint =
            "join them by networks (\"203.0.113.0/28:443\") and ranges of ports, or spread them over nodes";
        context.push(Problem::of_file(message, hint));
    }
}

fn check_names(vips: &[Written<'_>], context: &mut Context<'_>) {
    // Two default names that are the same are two addresses that are, which is said better elsewhere.
    let unnamed = vips.iter().filter(|written| written.section.name.is_absent());
    let mut seen: BTreeMap<&str, Place> =
        unnamed.map(|written| (written.vip.name.as_str(), written.place)).collect();
    for name in vips.iter().filter_map(|written| written.section.name.located()) {
        context.unique("vip", &name.value.0, name.place, &mut seen);
    }
}

fn check_overlaps(vips: &[Written<'_>], context: &mut Context<'_>) {
    let mut groups: BTreeMap<_, Vec<&Written<'_>>> = BTreeMap::new();
    for written in vips {
        let key = (written.vip.address.network, written.vip.protocol.number());
        let earlier = groups.entry(key).or_default();
        let ports = written.vip.address.ports;
        if let Some(first) = earlier.iter().find(|first| collide(first.vip.address.ports, ports)) {
            context.push(overlap(first, written));
        }
        earlier.push(written);
    }
}

/// A VIP for every port stands behind those of the same address that name theirs.
fn collide(a: PortRange, b: PortRange) -> bool {
    a.overlaps(b) && a.is_every() == b.is_every()
}

fn overlap(first: &Written<'_>, second: &Written<'_>) -> Problem {
    let (a, b) = (&first.vip, &second.vip);
    let protocol = b.protocol.name();
    let message = if a.address == b.address {
        format!("two VIPs answer for {} {protocol}", b.address)
    } else {
        format!("vip \"{}\" and vip \"{}\" share ports of {} {protocol}", a.name, b.name, b.address.network)
    };
    let hint = "keep one of them, or give each ports of its own";
    Problem::error(second.place, message, "the second one", hint).with_other(first.place, "the first one")
}

/// A backend has one way to it, in one mode.
fn check_modes(vips: &[Written<'_>], context: &mut Context<'_>) {
    let mut seen: BTreeMap<&str, (&Written<'_>, Mode)> = BTreeMap::new();
    for written in vips {
        let Forward::Remote { upstream, mode } = &written.vip.forward else { continue };
        let (first, first_mode) = seen.entry(upstream).or_insert((written, *mode));
        if let Some(difference) = difference(&first.vip, *first_mode, &written.vip, *mode) {
            let message = format!(
                "vip \"{}\" and vip \"{}\" reach upstream \"{upstream}\" in two ways: {difference}",
                first.vip.name, written.vip.name
            );
            let hint = "a backend is reached in one way: write the same in both, or give the second an upstream of its own";
            let problem = Problem::error(written.place, message, "the second one", hint);
            context.push(problem.with_other(first.place, "the first one"));
        }
    }
}

fn difference(first: &Vip, a: Mode, second: &Vip, b: Mode) -> Option<String> {
    let several = |vip: &Vip| vip.address.ports.single().is_none();
    match (a, b) {
        _ if a.kind() != b.kind() => Some(format!("\"{}\" and \"{}\"", a.name(), b.name())),
        (Mode::Nat(a), Mode::Nat(b)) if a != b => Some("`source` and `ports` differ".to_owned()),
        (Mode::Nat(_), Mode::Nat(_)) if several(first) != several(second) => {
            Some("one port goes to the backend's, several keep theirs".to_owned())
        }
        _ if a != b => Some("`tunnel_source` and `tunnel_port` differ".to_owned()),
        _ => None,
    }
}

/// The kernel looks through a fixed number of ranges behind each prefix.
fn check_spans(vips: &[Written<'_>], context: &mut Context<'_>) {
    let is_spanned = |written: &&Written<'_>| written.vip.needs_span(vips.iter().map(|other| &other.vip));
    let spanned: Vec<&Written<'_>> = vips.iter().filter(is_spanned).collect();
    let mut reported = BTreeSet::new();
    for written in &spanned {
        let network = written.vip.address.network;
        let around = spanned.iter().filter(|other| other.vip.address.network.contains(&network)).count();
        if around > SPANS_PER_PREFIX_MAX && reported.insert(network) {
            let message = format!(
                "{around} VIPs with networks or ranges of ports hold {network}, and one address is looked for in {SPANS_PER_PREFIX_MAX}"
            );
            let hint = "join ranges, or name single ports: these have no such bound";
            context.push(Problem::error(written.place, message, "one of them", hint));
        }
    }
}
