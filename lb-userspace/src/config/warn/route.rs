//! Routes, listeners and upstreams that nobody reaches, or that do what surprises.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::View;
use crate::config::model::Address;
use crate::config::report::{Place, Problem};
use crate::config::validate::{every, named};

/// Everything about what requests pass.
pub fn warnings(view: &View<'_>) -> Vec<Problem> {
    let mut problems = overridden_hosts(view);
    problems.extend(shadowed_routes(view));
    problems.extend(unused_listeners(view));
    problems.extend(unused_upstreams(view));
    problems.extend(unreachable_minimum(view));
    problems.extend(trusted_everybody(view));
    problems.extend(circles(view));
    problems
}

/// A backend that is one of our own listeners.
fn circles(view: &View<'_>) -> Vec<Problem> {
    let is_ours = |address: SocketAddr| {
        let meets = |bind: &SocketAddr| {
            let any = bind.ip().is_unspecified() && address.ip().is_loopback();
            bind.port() == address.port() && (bind.ip() == address.ip() || any)
        };
        view.model.listeners.iter().find(|listener| listener.bind.iter().any(meets))
    };
    let sections = named(view.files, |file| &file.upstream).filter_map(|(_, section)| section.as_ref());
    let backends = sections.filter_map(|section| section.value.backends.get()).flatten();
    let mut problems = Vec::new();
    for address in backends.filter_map(|backend| backend.value.address.located()) {
        let Address::Tcp(tcp) = address.value else { continue };
        if let Some(listener) = is_ours(tcp) {
            let message = format!("the backend {tcp} is the listener \"{}\" of lbctl itself", listener.name);
            let hint = "requests would go in a circle: write the address of the program behind";
            problems.push(Problem::warning(address.place, message, "that is us", hint));
        }
    }
    problems
}

fn overridden_hosts(view: &View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for section in every(view.files, |file| &file.route) {
        let set = section.value.request_headers.get().and_then(|changes| changes.set.get());
        let host = set.into_iter().flatten().find(|(name, _)| name.value.eq_ignore_ascii_case("host"));
        if let Some((name, _)) = host {
            let upstream = section.value.upstream.get().map_or("", String::as_str);
            let message = format!("a route to \"{upstream}\" overrides Host");
            let hint = "backends build links, redirects and cookies from Host; the client's Host is passed on where \
                        this is left out, and stays in X-Forwarded-Host";
            problems.push(Problem::warning(
                name.place,
                message,
                "the backend does not see what the client asked for",
                hint,
            ));
        }
    }
    problems
}

fn shadowed_routes(view: &View<'_>) -> Vec<Problem> {
    let mut seen: BTreeMap<_, Place> = BTreeMap::new();
    let mut problems = Vec::new();
    for (section, route) in every(view.files, |file| &file.route).zip(&view.model.routes) {
        let place = section.value.path.located().map_or(section.place, |path| path.place);
        let key = (&route.listener, &route.host, &route.path);
        match seen.get(&key) {
            None => drop(seen.insert(key, place)),
            Some(first) => {
                let message = format!("a route to \"{}\" is never reached", route.upstream);
                let hint =
                    "another route has the same listener, host and path, and stands before it: remove one";
                problems.push(
                    Problem::warning(place, message, "the second one", hint)
                        .with_other(*first, "this one gets all"),
                );
            }
        }
    }
    problems
}

fn unused_listeners(view: &View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for section in every(view.files, |file| &file.listener) {
        let Some(name) = section.value.name.located() else { continue };
        if !view.model.routes.iter().any(|route| route.listener == name.value.0) {
            let message = format!("listener \"{}\" has no route", name.value.0);
            let hint = "it answers 404 to everything: add a [[route]] for it, or remove it";
            problems.push(Problem::warning(name.place, message, "leads nowhere", hint));
        }
    }
    problems
}

fn unused_upstreams(view: &View<'_>) -> Vec<Problem> {
    let sections = named(view.files, |file| &file.upstream).map(|(name, _)| (&name.value, name.place));
    let programs = named(view.files, |file| &file.program).filter_map(|(_, section)| section.as_ref());
    let of_programs = programs.filter_map(|section| section.value.upstream.located());
    let mut places: BTreeMap<&String, Place> = of_programs.map(|name| (&name.value.0, name.place)).collect();
    places.extend(sections);
    let by_vip = |name: &String| view.model.steering.vips.iter().any(|vip| vip.upstream() == Some(name));
    let is_used =
        |name: &String| by_vip(name) || view.model.routes.iter().any(|route| route.upstream == *name);
    let unused = places.into_iter().filter(|(name, _)| !is_used(name));
    let warning = |(name, place): (&String, Place)| {
        let message = format!("upstream \"{name}\" is used by no route and no VIP");
        let hint = format!("add a [[route]] with `upstream = \"{name}\"`");
        Problem::warning(place, message, "gets no requests", hint)
    };
    unused.map(warning).collect()
}

/// A minimum of all backends means that none may ever be restarted.
fn unreachable_minimum(view: &View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, section) in named(view.files, |file| &file.upstream) {
        let min_in = section.as_ref().and_then(|section| section.value.min_in.located());
        let (Some(min_in), Some(upstream)) = (min_in, view.model.upstreams.get(&name.value)) else {
            continue;
        };
        let programs = view.model.programs.values();
        let of_programs: usize = programs
            .filter(|program| program.upstream.as_ref() == Some(&name.value))
            .map(|program| program.instances as usize)
            .sum();
        let backends = of_programs + upstream.backends.len();
        if of_programs > 0 && upstream.min_in >= backends {
            let message = format!("upstream \"{}\" may never lose a backend", name.value);
            let hint =
                "no restart, reload or scaling can take one out: have more instances, or a lower min_in";
            let label = format!("of {backends}");
            problems.push(Problem::warning(min_in.place, message, label, hint));
        }
    }
    problems
}

fn trusted_everybody(view: &View<'_>) -> Vec<Problem> {
    let node = view.files.iter().find_map(|file| file.sections.node.get());
    let proxies = node.and_then(|node| node.trusted_proxies.get()).into_iter().flatten();
    let everybody = proxies.filter(|network| network.value.prefix_len() == 0);
    let warning = |place: Place| {
        let hint = "name the networks of your own proxies, such as \"10.0.0.0/8\"";
        Problem::warning(place, "every client is trusted as a proxy", "anybody can claim any address", hint)
    };
    everybody.map(|network| warning(network.place)).collect()
}
