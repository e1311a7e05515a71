//! `[[vip]]` → model: each VIP by itself. What VIPs say about each other is in `vip_pair`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::context::Context;
use super::{every, vip_backend};
use crate::config::leaf::{
    Forward as ForwardWord, NatSource as SourceWord, Persistence, VipProtocol as ProtocolWord,
};
use crate::config::model::steering::{
    FlowRate, Forward, Mode, NatSource, PortRange, Quic, Vip, VipAddress, VipProtocol,
};
use crate::config::model::{Address, Program, Upstream};
use crate::config::read::Parsed;
use crate::config::reading::{Field, FromText, Located};
use crate::config::report::{Place, Problem};
use crate::config::{defaults, file};

/// Ports below are those of services (RFC 6335, section 6).
const NAT_PORT_MIN: u16 = 1024;

/// A VIP with where it stands.
pub struct Written<'a> {
    /// The VIP.
    pub vip: Vip,
    /// As the file has it.
    pub section: &'a file::Vip,
    /// Its address in the file.
    pub place: Place,
}

/// Everything that a VIP can refer to.
pub struct Known<'a> {
    /// The files.
    pub files: &'a [Parsed],
    /// `[upstream.NAME]`.
    pub upstreams: &'a BTreeMap<String, Upstream>,
    /// `[program.NAME]`.
    pub programs: &'a BTreeMap<String, Program>,
}

impl Known<'_> {
    /// Whether we run backends of `upstream`.
    pub fn runs(&self, upstream: &str) -> bool {
        self.programs.values().any(|program| program.upstream.as_deref() == Some(upstream))
    }
}

/// Every VIP whose section can be understood.
pub fn vips<'a>(known: &Known<'a>, context: &mut Context<'_>) -> Vec<Written<'a>> {
    let sections = every(known.files, |file| &file.vip);
    sections.filter_map(|section| vip(section, known, context)).collect()
}

fn vip<'a>(
    located: &'a Located<file::Vip>,
    known: &Known<'_>,
    context: &mut Context<'_>,
) -> Option<Written<'a>> {
    let section = &located.value;
    let address = section.address.located();
    let protocol = section.protocol.or(ProtocolWord::Tcp);
    let name = section.name.get().map(|name| name.0.clone());
    let name = name.or_else(|| Some(default_name(&address?.value, protocol)));
    let owner = name.as_ref().map_or("vip".to_owned(), |name| format!("vip \"{name}\""));
    let forward = forward(&owner, located, known, context);
    only_with_protocol(&owner, section, protocol, context);
    let is_nat = matches!(forward, Some(Forward::Remote { mode: Mode::Nat(_), .. }));
    let protocol = vip_protocol(section, protocol, if is_nat { defaults::SYN_RATE } else { 0 });
    let persistence = persistence(&owner, section, context);
    let vip = Vip {
        name: name?,
        address: address?.value,
        protocol,
        interface: section.interface.get()?.0.clone(),
        forward: forward?,
        persistence,
        new_flows: section.new_flows.get().and_then(flow_rate),
    };
    vip_backend::check(&vip, section, known, context);
    Some(Written { vip, section, place: address?.place })
}

/// What a VIP without `name` is called.
fn default_name(address: &VipAddress, protocol: ProtocolWord) -> String {
    match protocol {
        ProtocolWord::Tcp => address.to_string(),
        ProtocolWord::Udp => format!("{address}/udp"),
    }
}

/// Where its packets go; `None` where that is wrong.
fn forward(
    owner: &str,
    located: &Located<file::Vip>,
    known: &Known<'_>,
    context: &mut Context<'_>,
) -> Option<Forward> {
    let section = &located.value;
    let upstream = upstream(owner, section, known, context)?;
    let is_local = upstream.is_some_and(|upstream| is_local(upstream, known));
    let name = upstream.map(|upstream| upstream.name.clone());
    let word = match &section.forward {
        Field::Invalid => return None,
        Field::Given(word) => word.value,
        Field::Absent if is_local => ForwardWord::Local,
        Field::Absent => {
            let message = format!("{owner} does not say how its packets get to the backends");
            let hint = "write forward = \"nat\" (any backend), \"l2dsr\" (on a network of ours), \"ipip\" or \"gue\" \
                        (backends that unpack); \"local\" leaves them to this machine";
            context.push(Problem::error(located.place, message, "`forward` is missing here", hint));
            return None;
        }
    };
    only_with_mode(owner, section, word, context);
    let mode = mode(owner, section, word, context)?;
    match (mode, name) {
        (Some(mode), Some(upstream)) if !known.runs(&upstream) => Some(Forward::Remote { upstream, mode }),
        (Some(_), None) => {
            let message = format!("{owner} has no upstream");
            let hint = "add `upstream = …`, or write forward = \"local\" for a listener of this machine";
            context.push(Problem::error(located.place, message, "`upstream` is missing here", hint));
            None
        }
        (_, upstream) => Some(Forward::Local { upstream }),
    }
}

/// The upstream that is named; `None` where there is no such upstream.
fn upstream<'a>(
    owner: &str,
    section: &file::Vip,
    known: &Known<'a>,
    context: &mut Context<'_>,
) -> Option<Option<&'a Upstream>> {
    let name = match &section.upstream {
        Field::Absent => return Some(None),
        Field::Invalid => return None,
        Field::Given(name) => name,
    };
    let found = known.upstreams.get(&name.value);
    if found.is_none() {
        let names: Vec<&str> = known.upstreams.keys().map(String::as_str).collect();
        context.unknown_reference(owner, "upstream", &name.value, name.place, &names);
    }
    found.map(Some)
}

/// Whether all backends are on this machine.
fn is_local(upstream: &Upstream, known: &Known<'_>) -> bool {
    let is_here = |address: &Address| match address {
        Address::Tcp(address) => address.ip().is_loopback(),
        Address::Unix(_) => true,
    };
    known.runs(&upstream.name) || upstream.backends.iter().all(|backend| is_here(&backend.address))
}

/// The mode with its data; inner `None`: local.
fn mode(
    owner: &str,
    section: &file::Vip,
    word: ForwardWord,
    context: &mut Context<'_>,
) -> Option<Option<Mode>> {
    let tunnel_source = section.tunnel_source.get().copied();
    Some(Some(match word {
        ForwardWord::Local => return Some(None),
        ForwardWord::Nat => Mode::Nat(nat_source(owner, section, context)?),
        ForwardWord::L2Dsr => Mode::L2Dsr,
        ForwardWord::IpIp => Mode::IpIp(tunnel_source),
        ForwardWord::Gue => {
            let port = section.tunnel_port.or(defaults::TUNNEL_PORT).0;
            Mode::Gue { source: tunnel_source, port: u16::try_from(port).ok()? }
        }
    }))
}

fn nat_source(owner: &str, section: &file::Vip, context: &mut Context<'_>) -> Option<NatSource> {
    let ports = match &section.ports {
        Field::Given(ports) => Some(ports),
        Field::Absent | Field::Invalid => None,
    };
    if section.source.or(SourceWord::Node) == SourceWord::Client {
        if let Some(ports) = ports {
            let message = format!("{owner}: `ports` means nothing where backends see the client's port");
            let hint = "remove it, or write source = \"node\"";
            context.push(Problem::error(ports.place, message, "only with source = \"node\"", hint));
        }
        return Some(NatSource::Client);
    }
    if let Some(low) = ports.filter(|ports| ports.value.first() < NAT_PORT_MIN) {
        let message = format!("{owner}: ports {} are those of services", low.value);
        let hint = format!("begin at {NAT_PORT_MIN} or higher; the default is \"{}\"", defaults::NAT_PORTS);
        context.push(Problem::error(low.place, message, "below 1024", hint));
        return None;
    }
    let default = || PortRange::from_text(defaults::NAT_PORTS).expect("the default is a range of ports");
    Some(NatSource::Node { ports: ports.map_or_else(default, |ports| ports.value) })
}

fn vip_protocol(section: &file::Vip, word: ProtocolWord, syn_rate: u32) -> VipProtocol {
    match word {
        ProtocolWord::Tcp => VipProtocol::Tcp { syn_rate: NonZeroU32::new(section.syn_rate.or(syn_rate).0) },
        ProtocolWord::Udp => VipProtocol::Udp {
            idle_timeout: section.idle_timeout.or(defaults::IDLE_TIMEOUT).get(),
            quic: section.quic.get().map(quic),
        },
    }
}

fn quic(section: &file::Quic) -> Quic {
    Quic {
        server_id_bytes: section.server_id_bytes.or(defaults::SERVER_ID_BYTES).0 as u8,
        configuration: section.configuration.or(0u32).0 as u8,
    }
}

fn persistence(owner: &str, section: &file::Vip, context: &mut Context<'_>) -> Option<Duration> {
    let is_kept = section.persistence.or(Persistence::None) == Persistence::Client;
    if let Some(timeout) = section.persistence_timeout.located().filter(|_| !is_kept) {
        let message = format!("{owner}: `persistence_timeout` means nothing without persistence");
        let hint = "remove it, or write persistence = \"client\"";
        context.push(Problem::error(timeout.place, message, "nothing is kept", hint));
    }
    is_kept.then(|| section.persistence_timeout.or(defaults::PERSISTENCE_TIMEOUT).get())
}

fn flow_rate(section: &file::NewFlows) -> Option<FlowRate> {
    let per_source = NonZeroU32::new(section.per_source.get()?.0)?;
    let burst = section.burst.get().and_then(|burst| NonZeroU32::new(burst.0));
    Some(FlowRate { per_source, burst: burst.unwrap_or(per_source) })
}

/// The place of a key that the file has.
fn given<T>(field: &Field<T>) -> Option<Place> {
    field.located().map(|located| located.place)
}

fn only_with_protocol(owner: &str, section: &file::Vip, word: ProtocolWord, context: &mut Context<'_>) {
    if matches!(section.protocol, Field::Invalid) {
        return;
    }
    let keys = [
        ("syn_rate", given(&section.syn_rate), ProtocolWord::Tcp),
        ("idle_timeout", given(&section.idle_timeout), ProtocolWord::Udp),
        ("quic", given(&section.quic), ProtocolWord::Udp),
    ];
    for (key, place, needed) in keys {
        let Some(place) = place.filter(|_| needed != word) else { continue };
        let protocol = if needed == ProtocolWord::Tcp { "tcp" } else { "udp" };
        let message = format!("{owner}: `{key}` is for {protocol} only");
        let hint = format!("remove it, or write protocol = \"{protocol}\"");
        context.push(Problem::error(place, message, format!("only with {protocol}"), hint));
    }
}

fn only_with_mode(owner: &str, section: &file::Vip, word: ForwardWord, context: &mut Context<'_>) {
    const NAT: &[ForwardWord] = &[ForwardWord::Nat];
    const TUNNELS: &[ForwardWord] = &[ForwardWord::IpIp, ForwardWord::Gue];
    const REMOTE: &[ForwardWord] =
        &[ForwardWord::Nat, ForwardWord::L2Dsr, ForwardWord::IpIp, ForwardWord::Gue];
    let keys = [
        ("source", given(&section.source), NAT),
        ("ports", given(&section.ports), NAT),
        ("tunnel_source", given(&section.tunnel_source), TUNNELS),
        ("tunnel_port", given(&section.tunnel_port), &[ForwardWord::Gue]),
        ("persistence", given(&section.persistence), REMOTE),
        ("quic", given(&section.quic), REMOTE),
        ("new_flows", given(&section.new_flows), REMOTE),
        ("syn_rate", given(&section.syn_rate), NAT),
    ];
    for (key, place, modes) in keys {
        let Some(place) = place.filter(|_| !modes.contains(&word)) else { continue };
        let names: Vec<String> = modes.iter().map(|mode| format!("\"{}\"", forward_name(*mode))).collect();
        let names = names.join(", ");
        let message = format!("{owner}: `{key}` means nothing with forward = \"{}\"", forward_name(word));
        let hint = format!("remove it; it belongs to forward = {names}");
        context.push(Problem::error(place, message, "another mode", hint));
    }
}

const fn forward_name(word: ForwardWord) -> &'static str {
    match word {
        ForwardWord::Nat => "nat",
        ForwardWord::L2Dsr => "l2dsr",
        ForwardWord::IpIp => "ipip",
        ForwardWord::Gue => "gue",
        ForwardWord::Local => "local",
    }
}
