//! What describes a VIP: addresses with ports, interfaces, server ids, the size of lookup tables.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use lb_common::limits::LOOKUP_ROWS_MAX;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use toml::de::DeValue;

use crate::config::model::steering::{PortRange, VipAddress};
use crate::config::reading::{FromText, FromToml, Reading, Refusal, Whole};
use crate::config::report::{Place, quote};

/// `interface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface(pub String);

/// `server_id`: 1–8 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId(pub Vec<u8>);

/// `lookup_rows`: a prime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LookupRows(pub u32);

/// Bytes of an interface name (`IFNAMSIZ` without the terminator).
const INTERFACE_BYTES_MAX: usize = 15;
/// Bytes of a server id that a VIP can read.
const SERVER_ID_BYTES_MAX: usize = 8;
/// Fewest rows of a lookup table: fewer share badly among more than two backends.
const LOOKUP_ROWS_MIN: u32 = 251;
/// Shortest prefixes of VIPs: a shorter one is surely a slip, and would take the host's own traffic.
const PREFIX_BITS_MIN_V4: u8 = 8;
/// See [`PREFIX_BITS_MIN_V4`].
const PREFIX_BITS_MIN_V6: u8 = 32;

impl FromText for VipAddress {
    const EXPECTED: &'static str = "an address";
    const EXAMPLE: &'static str = "203.0.113.10:443";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let (host, ports) = split(text)?;
        let network = vip_network(text, host)?;
        let ports = match ports {
            Some(ports) => PortRange::from_text(ports)?,
            None => PortRange::EVERY,
        };
        Ok(Self { network, ports })
    }
}

/// Host and ports of a VIP's address.
fn split(text: &str) -> Result<(&str, Option<&str>), Refusal> {
    let refuse = |label: &str, hint: String| {
        Err(Refusal::new(format!("{} is not an address", quote(text)), label, hint))
    };
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) => Ok((host, None)),
            Some((host, ports)) if ports.starts_with(':') => Ok((host, Some(&ports[1..]))),
            Some((host, _)) => {
                refuse("something else than a port behind ]", format!("write \"[{host}]:443\""))
            }
            None => refuse("the ] is missing", "write \"[2001:db8::1]:443\"".to_owned()),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        // Whether the last part of `2001:db8::1:443` is a port or not cannot be told.
        Some((_, rest)) if rest.contains(':') => {
            let hint = format!(
                "an IPv6 address stands in brackets: \"[{text}]\", with \":443\" behind for one port"
            );
            refuse("brackets are missing", hint)
        }
        Some((host, ports)) => Ok((host, Some(ports))),
    }
}

fn vip_network(text: &str, host: &str) -> Result<IpNet, Refusal> {
    let refuse =
        |label: &str, hint: String| Refusal::new(format!("{} is not an address", quote(text)), label, hint);
    let single = || host.parse::<IpAddr>().ok().map(IpNet::from);
    let network: IpNet = host.parse().ok().or_else(single).ok_or_else(|| {
        let hint = "write \"203.0.113.10:443\", \"203.0.113.0/28:443\" or \"[2001:db8::1]:443\"";
        refuse("the host is not an IP address", hint.to_owned())
    })?;
    if network.trunc() != network {
        let hint = format!(
            "write \"{}\" for the whole network, or leave /{} out",
            network.trunc(),
            network.prefix_len()
        );
        return Err(refuse("has bits behind its prefix", hint));
    }
    let bits_min = if network.addr().is_ipv4() { PREFIX_BITS_MIN_V4 } else { PREFIX_BITS_MIN_V6 };
    if network.prefix_len() < bits_min {
        return Err(refuse(
            "too much for a VIP",
            format!("a network of VIPs has a prefix of at least {bits_min} bits"),
        ));
    }
    if !can_be_vip(network.addr()) {
        let hint = "write an address that clients send to, such as \"203.0.113.10:443\"";
        return Err(refuse("nobody can be reached there", hint.to_owned()));
    }
    Ok(network)
}

fn can_be_vip(address: IpAddr) -> bool {
    let is_mapped = |v6: Ipv6Addr| v6.to_ipv4_mapped().is_some();
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback())
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast() || v6.is_loopback() || is_mapped(v6)),
    }
}

impl FromText for PortRange {
    const EXPECTED: &'static str = "a range of ports";
    const EXAMPLE: &'static str = "10240-32767";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let refuse = |label: &str, hint: &str| {
            Refusal::new(format!("{} is not a range of ports", quote(text)), label, hint)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port =
            |part: &str| part.parse::<u16>().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()));
        let (Some(first), Some(last)) = (port(first), port(last)) else {
            let hint = "a port is a number from 1 to 65535, a range two of them: \"8000-8999\"";
            return Err(refuse("not a port or two", hint));
        };
        Self::new(first, last).ok_or_else(|| match first {
            0 => refuse("port 0 cannot be reached", "leave the port out to answer for every port"),
            _ => refuse("ends before it begins", "write the lower port first"),
        })
    }
}

impl FromText for IpAddr {
    const EXPECTED: &'static str = "an IP address";
    const EXAMPLE: &'static str = "192.0.2.1";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        text.parse().ok().filter(|address| can_be_vip(*address)).ok_or_else(|| {
            let hint = "write an address of this machine, without a port: \"192.0.2.1\" or \"2001:db8::1\"";
            Refusal::new(
                format!("{} is not an address of a host", quote(text)),
                "not an IP address of a host",
                hint,
            )
        })
    }
}

impl FromText for Interface {
    const EXPECTED: &'static str = "an interface";
    const EXAMPLE: &'static str = "eth0";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let label = match text {
            "" => "empty",
            "." | ".." => "not an interface",
            _ if text.len() > INTERFACE_BYTES_MAX => "longer than 15 bytes",
            _ if text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'/' || byte == b':') => {
                "holds a space, a / or a :"
            }
            _ => return Ok(Self(text.to_owned())),
        };
        let hint = "write a name that `ip link` shows, such as \"eth0\"";
        Err(Refusal::new(format!("{} is not an interface", quote(text)), label, hint))
    }
}

impl FromText for ServerId {
    const EXPECTED: &'static str = "a server id";
    const EXAMPLE: &'static str = "0a1b2c3d";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let refuse = |label: &str| {
            let hint = format!(
                "write two hexadecimal digits per byte, 1 to {SERVER_ID_BYTES_MAX} bytes: \"0a1b2c3d\""
            );
            Refusal::new(format!("{} is not a server id", quote(text)), label, hint)
        };
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refuse("not hexadecimal digits"));
        }
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        let bytes: Vec<u8> = digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        match bytes.len() {
            _ if text.len() % 2 == 1 => Err(refuse("half a byte too much")),
            0 => Err(refuse("empty")),
            1..=SERVER_ID_BYTES_MAX => Ok(Self(bytes)),
            _ => Err(refuse("too long")),
        }
    }
}

impl From<u32> for LookupRows {
    fn from(rows: u32) -> Self {
        Self(rows)
    }
}

impl FromToml for LookupRows {
    fn from_toml(value: &DeValue<'_>, place: Place, reading: &mut Reading<'_>) -> Option<Self> {
        let Whole(rows) = Whole::<LOOKUP_ROWS_MIN, LOOKUP_ROWS_MAX>::from_toml(value, place, reading)?;
        if is_prime(rows) {
            return Some(Self(rows));
        }
        let below = (LOOKUP_ROWS_MIN..rows).rev().find(|rows| is_prime(*rows));
        let above = (rows..=LOOKUP_ROWS_MAX).find(|rows| is_prime(*rows));
        let near: Vec<String> = below.into_iter().chain(above).map(|rows| rows.to_string()).collect();
        let hint =
            format!("backends fill every row of a prime number of rows only: write {}", near.join(" or "));
        reading.refuse(place, Refusal::new(format!("{rows} is not a prime"), "not a prime", hint));
        None
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Whole::<LOOKUP_ROWS_MIN, LOOKUP_ROWS_MAX>::schema(generator);
        let examples = json_schema!({ "examples": [16_381, 65_537, 131_071] });
        for (key, value) in examples.as_object().into_iter().flatten() {
            schema.insert(key.clone(), value.clone());
        }
        schema
    }
}

/// By trial: there are at most 362 divisors to try.
fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}
