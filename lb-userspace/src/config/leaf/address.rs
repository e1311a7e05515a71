//! Addresses: of listeners, of backends, of programs, of networks.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::model::{Address, ProgramAddress};
use crate::config::reading::{FromText, Refusal, not_yet};
use crate::config::report::quote;

/// Bytes of a unix socket path that `sockaddr_un` holds, without its terminator (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// `[metrics] bind`: an address, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsBind(pub Option<SocketAddr>);

impl FromText for SocketAddr {
    const EXPECTED: &'static str = "an address";
    const EXAMPLE: &'static str = "0.0.0.0:80";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let address = socket_address(text, "0.0.0.0")?;
        if address.port() == 0 { Err(port_zero(text)) } else { Ok(address) }
    }
}

impl FromText for MetricsBind {
    const EXPECTED: &'static str = "an address";
    const EXAMPLE: &'static str = "127.0.0.1:9901";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() {
            Ok(Self(None))
        } else {
            SocketAddr::from_text(text).map(|address| Self(Some(address)))
        }
    }
}

impl FromText for Address {
    const EXPECTED: &'static str = "an address";
    const EXAMPLE: &'static str = "192.0.2.10:8080";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(text, path).map(|path| Self::Unix(PathBuf::from(path)));
        }
        SocketAddr::from_text(text).map(Self::Tcp)
    }
}

impl FromText for ProgramAddress {
    const EXPECTED: &'static str = "an address";
    const EXAMPLE: &'static str = "127.0.0.1:0";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text == "fd" {
            return Err(not_yet(
                text,
                "let the program listen on \"127.0.0.1:0\" ($PORT) or \"unix:/path\" meanwhile",
            ));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(text, path).map(Self::Unix);
        }
        let address = socket_address(text, "127.0.0.1")?;
        Ok(if address.port() == 0 { Self::Chosen(address.ip()) } else { Self::Fixed(address) })
    }
}

impl FromText for IpNet {
    const EXPECTED: &'static str = "a network";
    const EXAMPLE: &'static str = "10.0.0.0/8";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let single = || text.parse::<IpAddr>().ok().map(Self::from);
        text.parse().ok().or_else(single).ok_or_else(|| {
            let hint = "write a network such as \"10.0.0.0/8\" or \"fd00::/8\", or a single address";
            Refusal::new(
                format!("{} is not a network", quote(text)),
                "not an address with a prefix length",
                hint,
            )
        })
    }
}

fn socket_address(text: &str, host_example: &str) -> Result<SocketAddr, Refusal> {
    text.parse().map_err(|_| refused_address(text, host_example))
}

/// Says which part of `host:port` is wrong.
fn refused_address(text: &str, host_example: &str) -> Refusal {
    let shown = quote(text);
    if text.parse::<IpAddr>().is_ok() {
        let bracketed = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
        let hint = format!("write \"{bracketed}:8080\"");
        return Refusal::new(format!("{shown} has no port"), "the port is missing", hint);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let hint = format!("write host:port, such as \"{host_example}:8080\" or \"[::1]:8080\"");
        return Refusal::new(format!("{shown} is not an address"), "not host:port", hint);
    };
    if port.parse::<u16>().is_err() {
        let is_number = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
        let label = if is_number { "the port is out of range" } else { "the port is not a number" };
        return Refusal::new(
            format!("{shown} is not an address"),
            label,
            "a port is a number from 1 to 65535",
        );
    }
    if host.is_empty() || host == "*" {
        let hint = format!("write \"{host_example}:{port}\" for IPv4, \"[::]:{port}\" for IPv6");
        return Refusal::new(format!("{shown} is not an address"), "the host is missing", hint);
    }
    if host.contains(':') && !host.starts_with('[') {
        let hint = format!("an IPv6 address stands in brackets: \"[{host}]:{port}\"");
        return Refusal::new(format!("{shown} is not an address"), "brackets are missing", hint);
    }
    if is_dns_name(host) {
        let address = if host == "localhost" { "127.0.0.1" } else { "192.0.2.10" };
        let mut refusal = not_yet(text, &format!("write the IP address, such as \"{address}:{port}\""));
        refusal.message = format!("a host name as address ({shown}) is not implemented yet");
        return refusal;
    }
    let hint = format!("write \"{host_example}:{port}\", \"[::1]:{port}\" or \"unix:/path\"");
    Refusal::new(format!("{shown} is not an address"), "the host is not an IP address", hint)
}

fn is_dns_name(host: &str) -> bool {
    host.chars().any(|c| c.is_ascii_alphabetic())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn port_zero(text: &str) -> Refusal {
    let hint = "name the port; only a program's address may have port 0, which chooses one per instance";
    Refusal::new(format!("{} has port 0", quote(text)), "port 0 cannot be reached", hint)
}

fn unix_path(text: &str, path: &str) -> Result<String, Refusal> {
    if !path.starts_with('/') {
        let hint = "write an absolute path: \"unix:/run/app.sock\"";
        return Err(Refusal::new(
            format!("{} has no absolute path", quote(text)),
            "not an absolute path",
            hint,
        ));
    }
    if path.len() > UNIX_PATH_BYTES_MAX || path.contains('\0') {
        let hint = format!("the kernel takes socket paths of at most {UNIX_PATH_BYTES_MAX} bytes");
        return Err(Refusal::new(format!("{} is too long for a socket", quote(text)), "path too long", hint));
    }
    Ok(path.to_owned())
}
