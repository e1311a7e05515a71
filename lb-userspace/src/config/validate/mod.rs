//! File as written → model. Every mistake is recorded; the model is good only where none was.
//!
//! Where a value is missing or wrong its default stands in, so that the checks after it find their own mistakes.

mod address;
mod amount;
mod context;
mod guard;
mod header;
mod program;
mod reference;
mod route;
mod upstream;
mod vip;
mod vip_backend;
mod vip_pair;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use self::context::Context;
use super::defaults;
use super::file::{self, Kernel};
use super::leaf::MetricsBind;
use super::model::steering::Steering;
use super::model::{Kernel as KernelModel, Listener, Log, Model, Node};
use super::read::Parsed;
use super::reading::{Field, FromText, Located};
use super::report::{Place, Problem};
use super::system::System;

/// The model of `files`; to be used only where `problems` holds no error afterwards.
pub fn validate(files: &[Parsed], system: &dyn System, problems: &mut Vec<Problem>) -> Model {
    let mut context = Context::new(files, system, problems);
    let programs = program::programs(files, &mut context);
    let upstreams = upstream::upstreams(files, &programs, &mut context);
    let model = Model {
        node: node(files, &mut context),
        metrics_bind: metrics_bind(files, &mut context),
        kernel: kernel(files, &mut context),
        log: log(files, &mut context),
        listeners: listeners(files, &mut context),
        routes: route::routes(files, &mut context),
        steering: steering(&vip::Known { files, upstreams: &upstreams, programs: &programs }, &mut context),
        upstreams,
        programs,
    };
    reference::check(files, &model, &mut context);
    address::check(files, &mut context);
    amount::check(&model, &mut context);
    model
}

/// A section that the configuration has once, over all files.
fn only<'a, T>(
    files: &'a [Parsed],
    name: &str,
    section: impl Fn(&'a file::File) -> &'a Field<T>,
    context: &mut Context<'_>,
) -> Option<&'a Located<T>> {
    let mut found = files.iter().filter_map(|file| section(&file.sections).located());
    let first = found.next();
    for again in found {
        let message = format!("[{name}] is in two files");
        let hint = format!("keep one [{name}] section");
        let mut problem = Problem::error(again.place, message, "the second one", hint);
        problem.other_place = first.map(|first| (first.place, "the first one".to_owned()));
        context.push(problem);
    }
    first
}

fn node(files: &[Parsed], context: &mut Context<'_>) -> Node {
    let section = only(files, "node", |file| &file.node, context).map(|located| &located.value);
    let threads =
        section.map_or(defaults::WORKER_THREADS, |node| node.worker_threads.or(defaults::WORKER_THREADS).0);
    let proxies = section.and_then(|node| node.trusted_proxies.get());
    Node {
        name: section.and_then(|node| node.name.get()).cloned().unwrap_or_else(|| context.system.host_name()),
        worker_threads: if threads == 0 { context.system.cores().max(1) } else { threads as usize },
        user: section.and_then(|node| context.user("node", &node.user)),
        trusted_proxies: proxies.into_iter().flatten().map(|network| network.value).collect(),
        reason_header: section.is_some_and(|node| node.reason_header.or(false)),
    }
}

fn metrics_bind(files: &[Parsed], context: &mut Context<'_>) -> Option<SocketAddr> {
    let section = only(files, "metrics", |file| &file.metrics, context);
    match section.map(|section| &section.value.bind) {
        Some(Field::Given(bind)) => bind.value.0,
        _ => MetricsBind::from_text(defaults::METRICS_BIND).expect("the default is an address").0,
    }
}

fn kernel(files: &[Parsed], context: &mut Context<'_>) -> KernelModel {
    match only(files, "kernel", |file| &file.kernel, context) {
        None => KernelModel::default(),
        Some(Located { value: Kernel { short_cut, exit_watch, .. }, .. }) => KernelModel {
            short_cut: short_cut.get().copied().unwrap_or_default(),
            exit_watch: exit_watch.get().copied().unwrap_or_default(),
        },
    }
}

fn steering(known: &vip::Known<'_>, context: &mut Context<'_>) -> Steering {
    let vips = vip::vips(known, context);
    vip_pair::check(&vips, context);
    let steering = Steering {
        guard: guard::guard(known.files, context),
        vips: vips.into_iter().map(|written| written.vip).collect(),
        ..Steering::default()
    };
    // A second [kernel] was reported by `kernel`.
    let Some(kernel) = known.files.iter().find_map(|file| file.sections.kernel.get()) else {
        return steering;
    };
    Steering {
        xdp: kernel.xdp.get().copied().unwrap_or_default(),
        xdp_mode: kernel.xdp_mode.get().copied().unwrap_or_default(),
        lookup_rows: kernel.lookup_rows.get().map_or(defaults::LOOKUP_ROWS, |rows| rows.0),
        flows: kernel.flows.or(defaults::FLOWS).0,
        nat_flows: kernel.nat_flows.or(defaults::NAT_FLOWS).0,
        vips_outlive: kernel.vips_outlive.or(false),
        ..steering
    }
}

fn log(files: &[Parsed], context: &mut Context<'_>) -> Log {
    let Some(section) = only(files, "log", |file| &file.log, context) else { return Log::default() };
    let section = &section.value;
    Log {
        access: context.path(&section.access),
        access_format: section.access_format.get().cloned().unwrap_or_default(),
        error: context.path(&section.error),
        audit: context.path(&section.audit),
    }
}

fn listeners(files: &[Parsed], context: &mut Context<'_>) -> Vec<Listener> {
    let mut names: BTreeMap<&str, Place> = BTreeMap::new();
    let mut listeners = Vec::new();
    for section in every(files, |file| &file.listener) {
        let Some(name) = section.value.name.located() else { continue };
        context.unique("listener", &name.value.0, name.place, &mut names);
        let bind = section.value.bind.located();
        if let Some(empty) =
            bind.filter(|bind| bind.value.is_empty() && !context.has_error_within(bind.place))
        {
            let message = format!("listener \"{}\" has no address", name.value.0);
            context.push(Problem::error(
                empty.place,
                message,
                "empty",
                "write at least one: [\"0.0.0.0:80\"]",
            ));
        }
        let addresses = bind.map(|bind| bind.value.iter().map(|address| address.value).collect());
        listeners.push(Listener { name: name.value.0.clone(), bind: addresses.unwrap_or_default() });
    }
    listeners
}

/// The elements of an array of sections, over all files.
pub fn every<'a, T: 'a>(
    files: &'a [Parsed],
    array: impl Fn(&'a file::File) -> &'a Field<Vec<Located<T>>>,
) -> impl Iterator<Item = &'a Located<T>> {
    files.iter().filter_map(move |file| array(&file.sections).get()).flatten()
}

/// The named sections of one kind, over all files.
pub fn named<'a, T: 'a>(
    files: &'a [Parsed],
    sections: impl Fn(&'a file::File) -> &'a Field<super::reading::Names<T>>,
) -> impl Iterator<Item = &'a (Located<String>, Option<Located<T>>)> {
    files.iter().filter_map(move |file| sections(&file.sections).get()).flatten()
}
