//! `request_headers` and `response_headers` → model.

use std::collections::BTreeMap;

use super::context::Context;
use crate::config::file;
use crate::config::leaf::HeaderName;
use crate::config::model::{HeaderChanges, Template};
use crate::config::reading::{Field, FromText, Located, Names};
use crate::config::report::{Place, Problem};

/// Headers of one connection and of the framing of one message: they belong to the proxy (RFC 9110, section 7.6.1;
/// RFC 9112, section 6).
const OF_THE_CONNECTION: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Whose headers are changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// `request_headers`.
    Request,
    /// `response_headers`.
    Response,
}

/// The changes; those that are refused are left out.
pub fn changes(
    field: &Field<file::HeaderChanges>,
    message: Message,
    context: &mut Context<'_>,
) -> HeaderChanges {
    let Some(section) = field.get() else { return HeaderChanges::default() };
    HeaderChanges {
        remove: removals(&section.remove, message, context),
        set: values(&section.set, context),
        append: appended(&section.append, message, context),
    }
}

fn removals(
    field: &Field<Vec<Located<HeaderName>>>,
    message: Message,
    context: &mut Context<'_>,
) -> Vec<String> {
    let mut names = Vec::new();
    for name in field.get().into_iter().flatten() {
        let is_allowed = allowed(&name.value.0, name.place, context);
        if message == Message::Request && name.value.0 == "host" {
            let hint = "every HTTP/1.1 request has a Host; use `set` for another one";
            context.push(Problem::error(name.place, "the header \"host\" cannot be removed", "needed", hint));
        } else if is_allowed {
            names.push(name.value.0.clone());
        }
    }
    names
}

fn appended(
    field: &Field<Names<Template>>,
    message: Message,
    context: &mut Context<'_>,
) -> BTreeMap<String, Template> {
    let host = field.get().into_iter().flatten().find(|(name, _)| name.value.eq_ignore_ascii_case("host"));
    if let Some((name, _)) = host.filter(|_| message == Message::Request) {
        let hint = "a request has exactly one Host; use `set` for another one";
        context.push(Problem::error(
            name.place,
            "the header \"host\" cannot be appended to",
            "one only",
            hint,
        ));
    }
    values(field, context)
}

fn values(field: &Field<Names<Template>>, context: &mut Context<'_>) -> BTreeMap<String, Template> {
    let mut seen: BTreeMap<String, Place> = BTreeMap::new();
    let mut values = BTreeMap::new();
    for (name, value) in field.get().into_iter().flatten() {
        let lower = match HeaderName::from_text(&name.value) {
            Ok(lower) => lower.0,
            Err(refusal) => {
                context.push(Problem::error(name.place, refusal.message, refusal.label, refusal.hint));
                continue;
            }
        };
        if let Some(first) = seen.insert(lower.clone(), name.place) {
            let message = format!("the header \"{lower}\" stands here twice");
            let hint = "header names do not know upper from lower case: keep one";
            let problem = Problem::error(name.place, message, "the second one", hint);
            context.push(problem.with_other(first, "the first one"));
        }
        if !allowed(&lower, name.place, context) {
            continue;
        }
        if let Some(value) = value {
            values.insert(lower, value.value.clone());
        }
    }
    values
}

fn allowed(lower: &str, place: Place, context: &mut Context<'_>) -> bool {
    let is_refused = OF_THE_CONNECTION.contains(&lower);
    if is_refused {
        let message = format!("the header \"{lower}\" cannot be changed");
        let hint = format!(
            "it describes one connection or how a message is framed, and lbctl writes it itself; so are {}",
            OF_THE_CONNECTION.into_iter().filter(|other| *other != lower).collect::<Vec<_>>().join(", ")
        );
        context.push(Problem::error(place, message, "belongs to the proxy", hint));
    }
    !is_refused
}
