//! Header names, header values with variables, and the format of the access log.

use crate::config::model::{AccessFormat, Template, TemplatePart, Variable};
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
        match text {
            "json" => Ok(Self::Json),
            _ if text.contains('$') && !text.contains(char::is_control) => {
                Ok(Self::Template(text.to_owned()))
            }
            _ => {
                let hint =
                    "write \"json\", or a one-line template such as \"$client_ip $method $path $status\"";
                Err(Refusal::new(format!("{} is not a format", quote(text)), "no variable in it", hint))
            }
        }
    }
}

/// Splits `text` at its variables: `$name` or `${name}`; `$$` is one `$`.
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
        push_text(&mut parts, &mut plain);
        parts.push(TemplatePart::Variable(variable));
        rest = after;
    }
    plain.push_str(rest);
    push_text(&mut parts, &mut plain);
    Ok(Template { parts })
}

fn push_text(parts: &mut Vec<TemplatePart>, plain: &mut String) {
    if !plain.is_empty() {
        parts.push(TemplatePart::Text(std::mem::take(plain)));
    }
}

/// The name after a `$`, and what follows it.
fn variable_name(after: &str) -> (&str, &str) {
    if let Some(closed) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
        return closed;
    }
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
    after.split_at(end)
}

fn variable(name: &str) -> Result<Variable, Refusal> {
    if let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) {
        return Ok(*variable);
    }
    let names = VARIABLES.map(|(name, _)| name);
    let all = names.map(|name| format!("${name}")).join(" ");
    let hint = match nearest(name, &names) {
        Some(near) => format!("did you mean ${near}? The variables are {all}; $$ stands for a $"),
        None => format!("the variables are {all}; $$ stands for a $"),
    };
    Err(Refusal::new(format!("unknown variable {}", quote(&format!("${name}"))), "unknown variable", hint))
}
