//! What the mode of a VIP asks of the backends of its upstream.

use std::net::{IpAddr, SocketAddr};

use super::context::Context;
use super::named;
use super::vip::Known;
use crate::config::file;
use crate::config::model::Address;
use crate::config::model::steering::{Forward, Mode, Vip, VipProtocol};
use crate::config::report::{Place, Problem};

/// Records every backend that packets of `vip` cannot get to.
pub fn check(vip: &Vip, section: &file::Vip, known: &Known<'_>, context: &mut Context<'_>) {
    let Forward::Remote { upstream, mode } = &vip.forward else { return };
    let asked = Asked { vip, mode: *mode, upstream, vip_place: section.address.located().map(|it| it.place) };
    for backend in backends(upstream, known) {
        let Some(address) = backend.address.located() else { continue };
        let problem = match &address.value {
            Address::Unix(_) => Some(asked.unix_socket(address.place)),
            Address::Tcp(tcp) => asked.unreachable(*tcp, address.place),
        };
        let problem = problem.or_else(|| asked.server_id(backend, address.place));
        if let Some(problem) = problem {
            context.push(problem);
        }
    }
}

/// The backends of `upstream` as written.
fn backends<'a>(upstream: &str, known: &Known<'a>) -> impl Iterator<Item = &'a file::Backend> {
    let sections = named(known.files, |file| &file.upstream).filter(move |(name, _)| name.value == upstream);
    let sections = sections.filter_map(|(_, section)| section.as_ref()?.value.backends.get());
    sections.flatten().map(|backend| &backend.value).collect::<Vec<_>>().into_iter()
}

/// What is asked of a backend.
struct Asked<'a> {
    vip: &'a Vip,
    mode: Mode,
    upstream: &'a str,
    vip_place: Option<Place>,
}

impl Asked<'_> {
    fn problem(&self, place: Place, message: String, label: impl Into<String>, hint: String) -> Problem {
        let problem = Problem::error(place, message, label, hint);
        match self.vip_place {
            Some(vip) => problem.with_other(vip, format!("the VIP, forward = \"{}\"", self.mode.name())),
            None => problem,
        }
    }

    fn unix_socket(&self, place: Place) -> Problem {
        let message = format!(
            "upstream \"{}\" of vip \"{}\" has a unix socket, which no packet reaches",
            self.upstream, self.vip.name
        );
        let hint = "write the backend's IP address, or forward = \"local\" and a listener that routes to it";
        self.problem(place, message, "not an IP address", hint.to_owned())
    }

    fn unreachable(&self, backend: SocketAddr, place: Place) -> Option<Problem> {
        let (ip, name) = (backend.ip(), &self.vip.name);
        if ip.is_loopback() {
            let message = format!("backend {backend} of vip \"{name}\" is this machine's own");
            let hint = "write forward = \"local\" and a listener that routes to it".to_owned();
            return Some(self.problem(place, message, "a loopback address", hint));
        }
        let address = self.vip.address;
        if address.network.contains(&ip) && address.ports.holds(backend.port()) {
            let message = format!("backend {backend} of vip \"{name}\" is the VIP itself");
            let hint =
                "write an address that only the backend has: packets would come back to the VIP for ever";
            return Some(self.problem(place, message, "inside the VIP", hint.to_owned()));
        }
        self.other_family(ip, place).or_else(|| self.other_port(backend, place))
    }

    fn other_family(&self, ip: IpAddr, place: Place) -> Option<Problem> {
        let is_v4 = self.vip.address.network.addr().is_ipv4();
        let is_tunnel = matches!(self.mode, Mode::IpIp(_) | Mode::Gue { .. });
        if !is_tunnel && ip.is_ipv4() != is_v4 {
            let message = format!(
                "backend {ip} of vip \"{}\" is {}, and forward = \"{}\" keeps the VIP's {}",
                self.vip.name,
                family(ip.is_ipv4()),
                self.mode.name(),
                family(is_v4)
            );
            let hint = format!(
                "give {} VIPs an upstream of their own, or write forward = \"ipip\" or \"gue\"",
                family(is_v4)
            );
            return Some(self.problem(place, message, "another address family", hint));
        }
        let source = match self.mode {
            Mode::IpIp(source) | Mode::Gue { source, .. } => source?,
            Mode::Nat(_) | Mode::L2Dsr => return None,
        };
        (source.is_ipv4() != ip.is_ipv4()).then(|| {
            let message = format!(
                "backend {ip} of vip \"{}\" is {}, and tunnel_source {source} is not",
                self.vip.name,
                family(ip.is_ipv4())
            );
            let hint = "leave tunnel_source out: our address towards each backend is taken".to_owned();
            self.problem(place, message, "another address family", hint)
        })
    }

    /// Packets arrive at the VIP's port whatever the backend's says, which is then surely not what was meant.
    fn other_port(&self, backend: SocketAddr, place: Place) -> Option<Problem> {
        let port = self.vip.address.ports.single().filter(|_| self.mode.is_direct())?;
        (port != backend.port()).then(|| {
            let message = format!(
                "backend {backend} of vip \"{}\" listens on port {}, and forward = \"{}\" leaves port {port} as it is",
                self.vip.name,
                backend.port(),
                self.mode.name()
            );
            let hint = format!("let it listen on port {port}, or write forward = \"nat\"");
            self.problem(place, message, "another port than the VIP's", hint)
        })
    }

    fn server_id(&self, backend: &file::Backend, place: Place) -> Option<Problem> {
        let VipProtocol::Udp { quic: Some(quic), .. } = self.vip.protocol else { return None };
        let bytes = usize::from(quic.server_id_bytes);
        let example = "0a1b2c3d4e5f6071".get(..bytes * 2).unwrap_or_default();
        match backend.server_id.located() {
            Some(id) if id.value.0.len() == bytes => None,
            Some(id) => {
                let message = format!(
                    "server_id has {} bytes, and vip \"{}\" reads {bytes}",
                    id.value.0.len(),
                    self.vip.name
                );
                let hint = format!("write {} hexadecimal digits, or change server_id_bytes", bytes * 2);
                Some(self.problem(id.place, message, "another length", hint))
            }
            None if backend.server_id.is_absent() => {
                let message =
                    format!("vip \"{}\" has `quic`, and this backend has no server_id", self.vip.name);
                let hint =
                    format!("add `server_id = \"{example}\"`, as the backend writes it into connection ids");
                Some(self.problem(place, message, "`server_id` is missing here", hint))
            }
            None => None,
        }
    }
}

const fn family(is_v4: bool) -> &'static str {
    if is_v4 { "IPv4" } else { "IPv6" }
}
