use std::net::SocketAddr;

use super::*;
use crate::config::model::{
    AccessFormat, AccessPart, AccessVariable, Address, HostPattern, ProgramAddress, Template, TemplatePart,
    Variable,
};
use crate::config::reading::FromText;

/// What `T` reads from `text`: its debug form, or the label under the caret.
fn read<T: FromText + std::fmt::Debug>(text: &str) -> Result<T, String> {
    T::from_text(text).map_err(|refusal| refusal.label)
}

fn label<T: FromText + std::fmt::Debug>(text: &str) -> String {
    read::<T>(text).unwrap_err()
}

#[test]
fn an_address_says_which_part_is_wrong() {
    assert!(read::<SocketAddr>("0.0.0.0:80").is_ok());
    assert!(read::<SocketAddr>("[::]:80").is_ok());
    assert_eq!(label::<SocketAddr>("127.0.0.1"), "the port is missing");
    assert_eq!(label::<SocketAddr>("::1"), "the port is missing");
    assert_eq!(label::<SocketAddr>("127.0.0.1:70000"), "the port is out of range");
    assert_eq!(label::<SocketAddr>("127.0.0.1:http"), "the port is not a number");
    assert_eq!(label::<SocketAddr>("127.0.0.1:0"), "port 0 cannot be reached");
    assert_eq!(label::<SocketAddr>(":80"), "the host is missing");
    assert_eq!(label::<SocketAddr>("fe80::1:2:x:80"), "brackets are missing");
    assert_eq!(label::<SocketAddr>("app.internal:80"), "not implemented yet");
    assert_eq!(label::<SocketAddr>("300.1.1.1:80"), "the host is not an IP address");
    assert_eq!(label::<SocketAddr>("80"), "not host:port");
}

#[test]
fn backends_and_programs_may_have_socket_paths() {
    assert_eq!(read::<Address>("unix:/run/a.sock"), Ok(Address::Unix("/run/a.sock".into())));
    assert_eq!(label::<Address>("unix:run/a.sock"), "not an absolute path");
    assert_eq!(label::<Address>(&format!("unix:/{}", "a".repeat(107))), "path too long");
    let chosen = ProgramAddress::Chosen("127.0.0.1".parse().unwrap());
    assert_eq!(read::<ProgramAddress>("127.0.0.1:0"), Ok(chosen));
    assert_eq!(label::<ProgramAddress>("fd"), "not implemented yet");
}

#[test]
fn templates_split_at_their_variables() {
    let text = |text: &str| TemplatePart::Text(text.to_owned());
    let check = |written: &str, parts: Vec<TemplatePart>| {
        assert_eq!(read::<Template>(written), Ok(Template { parts }), "{written}");
    };
    check("", vec![]);
    check("plain", vec![text("plain")]);
    check("$client_ip", vec![TemplatePart::Variable(Variable::ClientIp)]);
    check("a$host.b", vec![text("a"), TemplatePart::Variable(Variable::Host), text(".b")]);
    check("${host}_x", vec![TemplatePart::Variable(Variable::Host), text("_x")]);
    check("5$$", vec![text("5$")]);
    assert_eq!(label::<Template>("$clientip"), "unknown variable");
    assert_eq!(label::<Template>("$"), "unknown variable");
    assert_eq!(label::<Template>("${host"), "unknown variable");
    assert_eq!(label::<Template>("a\r\nb: c"), "not allowed in a header value");
    assert_eq!(label::<Template>(" a"), "not allowed in a header value");
}

#[test]
fn hosts_are_names_without_port_or_path() {
    assert_eq!(read::<HostPattern>("Docs.Example.com"), Ok(HostPattern::Exact("docs.example.com".into())));
    assert_eq!(read::<HostPattern>("*.example.com"), Ok(HostPattern::Below("example.com".into())));
    assert_eq!(read::<HostPattern>("[::1]"), Ok(HostPattern::Exact("[::1]".into())));
    assert_eq!(label::<HostPattern>("*"), "matches everything");
    assert_eq!(label::<HostPattern>("a.*.com"), "* stands only at the beginning");
    assert_eq!(label::<HostPattern>("a.com:80"), "holds a port");
    assert_eq!(label::<HostPattern>("http://a.com"), "a URL");
    assert_eq!(label::<HostPattern>("a..com"), "not a host name");
    assert_eq!(label::<HostPattern>(""), "not a host name");
}

#[test]
fn access_format_is_json_or_a_template_of_known_variables() {
    assert_eq!(read::<AccessFormat>("json"), Ok(AccessFormat::Json));
    let parts = vec![
        AccessPart::Request(Variable::ClientIp),
        AccessPart::Text(" $".into()),
        AccessPart::Record(AccessVariable::Status),
        AccessPart::Text("x".into()),
    ];
    assert_eq!(read::<AccessFormat>("$client_ip $$${status}x"), Ok(AccessFormat::Template(parts)));
    for bad in ["$statuss", "$client_ip $", "${status", "$remote_addr"] {
        assert_eq!(label::<AccessFormat>(bad), "unknown variable", "{bad}");
    }
    let refusal = AccessFormat::from_text("$byte_sent").unwrap_err();
    assert!(refusal.hint.starts_with("did you mean $bytes_sent?"), "{}", refusal.hint);
    assert_eq!(label::<AccessFormat>("combined"), "no variable in it");
    assert_eq!(label::<AccessFormat>("$$"), "no variable in it");
    assert_eq!(label::<AccessFormat>("$status\n"), "more than one line");
}

#[test]
fn route_paths_are_prefixes() {
    assert!(read::<RoutePath>("/api").is_ok());
    assert_eq!(label::<RoutePath>("api"), "does not begin with /");
    assert_eq!(label::<RoutePath>("/api/*"), "no patterns");
    assert_eq!(label::<RoutePath>("/api?x"), "holds a query");
    assert_eq!(label::<RoutePath>("/a b"), "holds a space or no ASCII");
    assert_eq!(read::<RoutePath>("/%7Euser%28a"), Ok(RoutePath("/~user(a".into())));
    assert_eq!(read::<RoutePath>("/caf%c3%a9/"), Ok(RoutePath("/caf%C3%A9/".into())));
    for bad in ["/a//b", "/a;v=1", "/;"] {
        assert_eq!(label::<RoutePath>(bad), "never matches", "{bad}");
    }
    for bad in ["/a/../b", "/./a", "/a%2Fb", "/a%5cb", "/a%3Bb", "/%2e%2E/a"] {
        assert_eq!(label::<RoutePath>(bad), "could be read in several ways", "{bad}");
    }
    assert!(read::<ProbePath>("/health?deep=1").is_ok());
}

#[test]
fn names_can_stand_in_commands_and_files() {
    assert!(read::<Name>("docs-2.x_y").is_ok());
    for bad in ["", "-x", "a b", "a:0", "a/b", "ä"] {
        assert_eq!(label::<Name>(bad), "not a name", "{bad:?}");
    }
}

#[test]
fn commands_are_split_as_a_shell_splits_words() {
    let words = |text: &str| read::<CommandLine>(text).map(|command| command.0);
    assert_eq!(
        words("app --port $PORT 'a b'"),
        Ok(vec!["app".into(), "--port".into(), "$PORT".into(), "a b".into()])
    );
    assert_eq!(words("app 'a"), Err("a quote is not closed".into()));
    assert_eq!(words("  "), Err("no program in it".into()));
    assert_eq!(words("app $LISTEN_FDS"), Err("not implemented yet".into()));
}

#[test]
fn signals_have_names() {
    assert_eq!(read::<Signal>("TERM"), Ok(Signal(libc::SIGTERM)));
    assert_eq!(read::<Signal>("sigint"), Ok(Signal(libc::SIGINT)));
    assert_eq!(label::<Signal>("TREM"), "not a signal");
}
