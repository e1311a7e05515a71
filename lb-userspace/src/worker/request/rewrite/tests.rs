use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::model::{Template, TemplatePart, Variable};
use crate::worker::request::variables::tests::example;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers
            .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn text(text: &str) -> Template {
    Template { parts: vec![TemplatePart::Text(text.into())] }
}

fn changes(remove: &[&str], set: &[(&str, &str)], append: &[(&str, &str)]) -> CompiledChanges {
    let values =
        |list: &[(&str, &str)]| list.iter().map(|(name, value)| ((*name).into(), text(value))).collect();
    CompiledChanges::new(&HeaderChanges {
        remove: remove.iter().map(|name| (*name).into()).collect(),
        set: values(set),
        append: values(append),
    })
}

#[track_caller]
fn check(changes: &CompiledChanges, before: &[(&str, &str)], after: &[(&str, &str)]) {
    let mut message = headers(before);
    apply(changes, &mut message, &example());
    assert_eq!(message, headers(after));
}

#[test]
fn changes_are_made_in_order() {
    check(&changes(&["a"], &[], &[]), &[("a", "1"), ("a", "2"), ("b", "3")], &[("b", "3")]);
    check(&changes(&[], &[("a", "x")], &[]), &[("a", "1"), ("a", "2")], &[("a", "x")]);
    check(&changes(&["a"], &[("a", "x")], &[("a", "y")]), &[("a", "1")], &[("a", "x, y")]);
}

#[test]
fn append_extends_the_last_line() {
    check(&changes(&[], &[], &[("a", "x")]), &[], &[("a", "x")]);
    check(&changes(&[], &[], &[("a", "x")]), &[("a", "1"), ("a", "2")], &[("a", "1"), ("a", "2, x")]);
    check(&changes(&[], &[], &[("a", "x")]), &[("a", "")], &[("a", ""), ("a", "x")]);
    check(
        &changes(&[], &[], &[("set-cookie", "c=d")]),
        &[("set-cookie", "a=b")],
        &[("set-cookie", "a=b"), ("set-cookie", "c=d")],
    );
}

#[test]
fn variables_are_filled_in() {
    let template = Template {
        parts: vec![
            TemplatePart::Variable(Variable::ClientIp),
            TemplatePart::Text(":".into()),
            TemplatePart::Variable(Variable::ClientPort),
        ],
    };
    let changes = HeaderChanges { set: BTreeMap::from([("x-peer".into(), template)]), ..Default::default() };
    check(&CompiledChanges::new(&changes), &[], &[("x-peer", "192.0.2.7:4711")]);
}

#[test]
fn framing_is_not_the_routes_to_change() {
    let framing = changes(
        &["content-length", "transfer-encoding", "connection"],
        &[("transfer-encoding", "chunked"), ("content-length", "5"), ("upgrade", "h2c")],
        &[("connection", "host"), ("te", "gzip")],
    );
    check(&framing, &[("content-length", "7")], &[("content-length", "7")]);
}

#[test]
fn nominated_fields_go_but_protected_ones_stay() {
    let mut message = headers(&[
        ("connection", "close, X-Own, "),
        ("connection", "te, Content-Length, cookie"),
        ("x-own", "1"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy", "http://evil"),
        ("content-length", "5"),
        ("cookie", "a=b"),
        ("x-other", "2"),
    ]);
    strip_hop_by_hop(&mut message);
    assert_eq!(message, headers(&[("content-length", "5"), ("cookie", "a=b"), ("x-other", "2")]));
}

#[test]
fn announced_trailers_are_those_that_pass() {
    let mut message = headers(&[("trailer", "X-Checksum, Content-Length"), ("trailer", "Host,Expires-Soon")]);
    strip_hop_by_hop(&mut message);
    assert_eq!(message, headers(&[("trailer", "x-checksum, expires-soon")]));
    let mut none = headers(&[("trailer", "Content-Length")]);
    strip_hop_by_hop(&mut none);
    assert_eq!(none, headers(&[]));
    let mut trailers = headers(&[
        ("x-checksum", "1"),
        ("host", "a"),
        ("transfer-encoding", "chunked"),
        ("set-cookie", "a=b"),
    ]);
    strip_trailers(&mut trailers);
    assert_eq!(trailers, headers(&[("x-checksum", "1")]));
}

/// Field lines with a liking for those that matter.
fn lines() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "connection",
            "Connection",
            "keep-alive",
            "te",
            "upgrade",
            "trailer",
            "proxy",
            "transfer-encoding",
            "x-a",
            "x-b",
            "host",
            "proxy-connection",
            "content-length",
            "http2-settings",
        ])
        .prop_map(String::from),
        "[a-zA-Z0-9!#$_-]{1,12}",
    ];
    let value = prop_oneof![
        prop::sample::select(vec![
            "close",
            "x-a, x-b",
            "X-A,,host",
            "keep-alive, te",
            "x-a;q=1",
            "trailers",
            ""
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
        prop::collection::vec(prop_oneof![0x20..0x7f_u8, 0x80..=0xff_u8], 0..24),
    ];
    prop::collection::vec((name, value), 0..12)
}

proptest! {
    #[test]
    fn nothing_of_this_hop_survives(lines in lines()) {
        let mut message = HeaderMap::new();
        for (name, value) in &lines {
            message.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let nominated = nominated(&message);
        let before = message.clone();
        strip_hop_by_hop(&mut message);
        for name in hop_by_hop().iter().chain(&nominated) {
            prop_assert!(!message.contains_key(name), "{}", name);
        }
        for name in before.keys().filter(|name| !is_hop_by_hop(name) && !nominated.contains(name)) {
            prop_assert!(before.get_all(name).iter().eq(message.get_all(name)), "{} is passed on as it was", name);
        }
        let once = message.clone();
        strip_hop_by_hop(&mut message);
        prop_assert_eq!(message, once);
    }

    #[test]
    fn rendered_values_are_valid_and_bounded(host in ".{0,40}", path: String, fixed in "[ -~]{0,20}") {
        let variables = Variables { host: &host, path: &path, ..example() };
        let template = Template {
            parts: vec![TemplatePart::Text(fixed), TemplatePart::Variable(Variable::Host), TemplatePart::Variable(Variable::Path)],
        };
        let changes = HeaderChanges {
            append: BTreeMap::from([("x-a".into(), template.clone())]),
            set: BTreeMap::from([("x-b".into(), template)]),
            ..Default::default()
        };
        let mut message = headers(&[("x-a", "1")]);
        apply(&CompiledChanges::new(&changes), &mut message, &variables);
        for value in message.values() {
            prop_assert!(value.to_str().is_ok_and(|value| value.bytes().all(|byte| matches!(byte, b' '..=b'~'))));
            prop_assert!(value.len() <= crate::limits::RENDERED_BYTES_MAX + 3);
        }
    }
}

#[test]
fn all_that_is_stripped_from_requests_is_stripped_from_answers() {
    let (both, answers_only) = NOT_IN_ANSWERS.split_at(hop_by_hop().len());
    assert_eq!((both, answers_only), (hop_by_hop(), &[X_LB_REASON][..]));
}
