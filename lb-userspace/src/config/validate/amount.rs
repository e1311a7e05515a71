//! How much one node holds: every table downstream has a fixed number of rows.

use lb_common::limits::{BACKENDS_MAX, INSTANCES_MAX};

use super::context::Context;
use crate::config::model::Model;
use crate::config::report::Problem;
use crate::limits::{LISTEN_ADDRESSES_MAX, LISTEN_SOCKETS_MAX};

/// Records what is too much.
pub fn check(model: &Model, context: &mut Context<'_>) {
    let instances: usize = model.programs.values().map(|program| program.instances as usize).sum();
    let of_upstreams = model.programs.values().filter(|program| program.upstream.is_some());
    let supervised: usize = of_upstreams.map(|program| program.instances as usize).sum();
    let backends: usize = model.upstreams.values().map(|upstream| upstream.backends.len()).sum();
    let addresses: usize = model.listeners.iter().map(|listener| listener.bind.len()).sum();
    let sockets = addresses * model.node.worker_threads;
    let amounts = [
        ("instances of programs", instances, INSTANCES_MAX as usize),
        ("backends", supervised + backends, BACKENDS_MAX as usize),
        ("addresses of listeners", addresses, LISTEN_ADDRESSES_MAX),
        ("listening sockets (addresses × worker_threads)", sockets, LISTEN_SOCKETS_MAX),
    ];
    for (what, amount, most) in amounts.into_iter().filter(|(_, amount, most)| amount > most) {
        let message = format!("the configuration has {amount} {what}, and one node holds {most}");
        context.push(Problem::of_file(message, "spread them over several nodes"));
    }
}
