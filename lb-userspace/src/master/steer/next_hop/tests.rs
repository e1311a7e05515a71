use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;

use super::*;

const SERVER: LinkAddress = [2, 0, 0, 0, 0, 1];
const GATEWAY: LinkAddress = [2, 0, 0, 0, 0, 2];
const OURS: LinkAddress = [2, 0, 0, 0, 0, 3];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(index: u32, name: &str, more: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(OURS.to_vec()),
    ];
    message.attributes.extend(more);
    RouteNetlinkMessage::NewLink(message)
}

fn vlan(on: u32, tag: u16, protocol: VlanProtocol) -> Vec<LinkAttribute> {
    let data = InfoData::Vlan(vec![InfoVlan::Id(tag), InfoVlan::Protocol(protocol)]);
    let details = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(data)];
    vec![LinkAttribute::Link(on), LinkAttribute::LinkInfo(details)]
}

fn neighbour(
    interface: u32,
    of: IpAddr,
    link: Option<LinkAddress>,
    state: NeighbourState,
) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    message.header.state = state;
    message.header.family = if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![NeighbourAttribute::Destination(of.into())];
    message.attributes.extend(link.map(|link| NeighbourAttribute::LinkLayerAddress(link.to_vec())));
    RouteNetlinkMessage::NewNeighbour(message)
}

fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.kind = kind;
    message.attributes = attributes;
    message
}

/// `eth0` with a neighbour and a gateway, a VLAN on it, a VLAN on that, a bridge.
fn network() -> Network {
    let mut network = Network::default();
    let bridge = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)])];
    for message in [
        link(2, "eth0", vec![]),
        link(3, "eth0.7", vlan(2, 7, VlanProtocol::Ieee8021Q)),
        link(4, "eth0.7.8", vlan(3, 8, VlanProtocol::Ieee8021Q)),
        link(5, "eth0.ad", vlan(2, 9, VlanProtocol::Ieee8021Ad)),
        link(6, "br0", bridge),
    ] {
        network.hear(&message);
    }
    for interface in 2..=6 {
        network.hear(&neighbour(interface, address("10.0.0.7"), Some(SERVER), NeighbourState::Reachable));
        network.hear(&neighbour(interface, address("10.0.0.1"), Some(GATEWAY), NeighbourState::Stale));
        network.hear(&neighbour(interface, address("fe80::1"), Some(GATEWAY), NeighbourState::Permanent));
    }
    network
}

fn check(target: &str, attributes: Vec<RouteAttribute>, expect: Result<NextHop, NoWay>) {
    let message = route(RouteType::Unicast, attributes);
    let found = Route::of(&message, address(target)).and_then(|route| network().next_hop(&route));
    assert_eq!(found, expect, "{message:?}");
}

#[test]
fn way_leads_through_the_gateway_or_straight_to_the_backend() {
    let source = RouteAttribute::PrefSource(Ipv4Addr::new(10, 0, 0, 9).into());
    let direct = NextHop {
        interface: 2,
        vlan: None,
        source_link: OURS,
        target_link: SERVER,
        source: address("10.0.0.9"),
        mtu: 1500,
    };
    check("10.0.0.7", vec![RouteAttribute::Oif(2), source.clone()], Ok(direct));
    let gateway = RouteAttribute::Gateway(Ipv4Addr::new(10, 0, 0, 1).into());
    let through = NextHop { target_link: GATEWAY, ..direct };
    check("192.0.2.1", vec![RouteAttribute::Oif(2), gateway, source.clone()], Ok(through));
    // RFC 5549: an IPv4 route by way of an IPv6 neighbour.
    let via = RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)));
    check("192.0.2.1", vec![RouteAttribute::Oif(2), via, source], Ok(through));
}

#[test]
fn vlan_is_a_tag_on_the_interface_below() {
    let tagged = NextHop {
        interface: 2,
        vlan: Some(7),
        source_link: OURS,
        target_link: SERVER,
        source: address("0.0.0.0"),
        mtu: 1500,
    };
    check("10.0.0.7", vec![RouteAttribute::Oif(3)], Ok(tagged));
    check("10.0.0.7", vec![RouteAttribute::Oif(4)], Err(NoWay::Tags("eth0.7.8".into())));
    check("10.0.0.7", vec![RouteAttribute::Oif(5)], Err(NoWay::Tags("eth0.ad".into())));
    let network = network();
    assert_eq!(network.below("eth0.7").map(|below| below.name.as_str()), Some("eth0"));
    assert!(network.below("eth0").is_none() && network.below("eth9").is_none());
}

#[test]
fn bond_is_made_of_the_interfaces_that_name_it() {
    let mut network = network();
    let member =
        |index: u32, bond: u32| link(index, &format!("eth{index}"), vec![LinkAttribute::Controller(bond)]);
    for message in [link(20, "bond0", vec![]), member(21, 20), member(22, 20), member(23, 0)] {
        network.hear(&message);
    }
    assert_eq!(network.members(20).collect::<Vec<_>>(), [21, 22]);
    network.hear(&member(22, 0));
    assert_eq!(network.members(20).collect::<Vec<_>>(), [21]);
}

#[test]
fn mtu_is_the_smallest_on_the_way() {
    let mtu = |mtu| {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        let message = route(RouteType::Unicast, vec![RouteAttribute::Oif(2), metrics]);
        network().next_hop(&Route::of(&message, address("10.0.0.7")).unwrap()).unwrap().mtu
    };
    assert_eq!((mtu(1280), mtu(9000), mtu(0)), (1280, 1500, 1500));
}

#[test]
fn what_cannot_be_steered_is_said() {
    let target = address("10.0.0.7");
    check("10.0.0.7", vec![], Err(NoWay::NoRoute(target)));
    check("10.0.0.7", vec![RouteAttribute::Oif(99)], Err(NoWay::NoInterface(99)));
    check("10.0.0.7", vec![RouteAttribute::Oif(6)], Err(NoWay::Bridge("br0".into())));
    let stranger = address("10.0.0.8");
    check("10.0.0.8", vec![RouteAttribute::Oif(2)], Err(NoWay::Unresolved(stranger, "eth0".into())));
    let refused = |kind| Route::of(&route(kind, vec![RouteAttribute::Oif(2)]), target);
    assert_eq!(refused(RouteType::Local), Err(NoWay::OurOwn(target)));
    assert_eq!(refused(RouteType::BlackHole), Err(NoWay::Refused(target, "blackhole")));
}

#[test]
fn interface_that_is_down_leads_nowhere() {
    let mut network = network();
    let RouteNetlinkMessage::NewLink(mut down) = link(2, "eth0", vec![]) else { unreachable!() };
    down.header.flags = LinkFlags::empty();
    assert_eq!(network.hear(&RouteNetlinkMessage::NewLink(down)), Heard::Routes);
    let route =
        Route::of(&route(RouteType::Unicast, vec![RouteAttribute::Oif(3)]), address("10.0.0.7")).unwrap();
    assert_eq!(network.next_hop(&route), Err(NoWay::Down("eth0".into())));
}

#[test]
fn neighbour_is_news_only_when_its_link_address_changes() {
    let (mut network, of) = (network(), address("10.0.0.7"));
    let mut hear = |link, state| network.hear(&neighbour(2, of, link, state));
    assert_eq!(hear(Some(SERVER), NeighbourState::Stale), Heard::Nothing);
    assert_eq!(hear(Some(GATEWAY), NeighbourState::Reachable), Heard::Neighbour(of));
    assert_eq!(hear(None, NeighbourState::Incomplete), Heard::Nothing);
    assert_eq!(hear(Some(SERVER), NeighbourState::Failed), Heard::Nothing);
    let route = Route { interface: 2, neighbour: of, source: of, mtu: None };
    assert_eq!(
        network.next_hop(&route).map(|hop| hop.target_link),
        Ok(GATEWAY),
        "who fails keeps its address"
    );
}

#[test]
fn link_that_only_counts_or_gets_our_program_is_no_news() {
    let mut network = network();
    assert_eq!(network.hear(&link(2, "eth0", vec![])), Heard::Nothing);
    let xdp = vec![LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(12)];
    assert_eq!(network.hear(&link(2, "eth0", vec![LinkAttribute::Xdp(xdp)])), Heard::Nothing);
    let expect = Attached { program: 12, mode: Mode::Generic };
    assert_eq!(network.interface_named("eth0").unwrap().1.xdp, Some(expect));
    assert_eq!(network.hear(&link(2, "eth0", vec![LinkAttribute::Mtu(9000)])), Heard::Routes);
}
