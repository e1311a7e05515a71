//! `lbctl vip backend-setup`: what to type on a backend so that it takes a VIP's packets and answers them.
//!
//! Commands of iproute2, sysctl and nftables; nothing is done here, and nothing of it outlives a reboot.

use std::net::SocketAddr;

use crate::control::protocol::steering::{SteeredInterface, VipBackend, VipStatus};

/// The port for GUE that IANA assigned.
const GUE_PORT: u16 = 6080;
/// The MTU of an interface that the report does not tell.
const ETHERNET_MTU: u32 = 1500;

/// The commands, each group under a comment that says why. A shell runs them as they stand.
pub fn commands(vip: &VipStatus, interfaces: &[SteeredInterface]) -> String {
    let mut lines =
        vec![format!("# VIP {} ({}/{}), forward = \"{}\"", vip.name, vip.address, vip.protocol, vip.forward)];
    let mtu = interfaces.iter().find(|each| each.name == vip.interface).map_or(ETHERNET_MTU, |each| each.mtu);
    match vip.forward.as_str() {
        "nat" if vip.keeps_client => lines.extend(way_back()),
        "nat" => lines
            .push("# nothing to do on backends: they see connections from this node's address".to_owned()),
        "l2dsr" => {
            lines.push("# on each backend, which shares a network segment with this node:".to_owned());
            lines.extend(own_address(vip));
        }
        "ipip" | "gue" => {
            for version in versions(&vip.backends) {
                lines.push(format!("# on each backend that is reached over {}:", version.name()));
                lines.extend(decapsulation(vip, version));
                lines.extend(own_address(vip));
                lines.extend(segment_size(vip, version, mtu));
            }
        }
        _ => lines.extend(on_this_host(vip)),
    }
    lines.join("\n") + "\n"
}

/// IP version of outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Four,
    Six,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::Four => "IPv4",
            Self::Six => "IPv6",
        }
    }

    /// Bytes of a header without options or extensions.
    const fn header_bytes(self) -> u32 {
        match self {
            Self::Four => 20,
            Self::Six => 40,
        }
    }
}

/// The versions that backends are reached over.
fn versions(backends: &[VipBackend]) -> Vec<Version> {
    let is_six =
        |backend: &VipBackend| backend.address.parse().is_ok_and(|address: SocketAddr| address.is_ipv6());
    let mut versions = Vec::new();
    if backends.is_empty() || backends.iter().any(|backend| !is_six(backend)) {
        versions.push(Version::Four);
    }
    if backends.iter().any(is_six) {
        versions.push(Version::Six);
    }
    versions
}

/// The address or prefix of a VIP, without port.
fn network(vip: &VipStatus) -> String {
    let address = vip.address.as_str();
    let bare = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((bare, after)) if after.starts_with('/') => {
            format!("{bare}{}", after.split(':').next().unwrap_or_default())
        }
        Some((bare, _)) => bare.to_owned(),
        None if address.matches(':').count() > 1 => address.to_owned(),
        None => address.split(':').next().unwrap_or_default().to_owned(),
    };
    match (bare.contains('/'), is_six(&bare)) {
        (true, _) => bare,
        (false, true) => format!("{bare}/128"),
        (false, false) => format!("{bare}/32"),
    }
}

fn is_six(network: &str) -> bool {
    network.contains(':')
}

/// The VIP on the loopback interface, and silence about it: this node alone may answer for it on the segment.
fn own_address(vip: &VipStatus) -> Vec<String> {
    let network = network(vip);
    let mut lines = vec!["# it has the VIP, without telling the network:".to_owned()];
    lines.push(match (network.ends_with("/32") || network.ends_with("/128"), is_six(&network)) {
        (true, true) => format!("ip address add {network} dev lo nodad"),
        (true, false) => format!("ip address add {network} dev lo"),
        // A prefix: all of it is local without an address for each.
        (false, _) => format!("ip route add local {network} dev lo"),
    });
    if !is_six(&network) {
        lines.push("sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2".to_owned());
    }
    lines
}

/// The device that takes outer headers off.
fn decapsulation(vip: &VipStatus, outer: Version) -> Vec<String> {
    let inner = if is_six(&network(vip)) { Version::Six } else { Version::Four };
    let mut lines = Vec::new();
    if vip.forward == "gue" {
        let port = vip.gue_port.unwrap_or(GUE_PORT);
        let (module, flag) = if outer == Version::Six { ("fou6", " -6") } else { ("fou", "") };
        lines.push("# UDP headers are taken off, and let in from this node only:".to_owned());
        lines.push(format!("modprobe -a {module}"));
        lines.push(format!("ip fou add port {port} gue{flag}"));
    }
    lines.push("# outer IP headers are taken off:".to_owned());
    let device = match (outer, inner) {
        (Version::Four, Version::Four) => {
            lines.push("ip link add name lbctl-ipip type ipip external".to_owned());
            "lbctl-ipip"
        }
        // A sit device cannot be `external`; the one that comes with the module takes packets from everybody.
        (Version::Four, Version::Six) => {
            lines.push("modprobe sit".to_owned());
            "sit0"
        }
        (Version::Six, _) => {
            lines.push("ip link add name lbctl-ip6 type ip6tnl external".to_owned());
            "lbctl-ip6"
        }
    };
    lines.push(format!("ip link set dev {device} up"));
    if inner == Version::Four {
        lines.push(
            "# clients are not reached through the tunnel: the strict check of sources would drop them"
                .to_owned(),
        );
        lines.push(format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2"));
    }
    lines
}

/// Answers go straight to clients, so the segment size that they agree on must leave room for the headers of the way here.
fn segment_size(vip: &VipStatus, outer: Version, mtu: u32) -> Vec<String> {
    if vip.protocol != "tcp" {
        return vec!["# datagrams that do not fit are answered with \"too big\" by this node".to_owned()];
    }
    let network = network(vip);
    let (inner, family) = if is_six(&network) { (Version::Six, "ip6") } else { (Version::Four, "ip") };
    let udp_bytes = if vip.forward == "gue" { 8 } else { 0 };
    let segment = mtu.saturating_sub(outer.header_bytes() + udp_bytes + inner.header_bytes() + 20);
    vec![
        format!("# clients' segments fit with the outer header into {mtu} bytes:"),
        "nft add table inet lbctl".to_owned(),
        "nft 'add chain inet lbctl output { type filter hook output priority mangle; }'".to_owned(),
        format!(
            "nft add rule inet lbctl output {family} saddr {network} 'tcp flags & syn == syn' tcp option maxseg size set {segment}"
        ),
    ]
}

/// NAT with the client's address kept.
fn way_back() -> Vec<String> {
    vec![
        "# backends see the clients' addresses, so their answers must come back through this node; on each backend:".to_owned(),
        "ip route replace default via ADDRESS-OF-THIS-NODE".to_owned(),
    ]
}

/// The upstream is on this host.
fn on_this_host(vip: &VipStatus) -> Vec<String> {
    let network = network(vip);
    let command = match network.ends_with("/32") || network.ends_with("/128") {
        true => format!("ip address add {network} dev lo"),
        false => format!("ip route add local {network} dev lo"),
    };
    vec!["# packets go up the stack of this node, which must have the address:".to_owned(), command]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(address: &str, protocol: &str, forward: &str, backends: &[&str]) -> VipStatus {
        VipStatus {
            name: "web".into(),
            address: address.into(),
            protocol: protocol.into(),
            forward: forward.into(),
            interface: "eth0".into(),
            backends: backends
                .iter()
                .map(|address| VipBackend { address: (*address).into(), ..VipBackend::default() })
                .collect(),
            ..VipStatus::default()
        }
    }

    #[test]
    fn ipip_decapsulates_owns_the_vip_and_leaves_room() {
        let text = commands(&vip("203.0.113.10:443", "tcp", "ipip", &["10.0.0.7:443"]), &[]);
        let expect = "\
# VIP web (203.0.113.10:443/tcp), forward = \"ipip\"
# on each backend that is reached over IPv4:
# outer IP headers are taken off:
ip link add name lbctl-ipip type ipip external
ip link set dev lbctl-ipip up
# clients are not reached through the tunnel: the strict check of sources would drop them
sysctl -w net.ipv4.conf.lbctl-ipip.rp_filter=2
# it has the VIP, without telling the network:
ip address add 203.0.113.10/32 dev lo
sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
# clients' segments fit with the outer header into 1500 bytes:
nft add table inet lbctl
nft 'add chain inet lbctl output { type filter hook output priority mangle; }'
nft add rule inet lbctl output ip saddr 203.0.113.10/32 'tcp flags & syn == syn' tcp option maxseg size set 1440
";
        assert_eq!(text, expect);
    }

    #[test]
    fn each_mode_and_family_has_its_device() {
        for (address, forward, backend, expect) in [
            ("[2001:db8::10]:443", "ipip", "10.0.0.7:443", "ip link set dev sit0 up"),
            ("[2001:db8::10]:443", "ipip", "[2001:db8::7]:443", "type ip6tnl external"),
            ("203.0.113.10:443", "ipip", "[2001:db8::7]:443", "type ip6tnl external"),
            ("203.0.113.10:443", "gue", "10.0.0.7:443", "ip fou add port 6080 gue\n"),
            ("203.0.113.10:443", "gue", "[2001:db8::7]:443", "ip fou add port 6080 gue -6\n"),
            ("203.0.113.10:443", "gue", "10.0.0.7:443", "size set 1432"),
            ("[2001:db8::10]:443", "gue", "[2001:db8::7]:443", "size set 1392"),
            (
                "[2001:db8::10]:443",
                "l2dsr",
                "[2001:db8::7]:443",
                "ip address add 2001:db8::10/128 dev lo nodad",
            ),
            ("203.0.113.0/28:443", "l2dsr", "10.0.0.7:443", "ip route add local 203.0.113.0/28 dev lo"),
            ("203.0.113.10:443", "nat", "10.0.0.7:443", "nothing to do"),
            ("203.0.113.10:443", "local", "", "ip address add 203.0.113.10/32 dev lo"),
        ] {
            let text = commands(&vip(address, "tcp", forward, &[backend]), &[]);
            assert!(text.contains(expect), "{address} {forward} {backend}: {text}");
        }
    }

    #[test]
    fn backends_of_both_families_get_a_part_each() {
        let text = commands(&vip("203.0.113.10:53", "udp", "gue", &["10.0.0.7:53", "[2001:db8::7]:53"]), &[]);
        assert!(text.contains("reached over IPv4:") && text.contains("reached over IPv6:"), "{text}");
        assert!(!text.contains("maxseg"), "UDP has no segments: {text}");
    }

    #[test]
    fn the_network_of_a_vip_is_its_address_without_ports() {
        for (address, expect) in [
            ("203.0.113.10:443", "203.0.113.10/32"),
            ("203.0.113.10", "203.0.113.10/32"),
            ("203.0.113.10:8000-8999", "203.0.113.10/32"),
            ("203.0.113.0/28:443", "203.0.113.0/28"),
            ("[2001:db8::1]:443", "2001:db8::1/128"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("[2001:db8::]/64:443", "2001:db8::/64"),
            ("[2001:db8::/64]:443", "2001:db8::/64"),
        ] {
            assert_eq!(network(&vip(address, "tcp", "ipip", &[])), expect, "{address}");
        }
    }

    #[test]
    fn a_larger_mtu_allows_larger_segments() {
        let interface = SteeredInterface { name: "eth0".into(), mtu: 9000, ..SteeredInterface::default() };
        let text = commands(&vip("203.0.113.10:443", "tcp", "ipip", &["10.0.0.7:443"]), &[interface]);
        assert!(text.contains("size set 8940"), "{text}");
    }
}
