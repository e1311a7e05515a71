//! The peer: the kernel's own balancer, destination NAT by nftables, in the place of lbctl.

use super::Lab;
use super::address::{Family, VIP_PORT};

/// Balances the VIPs' port, TCP and UDP, over all backends by a hash of the client, with source NAT.
///
/// # Errors
/// Without `nft`: `cargo xtask setup` installs it.
pub fn balance(lab: &Lab, backend_port: u16) -> anyhow::Result<()> {
    let mut rules = String::new();
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
        let backends: Vec<String> =
            (0..lab.backends.len()).map(|number| format!("{number} : {}", family.backend(number))).collect();
        for protocol in ["tcp", "udp"] {
            rules += &format!(
                "add rule inet lab before {ip} daddr {vip} {protocol} dport {VIP_PORT} dnat {ip} to jhash {ip} saddr . {protocol} \
                 sport mod {count} map {{ {map} }}:{backend_port}\n",
                vip = family.vip(),
                count = backends.len(),
                map = backends.join(", "),
            );
        }
    }
    let text = format!(
        "add table inet lab\n\
         add chain inet lab before {{ type nat hook prerouting priority dstnat; }}\n\
         add chain inet lab after {{ type nat hook postrouting priority srcnat; }}\n\
         {rules}\
         add rule inet lab after oifname \"{}\" masquerade\n",
        lab.back()
    );
    lab.balancer.feed("nft", &["-f", "-"], &text)
}

/// Takes it away again.
///
/// # Errors
/// When `nft` fails.
pub fn remove(lab: &Lab) -> anyhow::Result<()> {
    lab.balancer.succeed("nft", &["delete", "table", "inet", "lab"])
}
