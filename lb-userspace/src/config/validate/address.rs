//! Who listens where: no two on the same address.

use std::net::SocketAddr;

use lb_common::limits::INSTANCES_MAX;

use super::context::Context;
use super::{every, named};
use crate::config::defaults;
use crate::config::model::ProgramAddress;
use crate::config::read::Parsed;
use crate::config::report::{Place, Problem};
use crate::limits::LISTEN_ADDRESSES_MAX;

/// Somebody who listens on `count` ports from that of `address` on.
struct Claim {
    owner: String,
    address: SocketAddr,
    count: u32,
    place: Place,
    is_program: bool,
}

/// Records addresses that two of them want.
pub fn check(files: &[Parsed], context: &mut Context<'_>) {
    let mut claims = listener_claims(files);
    claims.extend(metrics_claim(files));
    claims.extend(program_claims(files));
    check_default_metrics(files, &claims, context);
    // More than that is refused by `amount`, and every pair is looked at here.
    if claims.len() > LISTEN_ADDRESSES_MAX + INSTANCES_MAX as usize {
        return;
    }
    for (index, claim) in claims.iter().enumerate() {
        if let Some((port, first)) =
            claims[..index].iter().find_map(|other| Some((shared_port(claim, other)?, other)))
        {
            context.push(conflict(claim, first, port));
        }
    }
}

fn listener_claims(files: &[Parsed]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for section in every(files, |file| &file.listener) {
        let name = section.value.name.get().map_or("", |name| name.0.as_str());
        for bind in section.value.bind.get().into_iter().flatten() {
            let owner = format!("listener \"{name}\"");
            claims.push(Claim { owner, address: bind.value, count: 1, place: bind.place, is_program: false });
        }
    }
    claims
}

fn metrics_claim(files: &[Parsed]) -> Option<Claim> {
    let bind = files.iter().find_map(|file| file.sections.metrics.get()?.bind.located())?;
    let owner = "[metrics]".to_owned();
    Some(Claim { owner, address: bind.value.0?, count: 1, place: bind.place, is_program: false })
}

/// The default address of `[metrics]` stands nowhere in the file, and may be taken all the same.
fn check_default_metrics(files: &[Parsed], claims: &[Claim], context: &mut Context<'_>) {
    let is_default =
        files.iter().filter_map(|file| file.sections.metrics.get()).all(|section| section.bind.is_absent());
    let default: SocketAddr = defaults::METRICS_BIND.parse().expect("the default is an address");
    let taken = claims.iter().find(|claim| claim.address == default);
    if let Some(claim) = taken.filter(|_| is_default) {
        let message = format!("{} wants {default}, where metrics are answered by default", claim.owner);
        let hint = "write [metrics] bind = \"127.0.0.1:9902\", or \"\" for none";
        context.push(Problem::error(claim.place, message, "taken", hint));
    }
}

fn program_claims(files: &[Parsed]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (name, section) in named(files, |file| &file.program) {
        let Some(section) = section else { continue };
        let Some(address) = section.value.address.located() else { continue };
        if let ProgramAddress::Fixed(fixed) = address.value {
            claims.push(Claim {
                owner: format!("program \"{}\"", name.value),
                address: fixed,
                count: section.value.instances.or(defaults::INSTANCES).0,
                place: address.place,
                is_program: true,
            });
        }
    }
    claims
}

/// The lowest port that both want at an address where they would meet.
fn shared_port(a: &Claim, b: &Claim) -> Option<u32> {
    let (a_first, b_first) = (u32::from(a.address.port()), u32::from(b.address.port()));
    let first = a_first.max(b_first);
    let end = (a_first + a.count).min(b_first + b.count);
    let same_ip = a.address.ip() == b.address.ip();
    let same_family = a.address.is_ipv4() == b.address.is_ipv4();
    // A program's socket has no SO_REUSEPORT as ours have: it meets a wildcard of its family too.
    let any = a.address.ip().is_unspecified() || b.address.ip().is_unspecified();
    let meets_any = (a.is_program || b.is_program) && same_family && any;
    ((same_ip || meets_any) && first < end).then_some(first)
}

fn conflict(claim: &Claim, first: &Claim, port: u32) -> Problem {
    let message = format!("{} and {} both want {} port {port}", first.owner, claim.owner, claim.address.ip());
    let hint = match claim.is_program {
        true if claim.count > 1 || first.count > 1 => {
            "instance n of a program listens on port + n; port 0 lets lbctl choose"
        }
        true => "give it another port, or port 0 and let lbctl choose ($PORT)",
        false => "give each listener an address of its own; routes share a listener by host and path",
    };
    Problem::error(claim.place, message, "wanted here", hint).with_other(first.place, "and here")
}
