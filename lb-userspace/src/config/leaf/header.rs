//! Header names, header values with variables, and the format of the access log.

use crate::config::model::{AccessFormat, AccessPart, AccessVariable, Template, TemplatePart, Variable};
use crate::config::reading::{FromText, Refusal, nearest};
use crate::config::report::quote;

/// The name of a header, lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeaderName(pub String);

/// The variables of header values by name.
const VARIABLES: [(&str, Variable); 11] = [
    ("host", Variable::Host),
    ("client_ip", Variable::ClientIp),
    ("client_port", Variable::ClientPort),
    ("scheme", Variable::Scheme),
    ("request_id", Variable::RequestId),
    ("method", Variable::Method),
    ("path", Variable::Path),
    ("query", Variable::Query),
    ("listener", Variable::Listener),
    ("upstream", Variable::Upstream),
    ("backend", Variable::Backend),
];

/// Those that only the access log has.
const ACCESS_VARIABLES: [(&str, AccessVariable); 11] = [
    ("status", AccessVariable::Status),
    ("bytes_sent", AccessVariable::BytesSent),
    ("bytes_received", AccessVariable::BytesReceived),
    ("duration_ms", AccessVariable::DurationMs),
    ("upstream_ms", AccessVariable::UpstreamMs),
    ("reason", AccessVariable::Reason),
    ("time_iso8601", AccessVariable::TimeIso8601),
    ("user_agent", AccessVariable::UserAgent),
    ("referer", AccessVariable::Referer),
    ("protocol", AccessVariable::Protocol),
    ("attempts", AccessVariable::Attempts),
];

impl FromText for HeaderName {
    const EXPECTED: &'static str = "a header name";
    const EXAMPLE: &'static str = "X-Debug";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        match http::HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Ok(Self(name.as_str().to_owned())),
            Err(_) => {
                let hint = "a name is letters, digits and - without spaces or colon: \"X-Real-IP\"";
                Err(Refusal::new(format!("{} is not a header name", quote(text)), "not a header name", hint))
            }
        }
    }
}

impl FromText for Template {
    const EXPECTED: &'static str = "a header value";
    const EXAMPLE: &'static str = "$client_ip";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        template(text)
    }
}

impl FromText for AccessFormat {
    const EXPECTED: &'static str = "a format";
    const EXAMPLE: &'static str = "json";

    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text == "json" {
            return Ok(Self::Json);
        }
        let hint = "write \"json\", or a one-line template such as \"$client_ip $method $path $status\"";
        let refuse = |label: &str| Refusal::new(format!("{} is not a format", quote(text)), label, hint);
        if text.contains(char::is_control) {
            return Err(refuse("more than one line"));
        }
        let parts = split(text, AccessPart::Text, access_variable)?;
        if parts.iter().all(|part| matches!(part, AccessPart::Text(_))) {
            return Err(refuse("no variable in it"));
        }
        Ok(Self::Template(parts))
    }
}

/// The parts of a header value.
///
/// # Errors
/// When a variable is not known, or a character is not allowed in a header value (RFC 9110, section 5.5).
fn template(text: &str) -> Result<Template, Refusal> {
    if let Some(bad) = text.chars().find(|c| c.is_control() && *c != '\t') {
        let message = format!("{} holds the character {:?}", quote(text), bad);
        return Err(Refusal::new(message, "not allowed in a header value", "keep the value on one line"));
    }
    if text.trim() != text {
        let message = format!("{} begins or ends with a space", quote(text));
        return Err(Refusal::new(message, "not allowed in a header value", "remove the space"));
    }
    let variable = |name: &str| {
        let found = VARIABLES.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, variable)| TemplatePart::Variable(*variable))
            .ok_or_else(|| unknown(name, &VARIABLES.map(|(name, _)| name)))
    };
    Ok(Template { parts: split(text, TemplatePart::Text, variable)? })
}

fn access_variable(name: &str) -> Result<AccessPart, Refusal> {
    let request = VARIABLES.iter().find(|(known, _)| *known == name);
    let record = ACCESS_VARIABLES.iter().find(|(known, _)| *known == name);
    match (request, record) {
        (Some((_, variable)), _) => Ok(AccessPart::Request(*variable)),
        (None, Some((_, variable))) => Ok(AccessPart::Record(*variable)),
        (None, None) => {
            let request = VARIABLES.iter().map(|(name, _)| *name);
            let names: Vec<&str> = request.chain(ACCESS_VARIABLES.iter().map(|(name, _)| *name)).collect();
            Err(unknown(name, &names))
        }
    }
}

/// Splits `text` at its variables: `$name` or `${name}`; `$$` is one `$`.
fn split<P>(
    text: &str,
    plain_part: impl Fn(String) -> P,
    variable: impl Fn(&str) -> Result<P, Refusal>,
) -> Result<Vec<P>, Refusal> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            plain.push('$');
            rest = after;
            continue;
        }
        let (name, after) = variable_name(after);
        let variable = variable(name)?;
        if !plain.is_empty() {
            parts.push(plain_part(std::mem::take(&mut plain)));
        }
        parts.push(variable);
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(plain_part(plain));
    }
    Ok(parts)
}

/// The name after a `$`, and what follows it.
fn variable_name(after: &str) -> (&str, &str) {
    if let Some(closed) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
        return closed;
    }
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
    after.split_at(end)
}

fn unknown(name: &str, known: &[&str]) -> Refusal {
    let all: Vec<String> = known.iter().map(|name| format!("${name}")).collect();
    let all = all.join(" ");
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean ${near}? The variables are {all}; $$ stands for a $"),
        None => format!("the variables are {all}; $$ stands for a $"),
    };
    Refusal::new(format!("unknown variable {}", quote(&format!("${name}"))), "unknown variable", hint)
}
