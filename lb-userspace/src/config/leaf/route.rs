//! Names, hosts and paths.

use crate::config::model::HostPattern;
use crate::config::reading::{FromText, Refusal};
use crate::config::report::quote;
use crate::config::route_path;

/// The name of a listener, upstream or program: it appears in commands, logs, metrics and file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub String);

/// `path` of a route, as paths of requests are compared with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePath(pub String);

/// Path and query of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePath(pub String);

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of a host name (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

impl FromText for String {
    const EXPECTED: &'static str = "a string";
    const EXAMPLE: &'static str = "text";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text.contains('\0') {
            return Err(Refusal::new("the text holds a NUL character", "NUL in here", "remove \\u0000"));
        }
        Ok(text.to_owned())
    }

    fn text_schema() -> schemars::Schema {
        schemars::json_schema!({ "type": "string" })
    }
}

impl FromText for Name {
    const EXPECTED: &'static str = "a name";
    const EXAMPLE: &'static str = "web";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins_well && text.len() <= NAME_BYTES_MAX && text.chars().all(is_plain) {
            return Ok(Self(text.to_owned()));
        }
        let hint = format!(
            "a name begins with a letter or digit, holds letters, digits, - _ and . and has at most {NAME_BYTES_MAX} characters"
        );
        Err(Refusal::new(format!("{} cannot be a name", quote(text)), "not a name", hint))
    }
}

impl FromText for HostPattern {
    const EXPECTED: &'static str = "a host";
    const EXAMPLE: &'static str = "docs.example.com";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let refuse = |label: &str, hint: &str| {
            Err(Refusal::new(format!("{} is not a host", quote(text)), label, hint))
        };
        let lower = text.to_ascii_lowercase();
        let (host, is_below) = match lower.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (lower.as_str(), false),
        };
        if lower == "*" {
            return refuse("matches everything", "leave `host` out: the route is then for any host");
        }
        if host.contains('*') {
            return refuse("* stands only at the beginning", "write \"*.example.com\"");
        }
        if lower.contains("://") || lower.contains('/') {
            return refuse(
                "a URL",
                "write the host alone, such as \"docs.example.com\"; the path goes to `path`",
            );
        }
        let is_v6 = !is_below
            && host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(is_v6_address);
        if host.contains(':') && !is_v6 {
            return refuse("holds a port", "write the host without a port; the port is the listener's");
        }
        if !is_v6 && !is_host_name(host) {
            return refuse(
                "not a host name",
                "write a name such as \"docs.example.com\" or \"*.example.com\"",
            );
        }
        Ok(if is_below { Self::Below(host.to_owned()) } else { Self::Exact(host.to_owned()) })
    }
}

fn is_v6_address(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label)
}

impl FromText for RoutePath {
    const EXPECTED: &'static str = "a path";
    const EXAMPLE: &'static str = "/";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        let refuse = |label: &str, hint: String| {
            Err(Refusal::new(format!("{} is not a path of a route", quote(text)), label, hint))
        };
        if text.contains('*') {
            let prefix = text.split('*').next().unwrap_or("/");
            let prefix = if prefix.len() > 1 { prefix.trim_end_matches('/') } else { "/" };
            return refuse("no patterns", format!("a path is a prefix already: write {}", quote(prefix)));
        }
        if text.contains(['?', '#']) {
            return refuse(
                "holds a query",
                "a route looks at the path only; leave out what follows ? or #".into(),
            );
        }
        request_path(text)?;
        let compared = route_path::ours(text);
        if let Some(other) = route_path::other_readings(text).first() {
            let hint = format!(
                "requests for it are refused where it makes a difference: write it without \".\", \"..\" and encoded separators, such as {}",
                quote(other)
            );
            return refuse("could be read in several ways", hint);
        }
        if text.contains("//") || text.contains(';') {
            return refuse(
                "never matches",
                format!(
                    "empty segments, and what follows ; in one, do not count: write {}",
                    quote(&compared)
                ),
            );
        }
        Ok(Self(compared.into_owned()))
    }
}

impl FromText for ProbePath {
    const EXPECTED: &'static str = "a path";
    const EXAMPLE: &'static str = "/health";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        request_path(text).map(|()| Self(text.to_owned()))
    }
}

/// Whether `text` can stand in a request line.
fn request_path(text: &str) -> Result<(), Refusal> {
    if !text.starts_with('/') {
        let hint = format!("write {}", quote(&format!("/{}", text.trim_start())));
        return Err(Refusal::new(format!("{} is not a path", quote(text)), "does not begin with /", hint));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let hint = "write spaces and other characters percent-encoded: \"/a%20b\"";
        return Err(Refusal::new(
            format!("{} is not a path", quote(text)),
            "holds a space or no ASCII",
            hint,
        ));
    }
    if text.len() > crate::limits::URI_BYTES_MAX {
        let hint = format!("a path has at most {} bytes", crate::limits::URI_BYTES_MAX);
        return Err(Refusal::new(format!("{} is too long", quote(text)), "too long", hint));
    }
    Ok(())
}
