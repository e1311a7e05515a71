//! VIPs that do nothing, or more than was meant, on this machine.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::View;
use crate::config::defaults;
use crate::config::file;
use crate::config::leaf::Forward as ForwardWord;
use crate::config::model::Switch;
use crate::config::model::steering::{Forward, Mode, NatSource, PortRange, Vip, VipProtocol};
use crate::config::reading::{Field, Located};
use crate::config::report::{Place, Problem};
use crate::config::validate::every;

/// Backends that a lookup table shares among within 1 % have so many rows each (Maglev, NSDI 2016, section 5.3).
const ROWS_PER_BACKEND: usize = 100;
/// Addresses of a network that are looked for on this machine.
const ADDRESSES_TRIED_MAX: usize = 256;

/// Everything that is legal and surely not meant.
pub fn warnings(view: &View<'_>) -> Vec<Problem> {
    let vips: Vec<Written<'_>> = view
        .model
        .steering
        .vips
        .iter()
        .zip(every(view.files, |file| &file.vip))
        .filter_map(|(vip, section)| Written::of(vip, section))
        .collect();
    let mut problems = Vec::new();
    let mut upstreams = BTreeSet::new();
    problems.extend(vips.first().and_then(|first| switched_off(first, view)));
    for vip in &vips {
        problems.extend(no_such_interface(vip, view));
        problems.extend(stays_here(vip));
        problems.extend(takes_everything(vip, view));
        problems.extend(nobody_answers(vip, view));
        problems.extend(ports_of_the_host(vip, view));
        if upstreams.insert(vip.vip.upstream()) {
            problems.extend(few_rows(vip, view));
        }
    }
    problems.extend(unheard_listeners(&vips, view));
    problems
}

/// A VIP with where it stands. Where there is no error, the model has all of them in the order of the files.
struct Written<'a> {
    vip: &'a Vip,
    section: &'a file::Vip,
    place: Place,
}

impl<'a> Written<'a> {
    fn of(vip: &'a Vip, section: &'a Located<file::Vip>) -> Option<Self> {
        Some(Self { vip, section: &section.value, place: section.value.address.located()?.place })
    }

    fn is_remote(&self) -> bool {
        matches!(self.vip.forward, Forward::Remote { .. })
    }

    /// An address of this machine that the VIP holds.
    fn own_address(&self, view: &View<'_>) -> Option<IpAddr> {
        let network = self.vip.address.network;
        let all = std::iter::once(network.addr()).chain(network.hosts().take(ADDRESSES_TRIED_MAX));
        all.into_iter().find(|address| view.system.has_address(*address))
    }
}

fn switched_off(first: &Written<'_>, view: &View<'_>) -> Option<Problem> {
    let place = view.files.iter().find_map(|file| file.sections.kernel.get()?.xdp.located())?.place;
    (view.model.steering.xdp == Switch::Off).then(|| {
        let message = "VIPs are configured, and [kernel] switches XDP off".to_owned();
        let hint = "write xdp = \"auto\", or remove the VIPs";
        Problem::warning(place, message, "nothing answers for VIPs", hint)
            .with_other(first.place, "such as this")
    })
}

fn no_such_interface(vip: &Written<'_>, view: &View<'_>) -> Option<Problem> {
    let name = &vip.vip.interface;
    let place = vip.section.interface.located()?.place;
    (!view.system.has_interface(name)).then(|| {
        let message = format!("vip \"{}\": this machine has no interface \"{name}\"", vip.vip.name);
        let hint = "write one that `ip link` shows, or create it before `lbctl up`";
        Problem::warning(place, message, "no such interface", hint)
    })
}

/// The upstream has backends that we run, which packets reach through the stack.
fn stays_here(vip: &Written<'_>) -> Option<Problem> {
    let word = vip.section.forward.located().filter(|word| word.value != ForwardWord::Local)?;
    (!vip.is_remote()).then(|| {
        let upstream = vip.vip.upstream().unwrap_or_default();
        let message = format!(
            "vip \"{}\": `forward` has no effect, because programs run here are backends of upstream \"{upstream}\"",
            vip.vip.name
        );
        let hint = "write forward = \"local\" and a listener on the address, or give the VIP an upstream without programs";
        Problem::warning(word.place, message, "packets go up the stack", hint)
    })
}

/// SSH and all else that the machine answers under that address.
fn takes_everything(vip: &Written<'_>, view: &View<'_>) -> Option<Problem> {
    if !vip.is_remote() || !vip.vip.address.ports.is_every() {
        return None;
    }
    let address = vip.own_address(view)?;
    let (protocol, such) = match vip.vip.protocol {
        VipProtocol::Tcp { .. } => ("tcp", "SSH"),
        VipProtocol::Udp { .. } => ("udp", "DNS"),
    };
    let message = format!(
        "vip \"{}\" takes every {protocol} packet to {address}, an address of this machine: {such} too",
        vip.vip.name
    );
    let hint =
        "name the ports, such as \"203.0.113.10:443\", or take an address that this machine does not use";
    Some(Problem::warning(vip.place, message, "every port of it", hint))
}

fn nobody_answers(vip: &Written<'_>, view: &View<'_>) -> Option<Problem> {
    if vip.is_remote() || vip.own_address(view).is_some() {
        return None;
    }
    let address = vip.vip.address.network.addr();
    let message = format!("vip \"{}\" is local, and {address} is no address of this machine", vip.vip.name);
    let hint =
        format!("set it up: `ip address add {address}/{} dev lo`", vip.vip.address.network.max_prefix_len());
    Some(Problem::warning(vip.place, message, "the stack drops what it gets", hint))
}

/// NAT and connections of the host itself must not meet on a port.
fn ports_of_the_host(vip: &Written<'_>, view: &View<'_>) -> Option<Problem> {
    let Forward::Remote { mode: Mode::Nat(NatSource::Node { ports }), .. } = vip.vip.forward else {
        return None;
    };
    let (first, last) = view.system.local_ports();
    let own = PortRange::new(first, last)?;
    let place = vip.section.ports.located().map_or(vip.place, |ports| ports.place);
    ports.overlaps(own).then(|| {
        let message = format!(
            "vip \"{}\": ports {ports} overlap those of connections of this machine, {own}",
            vip.vip.name
        );
        let hint = format!(
            "an answer to a probe could be taken for one to a client: write ports = \"{}\", or change \
             `sysctl net.ipv4.ip_local_port_range`",
            defaults::NAT_PORTS
        );
        Problem::warning(place, message, "shared with this machine", hint)
    })
}

fn few_rows(vip: &Written<'_>, view: &View<'_>) -> Option<Problem> {
    let Forward::Remote { upstream, .. } = &vip.vip.forward else { return None };
    let backends = view.model.upstreams.get(upstream)?.backends.len();
    let rows = view.model.steering.lookup_rows as usize;
    let written = view.files.iter().find_map(|file| file.sections.kernel.get()?.lookup_rows.located());
    (rows < backends * ROWS_PER_BACKEND).then(|| {
        let message = format!(
            "upstream \"{upstream}\" of vip \"{}\" has {backends} backends, and {rows} rows share badly among them",
            vip.vip.name
        );
        let hint = format!(
            "shares are within 1 % from {ROWS_PER_BACKEND} rows per backend on: write [kernel] lookup_rows = 131071, or a \
             smaller prime of at least {}",
            backends * ROWS_PER_BACKEND
        );
        let place = written.map_or(vip.place, |rows| rows.place);
        Problem::warning(place, message, "few rows per backend", hint)
    })
}

/// Listeners whose packets a VIP takes away.
fn unheard_listeners(vips: &[Written<'_>], view: &View<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for section in every(view.files, |file| &file.listener) {
        let binds = match &section.value.bind {
            Field::Given(binds) => &binds.value,
            Field::Absent | Field::Invalid => continue,
        };
        for bind in binds {
            let takes = |vip: &&Written<'_>| {
                vip.is_remote()
                    && matches!(vip.vip.protocol, VipProtocol::Tcp { .. })
                    && vip.vip.address.network.contains(&bind.value.ip())
                    && vip.vip.address.ports.holds(bind.value.port())
            };
            if let Some(vip) = vips.iter().find(takes) {
                let name = section.value.name.get().map_or("", |name| name.0.as_str());
                let message = format!(
                    "listener \"{name}\" hears nothing from {}: vip \"{}\" takes the packets to {}",
                    vip.vip.interface, vip.vip.name, bind.value
                );
                let hint = "write forward = \"local\" in the VIP, or give them different ports";
                let problem = Problem::warning(bind.place, message, "listens here", hint);
                problems.push(problem.with_other(vip.place, "taken here"));
            }
        }
    }
    problems
}
