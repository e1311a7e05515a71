//! Addresses as they are typed: `192.0.2.7:51000`, `203.0.113.10:443/udp`.

use std::net::SocketAddr;

use crate::control::protocol::steering::Transport;

/// Address, port and protocol of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipEndpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// `tcp` where none was typed.
    pub transport: Transport,
}

/// Who sends: an address with a port.
///
/// # Errors
/// A sentence with an example.
pub fn client(text: &str) -> Result<SocketAddr, String> {
    address(text, "192.0.2.7:51000", "[2001:db8::7]:51000")
}

/// To whom: an address with a port, and perhaps `/tcp` or `/udp`.
///
/// # Errors
/// A sentence with an example.
pub fn vip(text: &str) -> Result<VipEndpoint, String> {
    let (text, transport) = match text.rsplit_once('/') {
        None => (text, Transport::Tcp),
        Some((text, "tcp")) => (text, Transport::Tcp),
        Some((text, "udp")) => (text, Transport::Udp),
        Some((_, other)) => return Err(format!("\"{other}\" is no protocol: write /tcp or /udp")),
    };
    Ok(VipEndpoint { address: address(text, "203.0.113.10:443", "[2001:db8::10]:443")?, transport })
}

fn address(text: &str, example: &str, example_v6: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(format!("a flow has a port other than 0: {example}")),
            _ => Ok(address),
        };
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    Err(match bare {
        Ok(std::net::IpAddr::V4(_)) => format!("the port is missing: {text}:443"),
        Ok(std::net::IpAddr::V6(bare)) => format!("the port is missing: [{bare}]:443"),
        Err(_) => format!("not an address with a port: {example} or {example_v6}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<(&str, Transport), &str>) {
        let expect = expect
            .map(|(address, transport)| VipEndpoint { address: address.parse().unwrap(), transport })
            .map_err(str::to_owned);
        assert_eq!(vip(text), expect, "{text}");
    }

    #[test]
    fn a_vip_is_an_address_a_port_and_perhaps_a_protocol() {
        check("203.0.113.10:443", Ok(("203.0.113.10:443", Transport::Tcp)));
        check("203.0.113.10:443/udp", Ok(("203.0.113.10:443", Transport::Udp)));
        check("[2001:db8::1]:443/tcp", Ok(("[2001:db8::1]:443", Transport::Tcp)));
    }

    #[test]
    fn what_is_no_vip_is_answered_with_what_would_be() {
        check("203.0.113.10:443/sctp", Err("\"sctp\" is no protocol: write /tcp or /udp"));
        check("203.0.113.10", Err("the port is missing: 203.0.113.10:443"));
        check("2001:db8::1", Err("the port is missing: [2001:db8::1]:443"));
        check("[2001:db8::1]", Err("the port is missing: [2001:db8::1]:443"));
        check("203.0.113.10:0", Err("a flow has a port other than 0: 203.0.113.10:443"));
        check("web", Err("not an address with a port: 203.0.113.10:443 or [2001:db8::10]:443"));
        assert_eq!(
            client("192.0.2.7:99999"),
            Err("not an address with a port: 192.0.2.7:51000 or [2001:db8::7]:51000".to_owned())
        );
    }
}
