//! The way to a backend, link by link: from what the kernel tells of interfaces, routes and neighbours.
//!
//! Pure: messages in, [`NextHop`]s out, so that every odd route can be tested without a kernel. [`netlink`] asks and listens.

pub mod netlink;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    VlanProtocol, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};
use thiserror::Error;

use crate::limits::NEIGHBOURS_MAX;

/// A link-layer address of Ethernet.
pub type LinkAddress = [u8; 6];

/// How to reach a backend: what the XDP program has to write in front of its packets, and where they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The interface that frames leave by: of a VLAN the one that it is on.
    pub interface: u32,
    /// The tag of the VLAN.
    pub vlan: Option<u16>,
    /// Our link-layer address there.
    pub source_link: LinkAddress,
    /// The link-layer address of the backend, or of the gateway towards it.
    pub target_link: LinkAddress,
    /// Our IP address towards the backend.
    pub source: IpAddr,
    /// The largest IP packet on that way, as far as we know.
    pub mtu: u16,
}

/// A route, its neighbour not looked up yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface by which the stack would send.
    pub interface: u32,
    /// Whose link-layer address is needed: the gateway, or the backend itself.
    pub neighbour: IpAddr,
    /// Our IP address towards the backend.
    pub source: IpAddr,
    /// The route's own limit of the size of packets.
    pub mtu: Option<u32>,
}

/// Why packets cannot be sent to an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoWay {
    /// The kernel has none.
    #[error("no route to {0}: add one (ip route add …)")]
    NoRoute(IpAddr),
    /// A route that says no.
    #[error("the route to {0} is of type {1}: packets to it are not sent")]
    Refused(IpAddr, &'static str),
    /// One of our own addresses.
    #[error("{0} is an address of this host: packets cannot be steered to it; use forward = \"local\"")]
    OurOwn(IpAddr),
    /// The interface of the route is not there any more.
    #[error("the interface {0} of the route is gone")]
    NoInterface(u32),
    /// The interface is switched off.
    #[error("interface {0} is down: ip link set {0} up")]
    Down(String),
    /// The interface has no Ethernet header.
    #[error("interface {0} is no Ethernet: packets cannot be steered through it")]
    NotEthernet(String),
    /// More tags than are written.
    #[error("interface {0} is a VLAN on a VLAN, or not 802.1Q: only one 802.1Q tag can be written")]
    Tags(String),
    /// Frames cannot be sent into a bridge without its own look-up.
    #[error(
        "interface {0} is a bridge: packets cannot be steered through it; give the address to a port or a VLAN"
    )]
    Bridge(String),
    /// Nobody has answered yet, or nobody is there.
    #[error("the link address of {0} on {1} is not known: is the host up and in the same network?")]
    Unresolved(IpAddr, String),
}

/// An interface as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Its link-layer address, where it has one of Ethernet.
    pub link: Option<LinkAddress>,
    /// The largest IP packet.
    pub mtu: u32,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether it leads to this host only.
    pub is_loopback: bool,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Whether it is one end of a pair, the other of which must run XDP or GRO to receive redirected frames.
    pub is_veth: bool,
    /// Of a VLAN.
    pub vlan: Option<Vlan>,
    /// The bond, team or bridge that it is a part of.
    pub master: Option<u32>,
    /// The XDP program that is attached.
    pub xdp: Option<Attached>,
}

/// What makes an interface a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface that it is on.
    pub on: u32,
    /// Its tag.
    pub tag: u16,
    /// Whether the tag is of 802.1Q.
    pub is_8021q: bool,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's id of it.
    pub program: u32,
    /// Where it runs.
    pub mode: Mode,
}

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, after a buffer was made: slow.
    Generic,
    /// In the network card.
    Offloaded,
}

impl Mode {
    /// As shown to operators.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// What a message changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that matters to a way.
    Nothing,
    /// The link-layer address of a neighbour.
    Neighbour(IpAddr),
    /// Interfaces, routes, rules or addresses: every way has to be asked for again.
    Routes,
}

/// What the kernel has told.
#[derive(Clone, Debug, Default)]
pub struct Network {
    interfaces: BTreeMap<u32, Interface>,
    neighbours: HashMap<(u32, IpAddr), LinkAddress>,
    addresses: BTreeSet<(IpAddr, u32)>,
}

impl Network {
    /// Takes in one message of the kernel.
    pub fn hear(&mut self, message: &RouteNetlinkMessage) -> Heard {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.hear_link(link),
            RouteNetlinkMessage::DelLink(link) => {
                // Bridges tell of ports that leave in the same words.
                if u8::from(link.header.interface_family) != 0 {
                    return Heard::Nothing;
                }
                self.interfaces.remove(&link.header.index);
                self.neighbours.retain(|(interface, _), _| *interface != link.header.index);
                self.addresses.retain(|(_, interface)| *interface != link.header.index);
                Heard::Routes
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => self.hear_neighbour(neighbour),
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                if let Some(address) = neighbour_address(neighbour) {
                    self.neighbours.remove(&(neighbour.header.ifindex, address));
                }
                Heard::Nothing
            }
            RouteNetlinkMessage::NewAddress(address) => {
                self.addresses.extend(own_address(address));
                Heard::Routes
            }
            RouteNetlinkMessage::DelAddress(address) => {
                if let Some(gone) = own_address(address) {
                    self.addresses.remove(&gone);
                }
                Heard::Routes
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => Heard::Routes,
            _ => Heard::Nothing,
        }
    }

    fn hear_link(&mut self, message: &LinkMessage) -> Heard {
        if u8::from(message.header.interface_family) != 0 {
            return Heard::Nothing;
        }
        let interface = Interface::of(message);
        let before = self.interfaces.insert(message.header.index, interface.clone());
        // Counters and carrier are told often and change no way; nor does our own program.
        let same = before.is_some_and(|before| Interface { xdp: interface.xdp, ..before } == interface);
        if same { Heard::Nothing } else { Heard::Routes }
    }

    fn hear_neighbour(&mut self, message: &NeighbourMessage) -> Heard {
        let Some(address) = neighbour_address(message) else { return Heard::Nothing };
        let link = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => ethernet(bytes),
            _ => None,
        });
        // Who does not answer keeps the address that it had: probes decide whether it gets traffic.
        let Some(link) = link.filter(|_| is_valid(message.header.state)) else { return Heard::Nothing };
        let key = (message.header.ifindex, address);
        if self.neighbours.len() >= NEIGHBOURS_MAX && !self.neighbours.contains_key(&key) {
            return Heard::Nothing;
        }
        match self.neighbours.insert(key, link) {
            Some(before) if before == link => Heard::Nothing,
            _ => Heard::Neighbour(address),
        }
    }

    /// Where packets of this route leave, and what is written in front of them.
    ///
    /// # Errors
    /// Why they cannot be sent.
    pub fn next_hop(&self, route: &Route) -> Result<NextHop, NoWay> {
        let (index, through) = (route.interface, self.usable(route.interface)?);
        let (interface, vlan, below) = match through.vlan {
            None => (index, None, through),
            Some(vlan) => {
                let below = self.usable(vlan.on)?;
                if below.vlan.is_some() || !vlan.is_8021q {
                    return Err(NoWay::Tags(through.name.clone()));
                }
                (vlan.on, Some(vlan.tag), below)
            }
        };
        if let Some(bridge) = [through, below].into_iter().find(|one| one.is_bridge) {
            return Err(NoWay::Bridge(bridge.name.clone()));
        }
        let not_ethernet = || NoWay::NotEthernet(through.name.clone());
        let source_link = through.link.filter(|_| !through.is_loopback).ok_or_else(not_ethernet)?;
        let unresolved = || NoWay::Unresolved(route.neighbour, through.name.clone());
        let target_link = *self.neighbours.get(&(index, route.neighbour)).ok_or_else(unresolved)?;
        let mtu = route.mtu.unwrap_or(u32::MAX).min(through.mtu).min(below.mtu);
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        Ok(NextHop { interface, vlan, source_link, target_link, source: route.source, mtu })
    }

    fn usable(&self, index: u32) -> Result<&Interface, NoWay> {
        let interface = self.interfaces.get(&index).ok_or(NoWay::NoInterface(index))?;
        if interface.is_up { Ok(interface) } else { Err(NoWay::Down(interface.name.clone())) }
    }

    /// An interface by its number.
    pub fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.get(&index)
    }

    /// An interface by its name.
    pub fn interface_named(&self, name: &str) -> Option<(u32, &Interface)> {
        self.interfaces.iter().find(|(_, one)| one.name == name).map(|(&index, one)| (index, one))
    }

    /// The names of all interfaces but the loopback.
    pub fn interface_names(&self) -> impl Iterator<Item = &str> {
        self.interfaces.values().filter(|one| !one.is_loopback).map(|one| one.name.as_str())
    }

    /// The interface that the one of this name is a VLAN on.
    pub fn below(&self, name: &str) -> Option<&Interface> {
        self.interface(self.interface_named(name)?.1.vlan?.on)
    }

    /// The interfaces that this one is made of, as a bond is.
    pub fn members(&self, index: u32) -> impl Iterator<Item = u32> {
        self.interfaces.iter().filter(move |(_, one)| one.master == Some(index)).map(|(member, _)| *member)
    }

    /// The interfaces that have this address.
    pub fn interfaces_with(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        self.addresses.range((address, 0)..=(address, u32::MAX)).map(|(_, interface)| *interface)
    }
}

impl Interface {
    fn of(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        let mut interface = Self {
            is_up: flags.contains(LinkFlags::Up),
            is_loopback: flags.contains(LinkFlags::Loopback),
            ..Self::default()
        };
        let (mut on, mut tag, mut is_8021q) = (None, None, true);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::Address(bytes) if is_ethernet => interface.link = ethernet(bytes),
                LinkAttribute::Link(index) => on = Some(*index),
                LinkAttribute::Controller(index) => {
                    interface.master = Some(*index).filter(|index| *index != 0)
                }
                LinkAttribute::Xdp(xdp) => interface.xdp = attached(xdp),
                LinkAttribute::LinkInfo(details) => {
                    for detail in details {
                        match detail {
                            LinkInfo::Kind(InfoKind::Bridge) => interface.is_bridge = true,
                            LinkInfo::Kind(InfoKind::Veth) => interface.is_veth = true,
                            LinkInfo::Data(InfoData::Vlan(vlan)) => {
                                (tag, is_8021q) = vlan_tag(vlan);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        interface.vlan = tag.zip(on).map(|(tag, on)| Vlan { on, tag, is_8021q });
        interface
    }
}

impl Route {
    /// The route in the kernel's answer for `target`.
    ///
    /// # Errors
    /// It is none by which packets leave.
    pub fn of(message: &RouteMessage, target: IpAddr) -> Result<Self, NoWay> {
        match message.header.kind {
            RouteType::Unicast => {}
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast => {
                return Err(NoWay::OurOwn(target));
            }
            RouteType::BlackHole => return Err(NoWay::Refused(target, "blackhole")),
            RouteType::Unreachable => return Err(NoWay::Refused(target, "unreachable")),
            RouteType::Prohibit => return Err(NoWay::Refused(target, "prohibit")),
            _ => return Err(NoWay::NoRoute(target)),
        }
        let (mut interface, mut gateway, mut source, mut mtu) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = Some(*index),
                RouteAttribute::Gateway(address) => gateway = route_address(address),
                RouteAttribute::Via(via) => gateway = via_address(via),
                RouteAttribute::PrefSource(address) => source = route_address(address),
                RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
                // The kernel names one next hop when it is asked for an address; a list comes of routes with several.
                RouteAttribute::MultiPath(hops) if interface.is_none() => {
                    if let Some(first) = hops.first() {
                        interface = Some(first.interface_index);
                        gateway = next_hop_address(first).or(gateway);
                    }
                }
                _ => {}
            }
        }
        let interface = interface.ok_or(NoWay::NoRoute(target))?;
        // Without a preferred source the kernel says none for routes that were added so: the target's family then decides.
        let unspecified = match target {
            IpAddr::V4(_) => IpAddr::from([0u8; 4]),
            IpAddr::V6(_) => IpAddr::from([0u8; 16]),
        };
        Ok(Self {
            interface,
            neighbour: gateway.unwrap_or(target),
            source: source.unwrap_or(unspecified),
            mtu: mtu.filter(|mtu| *mtu > 0),
        })
    }
}

fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}

fn own_address(message: &AddressMessage) -> Option<(IpAddr, u32)> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    // On a point-to-point link `Address` is the other side's.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    address.map(|address| (address, message.header.index))
}

/// States in which the kernel itself would send to the address.
fn is_valid(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}

fn ethernet(bytes: &[u8]) -> Option<LinkAddress> {
    bytes.try_into().ok()
}

fn vlan_tag(vlan: &[InfoVlan]) -> (Option<u16>, bool) {
    let tag = vlan.iter().find_map(|one| match one {
        InfoVlan::Id(tag) => Some(*tag),
        _ => None,
    });
    let is_other = vlan.iter().any(|one| matches!(one, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    (tag, !is_other)
}

fn attached(xdp: &[LinkXdp]) -> Option<Attached> {
    let mode = xdp.iter().find_map(|one| match one {
        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Multiple) => Some(Mode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Mode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(Mode::Offloaded),
        _ => None,
    })?;
    let program = xdp.iter().find_map(|one| match one {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Attached { program, mode })
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn via_address(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some((*address).into()),
        RouteVia::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn next_hop_address(hop: &RouteNextHop) -> Option<IpAddr> {
    hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => route_address(address),
        RouteAttribute::Via(via) => via_address(via),
        _ => None,
    })
}

fn route_mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}
