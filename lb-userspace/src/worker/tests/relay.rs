//! What a request meets when backends are there.

use super::harness::*;

#[test]
fn get_is_relayed_with_forwarding_headers_over_kept_connections() {
    let backend = Backend::echo("one");
    let worker = Harness::start(&[backend.address]);
    let mut client = worker.client();
    for _ in 0..20 {
        let answer = client.ask("GET /a/b?c=d HTTP/1.1\r\nhost: example.com\r\nconnection: keep-alive, x-drop\r\nx-drop: 1\r\n\r\n");
        assert_eq!(answer.status, 200);
        let text = answer.text();
        assert!(text.starts_with("one\nGET /a/b?c=d HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("host: example.com\r\n"), "{text}");
        assert!(text.contains("x-forwarded-for: 127.0.0.1\r\n"), "{text}");
        assert!(text.contains("x-real-ip: 127.0.0.1\r\n"), "{text}");
        assert!(text.contains("x-forwarded-proto: http\r\n"), "{text}");
        assert!(text.contains("x-request-id: "), "{text}");
        assert!(text.contains("via: 1.1 lbctl-test\r\n"), "{text}");
        assert!(!text.contains("x-drop"), "{text}");
    }
    assert_eq!(backend.accepted.load(std::sync::atomic::Ordering::SeqCst), 1);
    wait_until("nothing is active", || worker.active(0) == 0);
}

#[test]
fn route_that_appends_to_a_forwarding_field_names_the_client_once() {
    use crate::config::model::{Template, TemplatePart, Variable};
    let backend = Backend::echo("one");
    let mut worker = Harness::start_with(&[backend.address], |snapshot| {
        let client = Template { parts: vec![TemplatePart::Variable(Variable::ClientIp)] };
        snapshot.routes[0].request_headers.append.insert("x-forwarded-for".into(), client);
    });
    let ask = "GET / HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 192.0.2.1\r\n\r\n";
    let answer = worker.client().ask(ask);
    assert!(answer.text().contains("x-forwarded-for: 127.0.0.1\r\n"), "{}", answer.text());
    worker.snapshot.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    worker.publish();
    let answer = worker.client().ask(ask);
    assert!(answer.text().contains("x-forwarded-for: 192.0.2.1, 192.0.2.1\r\n"), "{}", answer.text());
}

#[test]
fn requests_go_round_all_backends() {
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let worker = Harness::start(&[one.address, two.address]);
    let names: Vec<String> =
        (0..4).map(|_| worker.get("/").text().lines().next().unwrap().to_owned()).collect();
    assert_eq!(names.iter().filter(|name| *name == "one").count(), 2, "{names:?}");
}
