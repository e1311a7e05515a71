//! What backends and VIPs are known by: hashes that are the same on every node, after every restart and in every version.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::model::steering::VipAddress;

/// Of a backend: its address, not its place in a file nor its slot.
pub fn of_backend(address: SocketAddr) -> u64 {
    let [high, low] = halves(address.ip());
    mixed(mixed(mixed(high) ^ low) ^ u64::from(address.port()))
}

/// Of a VIP: address, ports and protocol. Never zero.
pub fn of_vip(address: &VipAddress, protocol: u8) -> u32 {
    let [high, low] = halves(address.network.addr());
    let ports = u64::from(address.ports.first()) << 16 | u64::from(address.ports.last());
    let rest = ports << 16 | u64::from(address.network.prefix_len()) << 8 | u64::from(protocol);
    (mixed(mixed(mixed(high) ^ low) ^ rest) >> 32) as u32 | 1
}

fn halves(ip: IpAddr) -> [u64; 2] {
    let v6: Ipv6Addr = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = u128::from(v6);
    [(bits >> 64) as u64, bits as u64]
}

/// The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every bit of the result hangs on every bit of `value`.
pub(super) const fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_same_identity_in_every_version() {
        let of = |text: &str| of_backend(text.parse().unwrap());
        assert_eq!(of("10.0.0.7:8080"), 0xc5e4_4767_6f42_f142);
        assert_eq!(of("10.0.0.7:8080"), of("[::ffff:10.0.0.7]:8080"));
        assert_ne!(of("10.0.0.7:8080"), of("10.0.0.7:8081"));
        assert_ne!(of("10.0.0.7:8080"), of("10.0.0.8:8080"));
    }
}
