//! Who has which address in every laboratory. Namespaces share nothing, so all laboratories use the same ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the balancer answers for.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// See [`VIP_V4`].
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// The client's network where the balancer has two arms.
pub const CLIENT_NET: u8 = 1;
/// The backends' network; with one arm everybody's.
pub const BACKEND_NET: u8 = 2;
/// The client's addresses in its network: `.0.2` and so many after it.
pub const CLIENT_ADDRESSES: u16 = 8;
/// Port of the VIPs.
pub const VIP_PORT: u16 = 8080;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The VIP.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP_V4.into(),
            Self::V6 => VIP_V6.into(),
        }
    }

    /// A host of one of the networks: 1 is the balancer, from 2 on the client, from 256 on the backends.
    pub fn host(self, network: u8, host: u16) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, network, host.to_be_bytes()[0], host.to_be_bytes()[1]).into(),
            Self::V6 => Ipv6Addr::new(0xfd00 + u16::from(network), 0, 0, 0, 0, 0, 0, host).into(),
        }
    }

    /// The balancer in one of the networks.
    pub fn balancer(self, network: u8) -> IpAddr {
        self.host(network, 1)
    }

    /// A backend, by its number from 0.
    pub fn backend(self, number: usize) -> IpAddr {
        self.host(BACKEND_NET, 0x100 + u16::try_from(number).expect("few backends"))
    }

    /// The prefix length of the networks.
    pub fn prefix(self) -> u8 {
        match self {
            Self::V4 => 16,
            Self::V6 => 64,
        }
    }
}
