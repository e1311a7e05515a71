//! `[[route]]` → model.

use super::context::Context;
use super::header::{self, Message};
use super::{every, named};
use crate::config::defaults;
use crate::config::file;
use crate::config::leaf::RoutePath;
use crate::config::model::Route;
use crate::config::read::Parsed;

/// Every route, in file order.
pub fn routes(files: &[Parsed], context: &mut Context<'_>) -> Vec<Route> {
    let known = Known::of(files);
    every(files, |file| &file.route).map(|section| route(&section.value, &known, context)).collect()
}

/// The names that routes may refer to, sorted.
struct Known<'a> {
    listeners: Vec<&'a str>,
    upstreams: Vec<&'a str>,
}

impl<'a> Known<'a> {
    fn of(files: &'a [Parsed]) -> Self {
        let listeners = every(files, |file| &file.listener).filter_map(|section| section.value.name.get());
        let sections = named(files, |file| &file.upstream).map(|(name, _)| name.value.as_str());
        let programs = named(files, |file| &file.program).filter_map(|(_, section)| section.as_ref());
        let of_programs =
            programs.filter_map(|section| section.value.upstream.get()).map(|name| name.0.as_str());
        let mut upstreams: Vec<&str> = sections.chain(of_programs).collect();
        upstreams.sort_unstable();
        upstreams.dedup();
        let mut listeners: Vec<&str> = listeners.map(|name| name.0.as_str()).collect();
        listeners.sort_unstable();
        Self { listeners, upstreams }
    }
}

fn route(section: &file::Route, known: &Known<'_>, context: &mut Context<'_>) -> Route {
    if let Some(listener) =
        section.listener.located().filter(|name| known.listeners.binary_search(&name.value.as_str()).is_err())
    {
        context.unknown_reference("route", "listener", &listener.value, listener.place, &known.listeners);
    }
    if let Some(upstream) =
        section.upstream.located().filter(|name| known.upstreams.binary_search(&name.value.as_str()).is_err())
    {
        context.unknown_reference("route", "upstream", &upstream.value, upstream.place, &known.upstreams);
    }
    Route {
        listener: section.listener.get().cloned().unwrap_or_default(),
        host: section.host.get().cloned(),
        path: section.path.get().map_or(defaults::ROUTE_PATH, |RoutePath(path)| path).to_owned(),
        upstream: section.upstream.get().cloned().unwrap_or_default(),
        body_bytes_max: section.body_max.get().map(|size| size.0),
        request_headers: header::changes(&section.request_headers, Message::Request, context),
        response_headers: header::changes(&section.response_headers, Message::Response, context),
    }
}
