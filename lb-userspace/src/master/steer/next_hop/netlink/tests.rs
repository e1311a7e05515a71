use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::master::steer::lab::{Neighbourhood, address, in_namespace, ip};
use crate::master::steer::next_hop::NextHop;

/// Takes news until the way to `target` is as `wanted`, for at most five seconds.
async fn until(
    (kernel, news, network): &mut (&mut Kernel, &mut News, &mut Network),
    target: IpAddr,
    wanted: impl Fn(&Result<NextHop, NoWay>) -> bool,
) -> Result<NextHop, NoWay> {
    let waited = tokio::time::timeout(Duration::from_secs(5), async {
        loop {
            let hop = kernel.route(target).unwrap().and_then(|route| network.next_hop(&route));
            if wanted(&hop) {
                return hop;
            }
            let Told::Messages(messages) = news.next().await else { panic!("news lost") };
            messages.iter().for_each(|message| {
                network.hear(message);
            });
        }
    });
    waited.await.expect("the way did not become what it should within five seconds")
}

#[test]
fn neighbour_is_resolved_without_a_packet_and_followed_when_it_changes() {
    in_namespace(|| async {
        let other = Neighbourhood::new();
        other.join(("ours", "10.1.0.1/24"), ("theirs", "10.1.0.2/24"));
        let target = address("10.1.0.2");
        let (mut kernel, mut news) = (Kernel::open().unwrap(), News::open().unwrap());
        let mut network = kernel.network().unwrap();
        let (index, _) = network.interface_named("ours").unwrap();
        let route = kernel.route(target).unwrap().unwrap();
        assert_eq!((route.interface, route.neighbour, route.source), (index, target, address("10.1.0.1")));
        assert!(matches!(network.next_hop(&route), Err(NoWay::Unresolved(..))));
        kernel.resolve(index, target).unwrap();
        let hop = until(&mut (&mut kernel, &mut news, &mut network), target, Result::is_ok).await.unwrap();
        assert_eq!((hop.interface, hop.vlan, hop.mtu), (index, None, 1500));
        other.within(|| {
            ip("link set theirs down");
            ip("link set theirs address 02:00:00:00:00:77");
            ip("link set theirs up");
            // Tells the neighbourhood, as a machine that takes over an address does.
            ip("neighbour flush dev theirs");
        });
        kernel.resolve(index, target).unwrap();
        ip("neighbour flush dev ours");
        kernel.resolve(index, target).unwrap();
        let moved = |hop: &Result<NextHop, NoWay>| {
            hop.as_ref().is_ok_and(|hop| hop.target_link == [2, 0, 0, 0, 0, 0x77])
        };
        until(&mut (&mut kernel, &mut news, &mut network), target, moved).await.unwrap();
    });
}

#[test]
fn routes_are_followed_while_they_change() {
    in_namespace(|| async {
        let other = Neighbourhood::new();
        other.join(("ours", "fd00:1::1/64"), ("theirs", "fd00:1::2/64"));
        ip("address add 10.7.0.1/24 dev ours");
        ip("link set ours mtu 1400");
        let (mut kernel, mut news) = (Kernel::open().unwrap(), News::open().unwrap());
        let mut network = kernel.network().unwrap();
        let index = network.interface_named("ours").unwrap().0;
        assert_eq!(kernel.route(address("192.0.2.1")).unwrap(), Err(NoWay::NoRoute(address("192.0.2.1"))));
        assert_eq!(kernel.route(address("10.7.0.1")).unwrap(), Err(NoWay::OurOwn(address("10.7.0.1"))));
        assert_eq!(network.interfaces_with(address("10.7.0.1")).collect::<Vec<_>>(), [index]);
        ip("route add 192.0.2.0/24 via 10.7.0.9");
        ip("neighbour add 10.7.0.9 lladdr 02:00:00:00:00:09 dev ours");
        let source = address("10.7.0.1");
        let mut parts = (&mut kernel, &mut news, &mut network);
        let hop = until(&mut parts, address("192.0.2.1"), Result::is_ok).await.unwrap();
        assert_eq!((hop.interface, hop.vlan, hop.mtu, hop.source), (index, None, 1400, source));
        assert_eq!(hop.target_link, [2, 0, 0, 0, 0, 9]);
        ip("route replace unreachable 192.0.2.0/24 metric 0");
        let refused = |hop: &Result<NextHop, NoWay>| matches!(hop, Err(NoWay::Refused(..)));
        let _ = until(&mut parts, address("192.0.2.1"), refused).await;
        parts.0.resolve(index, address("fd00:1::2")).unwrap();
        let hop = until(&mut parts, address("fd00:1::2"), Result::is_ok).await.unwrap();
        assert_eq!((hop.interface, hop.source), (index, address("fd00:1::1")));
        ip("link set ours down");
        let down = |hop: &Result<NextHop, NoWay>| hop.is_err();
        let _ = until(&mut parts, address("fd00:1::2"), down).await;
    });
}
