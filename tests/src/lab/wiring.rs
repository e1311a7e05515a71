//! Builds a [`Lab`]: links, addresses, routes, kernel parameters.

use anyhow::Context;

use super::address::{BACKEND_NET, CLIENT_ADDRESSES, CLIENT_NET, Family};
use super::namespace::{self, Namespace};
use super::object::Object;
use super::{Arms, Card, Lab, Plan};

/// The balancer's interface towards the client, where it has two.
pub const FRONT: &str = "front";
/// The balancer's interface towards the backends.
pub const BACK: &str = "back";
/// The only interface of a client or backend.
pub const UPLINK: &str = "uplink";
const BRIDGE: &str = "bridge";

/// What no host of the laboratory may do: ask for duplicates and routers, or find a VIP's reverse path wrong.
const QUIET: [(&str, &str); 6] = [
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];
/// The way back of packets that backends answer directly.
const ROUTER: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];
/// A backend that has the VIP says nothing about it on the link.
const SILENT: [(&str, &str); 2] = [("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")];
/// Room for many short connections.
const CLIENT: [(&str, &str); 1] = [("ipv4/ip_local_port_range", "1024 65535")];

pub fn build(plan: Plan) -> anyhow::Result<Lab> {
    namespace::sweep();
    let client = quiet("client")?;
    client.set(&CLIENT)?;
    let balancer = quiet("balancer")?;
    balancer.set(&ROUTER)?;
    let backends = (0..plan.backends).map(|number| quiet(&format!("backend{number}")));
    let backends = backends.collect::<anyhow::Result<Vec<_>>>()?;
    let switch = (plan.arms == Arms::One || plan.backends > 1).then(switch).transpose()?;
    let mut lab = Lab { plan, client, balancer, backends, object: Object::load()?, switch };
    connect(&mut lab)?;
    address(&lab)?;
    Ok(lab)
}

fn quiet(role: &str) -> anyhow::Result<Namespace> {
    let namespace = Namespace::new(role)?;
    namespace.set(&QUIET)?;
    Ok(namespace)
}

fn switch() -> anyhow::Result<Namespace> {
    let switch = Namespace::new("switch")?;
    switch.set(&[("ipv6/conf/default/disable_ipv6", "1")])?;
    switch
        .ip(&[format!("link add {BRIDGE} type bridge mcast_snooping 0"), format!("link set {BRIDGE} up")])?;
    Ok(switch)
}

/// A wire's end.
struct End<'a> {
    namespace: &'a Namespace,
    name: &'a str,
}

fn connect(lab: &mut Lab) -> anyhow::Result<()> {
    let Lab { plan, client, balancer, backends, object, switch } = lab;
    let client_end = End { namespace: client, name: UPLINK };
    match (plan.arms, &switch) {
        (Arms::Two, _) => wire(&client_end, &End { namespace: balancer, name: FRONT })?,
        (Arms::One, Some(switch)) => port(&client_end, switch, "client")?,
        (Arms::One, None) => unreachable!("one arm always has a switch"),
    }
    if plan.tagged {
        object.attach_xdp("lab_untag", client, UPLINK)?;
        object.attach_egress("lab_tag", client, UPLINK)?;
    } else {
        object.attach_xdp("lab_pass", client, UPLINK)?;
    }
    let back = End { namespace: balancer, name: BACK };
    match &switch {
        Some(switch) => {
            port(&back, switch, "balancer")?;
            object.attach_xdp("lab_pass", switch, "balancer")?;
        }
        None => wire(&back, &End { namespace: &backends[0], name: UPLINK })?,
    }
    for (number, backend) in backends.iter().enumerate() {
        backend.set(&SILENT)?;
        if let Some(switch) = &switch {
            port(&End { namespace: backend, name: UPLINK }, switch, &format!("backend{number}"))?;
        }
        match plan.card {
            Card::Decapsulates => object.attach_xdp("lab_decapsulate", backend, UPLINK)?,
            Card::SinksFrames => object.attach_xdp("lab_sink", backend, UPLINK)?,
            Card::SinksBuffers => object.attach_ingress("lab_sink_buffers", backend, UPLINK)?,
        }
    }
    Ok(())
}

/// A wire into the switch.
fn port(end: &End<'_>, switch: &Namespace, name: &str) -> anyhow::Result<()> {
    wire(end, &End { namespace: switch, name })?;
    switch.ip(&[format!("link set {name} master {BRIDGE}")])
}

/// Both ends compute their checksums themselves and put VLAN tags into the frame: XDP sees frames as they are, and a virtual
/// wire would otherwise leave that to a card that never comes.
fn wire(one: &End<'_>, other: &End<'_>) -> anyhow::Result<()> {
    one.namespace.ip(&[format!(
        "link add {} type veth peer name {} netns {}",
        one.name,
        other.name,
        other.namespace.name()
    )])?;
    for end in [one, other] {
        end.namespace.succeed("ethtool", &["-K", end.name, "tx", "off", "txvlan", "off"])?;
        end.namespace.ip(&[format!("link set {} up", end.name)])?;
    }
    Ok(())
}

fn address(lab: &Lab) -> anyhow::Result<()> {
    let client_net = match lab.plan.arms {
        Arms::One => BACKEND_NET,
        Arms::Two => CLIENT_NET,
    };
    for family in Family::BOTH {
        let add = |network, host, interface: &str| {
            let nodad = if family == Family::V6 { " nodad" } else { "" };
            format!("address add {}/{} dev {interface}{nodad}", family.host(network, host), family.prefix())
        };
        let default = |network| format!("route add default via {}", family.balancer(network));
        lab.balancer.ip(&[add(BACKEND_NET, 1, BACK)])?;
        if lab.plan.arms == Arms::Two {
            lab.balancer.ip(&[add(CLIENT_NET, 1, FRONT)])?;
        }
        // Whoever a flood pretended to be, the answers go towards the client and end there.
        lab.balancer.ip(&[format!("route add default via {}", family.host(client_net, 2))])?;
        let addresses = (2..2 + CLIENT_ADDRESSES).map(|host| add(client_net, host, UPLINK));
        lab.client.ip(&addresses.chain([default(client_net)]).collect::<Vec<_>>())?;
        for (backend, host) in lab.backends.iter().zip(0x100..) {
            backend.ip(&[add(BACKEND_NET, host, UPLINK), default(BACKEND_NET)])?;
        }
    }
    if lab.plan.tagged {
        introduce(lab, client_net)?;
    }
    Ok(())
}

pub fn plug_in(backend: &Namespace, number: usize) -> anyhow::Result<()> {
    let mut lines = vec![format!("link set {UPLINK} up")];
    for family in Family::BOTH {
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        lines.push(format!(
            "address replace {}/{} dev {UPLINK}{nodad}",
            family.backend(number),
            family.prefix()
        ));
        lines.push(format!("route replace default via {}", family.balancer(BACKEND_NET)));
    }
    backend.ip(&lines)
}

/// Client and balancer know each other's link-layer address: nobody answers questions that carry a tag.
fn introduce(lab: &Lab, network: u8) -> anyhow::Result<()> {
    let (client, front) = (link_address(&lab.client, UPLINK)?, link_address(&lab.balancer, lab.front())?);
    for family in Family::BOTH {
        let balancer = family.balancer(network);
        lab.client
            .ip(&[format!("neighbour replace {balancer} lladdr {front} dev {UPLINK} nud permanent")])?;
        let hosts = (2..2 + CLIENT_ADDRESSES).map(|host| family.host(network, host));
        let lines = hosts.map(|host| {
            format!("neighbour replace {host} lladdr {client} dev {} nud permanent", lab.front())
        });
        lab.balancer.ip(&lines.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The link-layer address of an interface, as text.
pub fn link_address(namespace: &Namespace, interface: &str) -> anyhow::Result<String> {
    let mut ip = namespace.command("ip");
    let output = ip.args(["-json", "link", "show", interface]).output().context("starting ip")?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).context("what ip says")?;
    let address = links[0]["address"].as_str().context("the interface has no address")?;
    Ok(address.to_owned())
}
