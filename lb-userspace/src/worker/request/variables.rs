//! The variables of a request and the header values that templates make of them.
//!
//! Text of a template is checked when the configuration is read; what a client sends is not, so every byte that a
//! header value must not hold is percent-encoded here and no rendered value can be invalid or without bound.

use std::fmt::Write;
use std::net::IpAddr;

use http::HeaderValue;

use crate::config::model::{Template, TemplatePart, Variable};
use crate::limits::RENDERED_BYTES_MAX;

/// What the variables of a template stand for in one request.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    /// The host that the client asked for, as it wrote it.
    pub host: &'a str,
    /// The client's address, as `forwarded::set` returned it.
    pub client_ip: IpAddr,
    /// The port of the peer.
    pub client_port: u16,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The request's id.
    pub request_id: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path as the client wrote it.
    pub path: &'a str,
    /// The query without its `?`; empty where there is none.
    pub query: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The backend's name; empty before one was chosen.
    pub backend: &'a str,
}

impl Variables<'_> {
    /// Appends the value of `variable` as it is, unescaped.
    pub fn write_to(&self, variable: Variable, out: &mut String) {
        match variable {
            Variable::Host => out.push_str(self.host),
            Variable::ClientIp => write!(out, "{}", self.client_ip).expect("writing to a String cannot fail"),
            Variable::ClientPort => {
                write!(out, "{}", self.client_port).expect("writing to a String cannot fail");
            }
            Variable::Scheme => out.push_str(self.scheme),
            Variable::RequestId => out.push_str(self.request_id),
            Variable::Method => out.push_str(self.method),
            Variable::Path => out.push_str(self.path),
            Variable::Query => out.push_str(self.query),
            Variable::Listener => out.push_str(self.listener),
            Variable::Upstream => out.push_str(self.upstream),
            Variable::Backend => out.push_str(self.backend),
        }
    }
}

/// A [`Template`] made ready: text without variables is a finished header value that costs a reference count to use.
#[derive(Clone, Debug)]
pub enum CompiledTemplate {
    /// No variables in it.
    Static(HeaderValue),
    /// Filled in per request.
    Dynamic(Template),
}

impl CompiledTemplate {
    /// Compiles `template`.
    pub fn new(template: &Template) -> Self {
        if template.parts.iter().any(|part| matches!(part, TemplatePart::Variable(_))) {
            return Self::Dynamic(template.clone());
        }
        let mut text = String::new();
        for part in &template.parts {
            if let TemplatePart::Text(part) = part {
                text.push_str(part);
            }
        }
        Self::Static(header_value(&text))
    }

    /// The header value for a request: at most [`RENDERED_BYTES_MAX`] bytes, printable ASCII.
    pub fn render(&self, variables: &Variables<'_>) -> HeaderValue {
        match self {
            Self::Static(value) => value.clone(),
            Self::Dynamic(template) => {
                let mut text = String::with_capacity(64);
                for part in &template.parts {
                    match part {
                        TemplatePart::Text(part) => text.push_str(part),
                        TemplatePart::Variable(variable) => variables.write_to(*variable, &mut text),
                    }
                }
                header_value(&text)
            }
        }
    }
}

/// `text` as a header value: bytes other than printable ASCII percent-encoded, space at the ends removed, cut at the bound.
fn header_value(text: &str) -> HeaderValue {
    let text = text.trim_matches([' ', '\t']);
    if text.len() <= RENDERED_BYTES_MAX && text.bytes().all(is_printable) {
        return HeaderValue::from_str(text).expect("printable ASCII is a valid header value");
    }
    let mut encoded = String::with_capacity(text.len().min(RENDERED_BYTES_MAX));
    for byte in text.bytes() {
        if encoded.len() + 3 > RENDERED_BYTES_MAX {
            break;
        }
        if is_printable(byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    HeaderValue::from_str(encoded.trim_end()).expect("printable ASCII is a valid header value")
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Values for tests of this folder.
    pub fn example<'a>() -> Variables<'a> {
        Variables {
            host: "docs.example.com",
            client_ip: "192.0.2.7".parse().unwrap(),
            client_port: 4711,
            scheme: "http",
            request_id: "0a1b",
            method: "GET",
            path: "/a",
            query: "x=1",
            listener: "web",
            upstream: "docs",
            backend: "docs:0",
        }
    }

    fn template(parts: &[TemplatePart]) -> CompiledTemplate {
        CompiledTemplate::new(&Template { parts: parts.to_vec() })
    }

    #[test]
    fn every_variable_has_its_value() {
        for (variable, expect) in [
            (Variable::Host, "docs.example.com"),
            (Variable::ClientIp, "192.0.2.7"),
            (Variable::ClientPort, "4711"),
            (Variable::Scheme, "http"),
            (Variable::RequestId, "0a1b"),
            (Variable::Method, "GET"),
            (Variable::Path, "/a"),
            (Variable::Query, "x=1"),
            (Variable::Listener, "web"),
            (Variable::Upstream, "docs"),
            (Variable::Backend, "docs:0"),
        ] {
            let value = template(&[TemplatePart::Variable(variable)]).render(&example());
            assert_eq!(value, expect, "{variable:?}");
        }
    }

    #[test]
    fn line_ends_in_a_variable_are_encoded() {
        let mut variables = example();
        variables.host = "a\r\nX-Evil: 1\0é";
        let value = template(&[TemplatePart::Text("h=".into()), TemplatePart::Variable(Variable::Host)]);
        assert_eq!(value.render(&variables), "h=a%0D%0AX-Evil: 1%00%C3%A9");
    }

    #[test]
    fn long_value_is_cut_at_the_bound() {
        let long = "é".repeat(RENDERED_BYTES_MAX);
        let mut variables = example();
        variables.path = &long;
        let value = template(&[TemplatePart::Variable(Variable::Path)]).render(&variables);
        assert!(value.len() <= RENDERED_BYTES_MAX);
        assert!(value.len() > RENDERED_BYTES_MAX - 3);
    }
}
