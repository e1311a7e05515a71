//! `[upstream.NAME]` → model, and the upstreams that exist only because a program names them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::context::Context;
use super::named;
use crate::config::defaults;
use crate::config::file;
use crate::config::leaf::ProbePath;
use crate::config::model::{Address, Backend, Passive, Probe, ProbeKind, Program, Upstream};
use crate::config::read::Parsed;
use crate::config::reading::{Field, Located, Whole};
use crate::config::report::{Place, Problem};
use crate::config::units::Timespan;

/// Every upstream by name.
pub fn upstreams(
    files: &[Parsed],
    programs: &BTreeMap<String, Program>,
    context: &mut Context<'_>,
) -> BTreeMap<String, Upstream> {
    let mut seen = BTreeMap::new();
    let mut upstreams = BTreeMap::new();
    for (name, section) in named(files, |file| &file.upstream) {
        context.check_name("upstream", name);
        context.unique("upstream", &name.value, name.place, &mut seen);
        let Some(section) = section else { continue };
        let upstream = upstream(name, &section.value, backend_count(&name.value, programs), context);
        upstreams.insert(name.value.clone(), upstream);
    }
    for name in programs.values().filter_map(|program| program.upstream.as_ref()) {
        if !upstreams.contains_key(name) && !seen.contains_key(name.as_str()) {
            upstreams.insert(name.clone(), default_upstream(name, backend_count(name, programs)));
        }
    }
    upstreams
}

/// Backends that programs bring to the upstream.
fn backend_count(upstream: &str, programs: &BTreeMap<String, Program>) -> usize {
    let of_it = programs.values().filter(|program| program.upstream.as_deref() == Some(upstream));
    of_it.map(|program| program.instances as usize).sum()
}

fn default_upstream(name: &str, instances: usize) -> Upstream {
    Upstream {
        name: name.to_owned(),
        balance: Default::default(),
        keepalive: defaults::KEEPALIVE as usize,
        connect_timeout: defaults::CONNECT_TIMEOUT.get(),
        send_timeout: defaults::SEND_TIMEOUT.get(),
        read_timeout: defaults::READ_TIMEOUT.get(),
        hold_timeout: defaults::HOLD_TIMEOUT.get(),
        retry_budget: defaults::RETRY_BUDGET.share(),
        probe: None,
        passive: default_passive(),
        backends: Vec::new(),
        min_in: default_min_in(instances),
        drain_timeout: defaults::DRAIN_TIMEOUT.get(),
        slow_start: defaults::SLOW_START.get(),
    }
}

fn default_passive() -> Passive {
    Passive {
        max_fails: defaults::MAX_FAILS,
        fail_window: defaults::FAIL_WINDOW.get(),
        eject_for: defaults::EJECT_FOR.get(),
        max_ejected: defaults::MAX_EJECTED.share(),
    }
}

/// One backend must stay where there are several; where there is one, a restart takes it.
fn default_min_in(backends: usize) -> usize {
    usize::from(backends > 1)
}

fn upstream(
    name: &Located<String>,
    section: &file::Upstream,
    instances: usize,
    context: &mut Context<'_>,
) -> Upstream {
    let backends = backends(&name.value, &section.backends, context);
    if backends.is_empty() && instances == 0 && !matches!(section.backends, Field::Invalid) {
        no_backends(name, &section.backends, context);
    }
    let min_in = section.min_in.get().map(|min_in| min_in.0 as usize);
    Upstream {
        balance: section.balance.get().copied().unwrap_or_default(),
        keepalive: section.keepalive.or(defaults::KEEPALIVE).0 as usize,
        connect_timeout: section.connect_timeout.or(defaults::CONNECT_TIMEOUT).get(),
        send_timeout: section.send_timeout.or(defaults::SEND_TIMEOUT).get(),
        read_timeout: section.read_timeout.or(defaults::READ_TIMEOUT).get(),
        hold_timeout: section.hold_timeout.or(defaults::HOLD_TIMEOUT).get(),
        retry_budget: section.retry_budget.or(defaults::RETRY_BUDGET).share(),
        probe: probe(&format!("upstream \"{}\": probe", name.value), &section.probe, &READINESS, context),
        passive: section.passive.get().map_or_else(default_passive, passive),
        min_in: min_in.unwrap_or_else(|| default_min_in(instances + backends.len())),
        drain_timeout: section.drain_timeout.or(defaults::DRAIN_TIMEOUT).get(),
        slow_start: section.slow_start.or(defaults::SLOW_START).get(),
        backends,
        ..default_upstream(&name.value, instances)
    }
}

fn no_backends(
    name: &Located<String>,
    field: &Field<Vec<Located<file::Backend>>>,
    context: &mut Context<'_>,
) {
    if field.located().is_some_and(|backends| context.has_error_within(backends.place)) {
        return;
    }
    let message = format!("upstream \"{}\" has no backends", name.value);
    let hint = format!(
        "add `backends = [{{ address = \"192.0.2.10:8080\" }}]`, or a program with `upstream = \"{}\"`",
        name.value
    );
    context.push(Problem::error(name.place, message, "nobody to send requests to", hint));
}

fn backends(
    upstream: &str,
    field: &Field<Vec<Located<file::Backend>>>,
    context: &mut Context<'_>,
) -> Vec<Backend> {
    let mut seen: BTreeMap<Address, Place> = BTreeMap::new();
    let mut backends = Vec::new();
    check_server_ids(upstream, field, context);
    for section in field.get().into_iter().flatten() {
        let Some(address) = section.value.address.located() else { continue };
        if let Some(first) = seen.get(&address.value) {
            let message = format!("upstream \"{upstream}\" has the backend {} twice", address.value);
            let hint = "remove one; `weight` gives a backend more requests";
            context.push(
                Problem::error(address.place, message, "the second one", hint)
                    .with_other(*first, "the first one"),
            );
            continue;
        }
        seen.insert(address.value.clone(), address.place);
        backends.push(Backend {
            address: address.value.clone(),
            weight: section.value.weight.or(defaults::WEIGHT).0,
            backup: section.value.backup.or(false),
            server_id: section.value.server_id.get().map(|id| id.0.clone()).unwrap_or_default(),
        });
    }
    backends
}

/// A connection id leads to one backend.
fn check_server_ids(upstream: &str, field: &Field<Vec<Located<file::Backend>>>, context: &mut Context<'_>) {
    let mut seen: BTreeMap<&[u8], Place> = BTreeMap::new();
    for id in field.get().into_iter().flatten().filter_map(|backend| backend.value.server_id.located()) {
        if let Some(first) = seen.insert(&id.value.0, id.place) {
            let message = format!("two backends of upstream \"{upstream}\" have the same server_id");
            let hint = "give each the id that it writes into its connection ids";
            let problem = Problem::error(id.place, message, "the second one", hint);
            context.push(problem.with_other(first, "the first one"));
            seen.insert(&id.value.0, first);
        }
    }
}

fn passive(section: &file::Passive) -> Passive {
    Passive {
        max_fails: section.max_fails.or(defaults::MAX_FAILS).0,
        fail_window: section.fail_window.or(defaults::FAIL_WINDOW).get(),
        eject_for: section.eject_for.or(defaults::EJECT_FOR).get(),
        max_ejected: section.max_ejected.or(defaults::MAX_EJECTED).share(),
    }
}

/// The default values of one use of a probe.
pub struct ProbeDefaults {
    every: Timespan<1>,
    timeout: Timespan<1>,
    down_after: u32,
}

/// For readiness.
const READINESS: ProbeDefaults = ProbeDefaults {
    every: defaults::PROBE_EVERY,
    timeout: defaults::PROBE_TIMEOUT,
    down_after: defaults::PROBE_DOWN_AFTER,
};

/// For liveness.
pub const LIVENESS: ProbeDefaults = ProbeDefaults {
    every: defaults::LIVENESS_EVERY,
    timeout: defaults::LIVENESS_TIMEOUT,
    down_after: defaults::LIVENESS_DOWN_AFTER,
};

/// A readiness or liveness probe; `None` where there is none, or where it is wrong.
pub fn probe(
    owner: &str,
    field: &Field<file::Probe>,
    defaults: &ProbeDefaults,
    context: &mut Context<'_>,
) -> Option<Probe> {
    let Located { value: section, place } = field.located()?;
    let question =
        Question { http: &section.http, tcp: &section.tcp, host: &section.host, status: &section.status };
    let duration = |field: &Field<Timespan<1>>, default: Timespan<1>| -> Duration { field.or(default).get() };
    Some(Probe {
        kind: probe_kind(owner, *place, &question, context)?,
        every: duration(&section.every, defaults.every),
        timeout: duration(&section.timeout, defaults.timeout),
        down_after: section.down_after.or(defaults.down_after).0,
        up_after: section.up_after.or(defaults::PROBE_UP_AFTER).0,
    })
}

/// The keys that say what a probe asks.
pub struct Question<'a> {
    /// `http`.
    pub http: &'a Field<ProbePath>,
    /// `tcp`.
    pub tcp: &'a Field<bool>,
    /// `host`.
    pub host: &'a Field<String>,
    /// `status`.
    pub status: &'a Field<Vec<Located<Whole<100, 599>>>>,
}

/// What a probe asks: exactly one thing.
pub fn probe_kind(
    owner: &str,
    place: Place,
    question: &Question<'_>,
    context: &mut Context<'_>,
) -> Option<ProbeKind> {
    const HINT: &str = "write http = \"/path\" or tcp = true";
    match (question.http, question.tcp) {
        (Field::Given(http), Field::Given(tcp)) if tcp.value => {
            let problem = Problem::error(tcp.place, format!("{owner} asks two things"), "remove one", HINT);
            context.push(problem.with_other(http.place, "and this"));
            None
        }
        (Field::Given(http), _) => http_kind(owner, &http.value, question, context),
        (Field::Absent, Field::Given(tcp)) if tcp.value => {
            only_with_http(owner, question, context);
            Some(ProbeKind::Tcp)
        }
        (Field::Invalid, _) | (_, Field::Invalid) => None,
        _ if context.has_error_within(place) => None,
        _ => {
            context.push(Problem::error(
                place,
                format!("{owner} asks nothing"),
                "neither http nor tcp",
                HINT,
            ));
            None
        }
    }
}

fn http_kind(
    owner: &str,
    path: &ProbePath,
    question: &Question<'_>,
    context: &mut Context<'_>,
) -> Option<ProbeKind> {
    if let Some(host) = question.host.located().filter(|host| !is_host_header(&host.value)) {
        let hint = "write a host such as \"docs.example.com\", with \":port\" where needed";
        let message = format!("{owner}: \"{}\" cannot be a Host header", host.value);
        context.push(Problem::error(host.place, message, "not a host", hint));
        return None;
    }
    let status = question.status.get().into_iter().flatten().map(|code| code.value.0 as u16);
    Some(ProbeKind::Http {
        path: path.0.clone(),
        host: question.host.get().cloned(),
        status: status.collect(),
    })
}

fn is_host_header(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

/// `host` and `status` mean nothing to a tcp probe.
fn only_with_http(owner: &str, question: &Question<'_>, context: &mut Context<'_>) {
    let host = question.host.located().map(|host| ("host", host.place));
    let status = question.status.located().map(|status| ("status", status.place));
    for (key, place) in host.into_iter().chain(status) {
        let message = format!("{owner}: `{key}` means nothing to a tcp probe");
        context.push(Problem::error(
            place,
            message,
            "only with http",
            "remove it, or write http = \"/path\"",
        ));
    }
}
