//! HTTP/1.1 as clients and backends see it: forwarding, framing, limits, time-outs, logs.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_tests::config;
use lb_tests::http1::{Client, Response, get};
use lb_tests::lb::{Lb, Setup};
use lb_tests::peer::{Deed, Peer, ok};
use lb_tests::port;
use lb_tests::wait::until;

const PLAIN: &str = "connect_timeout = \"1s\"\nread_timeout = \"700ms\"\nhold_timeout = \"300ms\"";

/// An lbctl in front of one peer.
fn in_front_of(peer: &Peer, route: &str) -> (Lb, [u8; 4], u16) {
    let port = port::free();
    (
        Lb::start(&config::to_backends(port, std::slice::from_ref(&peer.address), PLAIN, route)),
        [127, 0, 0, 1],
        port,
    )
}

fn reason(response: &Response) -> &str {
    response.header("x-lb-reason").unwrap_or("none")
}

#[test]
fn messages_that_two_parsers_could_read_differently_are_refused_and_reach_nobody() {
    let peer = Peer::start(|_| Deed::Send(ok("ok")));
    let (lb, ip, port) = in_front_of(&peer, "");
    let cases = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for case in cases {
        let mut client = Client::connect((ip, port)).unwrap();
        client.send(case).unwrap();
        let response = client.receive().unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
        assert!(matches!(response.status, 400 | 501), "{case:?}: {response:?}");
        // Whatever comes after it on this connection is not read as a request.
        let _ = client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let rest = client.read_to_end().unwrap_or_else(|error| panic!("{case:?} stays open: {error:#}"));
        assert!(rest.is_empty(), "{case:?}: {}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(peer.arrived(), [], "reached the backend");
    lb.stop();
}

#[test]
fn forwarded_headers_are_ours_and_hop_by_hop_headers_end_here() {
    let peer = Peer::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nServer: peer\r\n";
        Deed::Send(format!("{head}X-Kept: 1\r\n\r\nok").into_bytes())
    });
    let route = "request_headers = { set = { X-Route = \"$listener $upstream $client_ip $method $path\" }, append = { X-Tag = \"b\" }, remove = [\"X-Debug\"] }\n\
                 response_headers = { set = { X-From = \"$backend\" }, remove = [\"Server\"] }";
    let (lb, ip, port) = in_front_of(&peer, route);
    let mut client = Client::connect((ip, port)).unwrap();
    client
        .send("GET /a/b?c=d HTTP/1.1\r\nHost: Site.Example:80\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\nTE: gzip\r\n\
               X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\nX-Tag: a\r\nX-Debug: 1\r\nProxy-Connection: close\r\n\r\n")
        .unwrap();
    let response = client.receive().unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{response:?}");
    assert_eq!(
        (response.header("x-hop"), response.header("server"), response.header("x-kept")),
        (None, None, Some("1"))
    );
    assert_eq!(response.header("x-from"), Some(peer.address.as_str()));
    let arrived = peer.arrived();
    let request = arrived.last().unwrap();
    assert_eq!(request.target, "/a/b?c=d");
    for (name, expect) in [
        ("host", vec!["Site.Example:80"]),
        ("x-mine", vec![]),
        ("x-debug", vec![]),
        ("proxy-connection", vec![]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-real-ip", vec!["127.0.0.1"]),
        ("x-route", vec!["web site 127.0.0.1 GET /a/b"]),
        ("x-tag", vec!["a, b"]),
    ] {
        assert_eq!(request.values(name), expect, "{name} of {request:#?}");
    }
    lb.stop();
}

#[test]
fn proxy_in_front_that_is_trusted_extends_the_chain() {
    let peer = Peer::start(|_| Deed::Send(ok("ok")));
    let (port, front) = (port::free(), port::free());
    let text = config::to_backends(port, std::slice::from_ref(&peer.address), PLAIN, "");
    let setup = Setup::default();
    let haproxy = HaProxy::start(setup.folder(), front, port);
    let lb = setup.start(&text.replace("[node]", "[node]\ntrusted_proxies = [\"127.0.0.0/8\"]"));
    let mut client = Client::connect(([127, 0, 0, 1], front)).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n").unwrap();
    assert_eq!(client.receive().unwrap().status, 200);
    let arrived = peer.arrived();
    let request = arrived.last().unwrap();
    // HAProxy adds a line of its own; we add what we see: HAProxy.
    assert_eq!(request.values("x-forwarded-for").join(", "), "203.0.113.9, 127.0.0.1, 127.0.0.1");
    assert_eq!(request.values("x-real-ip"), ["203.0.113.9"]);
    drop(haproxy);
    lb.stop();
}

/// HAProxy in front of a port, ended by pid.
struct HaProxy(Child);

impl HaProxy {
    fn start(folder: &Path, front: u16, behind: u16) -> Self {
        let config = folder.join("haproxy.cfg");
        let text = format!(
            "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n  option forwardfor\n\
             frontend f\n  bind 127.0.0.1:{front}\n  default_backend b\nbackend b\n  server lb 127.0.0.1:{behind}\n"
        );
        std::fs::write(&config, text).expect("the folder is writable");
        let mut command = Command::new("haproxy");
        command
            .arg("-db")
            .arg("-f")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().expect("haproxy is missing: run `cargo xtask setup`");
        until(Duration::from_secs(5), "haproxy listens", || {
            std::net::TcpStream::connect(("127.0.0.1", front)).ok()
        });
        Self(child)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn failures_of_backends_have_their_status_and_reason() {
    let peer = Peer::start(|request| match request.target.as_str() {
        "/slow" => Deed::SendAfter(Duration::from_secs(3), ok("late")),
        "/garbage" => Deed::SendAndClose(b"SSH-2.0-peer\r\n\r\n".to_vec()),
        "/closes" => Deed::SendAndClose(Vec::new()),
        _ => Deed::Send(ok("ok")),
    });
    let port = port::free();
    let text = config::to_backends(port, std::slice::from_ref(&peer.address), PLAIN, "body_max = \"1KiB\"");
    // Passive ejection would take the only backend out in the middle of the test.
    let lb = Lb::start(&text.replace("[upstream.site]", "[upstream.site]\npassive = { max_fails = 0 }"));
    let ask = |path: &str| get(([127, 0, 0, 1], port), path).unwrap();
    for (path, status, why) in [
        ("/slow", 504, "response_timeout"),
        ("/garbage", 502, "response_malformed"),
        ("/closes", 502, "response_reset"),
    ] {
        let response = ask(path);
        assert_eq!((response.status, reason(&response)), (status, why), "{path}: {response:?}");
    }
    let large = Client::connect(([127, 0, 0, 1], port)).unwrap().post("/", "", &[b'x'; 2048]).unwrap();
    assert_eq!((large.status, reason(&large)), (413, "body_too_large"));
    let long = ask(&format!("/{}", "x".repeat(9_000)));
    assert_eq!((long.status, reason(&long)), (414, "uri_too_long"), "{long:?}");
    let mut client = Client::connect(([127, 0, 0, 1], port)).unwrap();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "x".repeat(40_000))).unwrap();
    assert_eq!(client.receive().unwrap().status, 431);
    assert_eq!(ask("/fine").status, 200);
    lb.stop();
}

#[test]
fn refused_connection_and_unknown_route_have_their_reason() {
    let (port, nobody) = (port::free(), port::free());
    let text = config::to_backends(port, &[format!("127.0.0.1:{nobody}")], PLAIN, "host = \"known.example\"");
    let lb = Lb::start(&text.replace("[upstream.site]", "[upstream.site]\npassive = { max_fails = 0 }"));
    let response = get(([127, 0, 0, 1], port), "/").unwrap();
    assert_eq!((response.status, reason(&response)), (404, "no_route"));
    let mut client = Client::connect(([127, 0, 0, 1], port)).unwrap();
    client.send("GET / HTTP/1.1\r\nHost: known.example\r\n\r\n").unwrap();
    let response = client.receive().unwrap();
    assert_eq!((response.status, reason(&response)), (502, "connect_refused"));
    lb.stop();
}

#[test]
fn nobody_in_is_503_with_retry_after() {
    let (port, nobody) = (port::free(), port::free());
    let upstream = format!("{PLAIN}\nprobe = {{ tcp = true, every = \"100ms\", down_after = 1 }}");
    let lb = Setup::default().start_unready(&config::to_backends(
        port,
        &[format!("127.0.0.1:{nobody}")],
        &upstream,
        "",
    ));
    let response = until(Duration::from_secs(5), "an answer of 503", || {
        get(([127, 0, 0, 1], port), "/").ok().filter(|response| response.status == 503)
    });
    assert!(matches!(reason(&response), "held_too_long" | "no_backend"), "{response:?}");
    assert!(response.header("retry-after").is_some(), "{response:?}");
    lb.stop();
}

#[test]
fn reload_that_renames_a_listener_keeps_it_serving() {
    let peer = Peer::start(|_| Deed::Send(ok("ok")));
    let port = port::free();
    let text = config::to_backends(port, std::slice::from_ref(&peer.address), PLAIN, "");
    let lb = Lb::start(&text);
    let mut kept = Client::connect(([127, 0, 0, 1], port)).unwrap();
    assert_eq!(kept.get("/").unwrap().status, 200);
    lb.write_config(&text.replace("\"web\"", "\"front\""));
    lb.succeed(&["reload"]);
    assert_eq!(kept.get("/").unwrap().status, 200);
    assert_eq!(get(([127, 0, 0, 1], port), "/").unwrap().status, 200);
    lb.stop();
}

#[test]
fn idle_connections_make_room_and_beyond_it_clients_are_told_so() {
    let setup = Setup::default().open_files(600);
    let errors = setup.folder().join("error.log");
    let peer = Peer::start(|request| match request.target.as_str() {
        "/slow" => Deed::SendAfter(Duration::from_secs(5), ok("late")),
        _ => Deed::Send(ok("ok")),
    });
    let port = port::free();
    let upstream = PLAIN.replace("700ms", "20s");
    let text = config::to_backends(port, std::slice::from_ref(&peer.address), &upstream, "");
    let text = text.replace("[node]", "[node]\nworker_threads = 1");
    let log = format!("[log]\nerror = \"{}\"\n\n[metrics]", errors.display());
    let lb = setup.start(&text.replace("[metrics]", &log));
    // More than there is room for, each answered: the longest idle ones leave.
    let mut idle: Vec<Client> = Vec::new();
    for _ in 0..400 {
        let mut client = Client::connect(([127, 0, 0, 1], port)).unwrap();
        assert_eq!(client.get("/").unwrap().status, 200);
        idle.push(client);
    }
    assert_eq!(idle[399].get("/").unwrap().status, 200);
    assert!(idle[0].get("/").is_err(), "the first one is closed");
    // Busy ones do not leave.
    let mut busy: Vec<Client> = Vec::new();
    let refused = loop {
        let mut client = Client::connect(([127, 0, 0, 1], port)).unwrap();
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if let Ok(response) = client.receive() {
            break response;
        }
        busy.push(client);
        assert!(busy.len() < 300, "there is no bound");
    };
    assert_eq!((refused.status, reason(&refused)), (503, "overloaded"), "{refused:?}");
    assert!((120..=172).contains(&busy.len()), "{} are served at once", busy.len());
    let logged = until(Duration::from_secs(5), "an error record", || {
        std::fs::read_to_string(&errors).ok().filter(|text| text.contains("\"reason\":\"overloaded\""))
    });
    let sent = format!("\"bytes_sent\":{},", refused.text().len());
    assert!(logged.contains("\"listener\":\"web\"") && logged.contains(&sent), "{logged}");
    for client in &mut busy {
        client.stream().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(client.receive().unwrap().text(), "late");
    }
    lb.stop();
}

#[test]
fn slow_client_gets_408_and_is_closed() {
    let peer = Peer::start(|_| Deed::Send(ok("ok")));
    let (lb, ip, port) = in_front_of(&peer, "");
    let mut client = Client::connect((ip, port)).unwrap();
    let begun = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").unwrap();
    let response = client.receive().unwrap();
    assert_eq!(response.status, 408, "{response:?}");
    let waited = begun.elapsed();
    let allowed = lb_userspace::limits::CLIENT_HEAD_TIMEOUT;
    assert!(
        waited >= allowed - Duration::from_secs(1) && waited < allowed + Duration::from_secs(4),
        "{waited:?}"
    );
    assert_eq!(client.read_to_end().unwrap(), b"");
    assert_eq!(peer.arrived(), []);
    lb.stop();
}

#[test]
fn bodies_are_relayed_in_every_framing() {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, 1, ""));
    let mut client = Client::connect(([127, 0, 0, 1], port)).unwrap();
    let body: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
    assert_eq!(client.post("/echo", "", &body).unwrap().body, body);
    client
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
        .unwrap();
    for chunk in body.chunks(70_000) {
        client.send(format!("{:x}\r\n", chunk.len())).unwrap();
        client.send(chunk).unwrap();
        client.send("\r\n").unwrap();
    }
    client.send("0\r\nx-sum: 42\r\n\r\n").unwrap();
    assert_eq!(client.receive().unwrap().body, body);
    // 100-continue: the body is sent only when it is asked for.
    client
        .send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    assert_eq!(client.receive().unwrap().status, 100);
    client.send("hello").unwrap();
    assert_eq!(client.receive().unwrap().text(), "hello");
    // HEAD has no body, and what follows is read in step.
    client.send("HEAD /bytes?n=1000 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = client.receive_head().unwrap();
    assert_eq!(head.status, 200);
    assert_eq!(client.get("/bytes?n=100000").unwrap().body, body[..100_000]);
    // HTTP/1.0 is answered and closed.
    let mut old = Client::connect(([127, 0, 0, 1], port)).unwrap();
    old.send("GET /bytes?n=1000 HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(old.receive().unwrap().body, body[..1000]);
    lb.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, 2, ""));
    let mut client = Client::connect(([127, 0, 0, 1], port)).unwrap();
    let requests: String = (1..=5).map(|n| format!("GET /bytes?n={n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests).unwrap();
    for length in 1..=5 {
        assert_eq!(client.receive().unwrap().body.len(), length);
    }
    lb.stop();
}

#[test]
fn ipv6_and_unix_sockets_serve_on_both_sides() {
    let setup = Setup::default();
    let v6 = Peer::start_on(IpAddr::V6(Ipv6Addr::LOCALHOST), |_| Deed::Send(ok("v6")));
    let unix = Peer::start_unix(&setup.folder().join("peer.sock"), |_| Deed::Send(ok("unix")));
    let port = port::free();
    let text = config::to_backends(port, &[v6.address.clone(), unix.address.clone()], PLAIN, "");
    let lb = setup.start(
        &text.replace(&format!("\"127.0.0.1:{port}\""), &format!("\"127.0.0.1:{port}\", \"[::1]:{port}\"")),
    );
    let mut answers: Vec<String> = Vec::new();
    for _ in 0..4 {
        answers.push(get((Ipv6Addr::LOCALHOST, port), "/").unwrap().text());
        answers.push(get(([127, 0, 0, 1], port), "/").unwrap().text());
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["unix", "v6"]);
    let arrived = [v6.arrived(), unix.arrived()].concat();
    assert!(arrived.iter().any(|request| request.values("x-real-ip") == ["::1"]), "{arrived:#?}");
    lb.stop();
}

#[test]
fn posts_are_executed_once_while_their_backends_are_killed() {
    let setup = Setup::default();
    let (file, port) = (setup.folder().join("executed"), port::free());
    let command = config::test_command(&file.display().to_string());
    let text = config::demo(port, 3, "").replace(&config::demo_command(), &command);
    let lb = setup.start(&text);
    let sender = std::thread::spawn(move || post_for(port, Duration::from_secs(6)));
    for turn in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        let status = lb.status();
        if let Some(pid) = status.instances[turn % 3].pid {
            let _ = lb_tests::process::try_signal(pid, rustix::process::Signal::KILL);
        }
    }
    let (answered, failed) = sender.join().unwrap();
    println!("{} POSTs answered, {} failed: {failed:?}", answered.len(), failed.len());
    let mut executed: Vec<String> =
        std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect();
    let count = executed.len();
    executed.sort();
    executed.dedup();
    assert_eq!(executed.len(), count, "a POST was executed twice");
    assert!(answered.iter().all(|id| executed.contains(id)), "an answered POST was not executed");
    assert!(answered.len() > 100, "only {} answered", answered.len());
    // At most the one in progress at each kill.
    assert!(failed.len() <= 10, "{failed:?}");
    lb.stop();
}

/// POSTs one after the other; the ids answered with 200, and what became of the others.
fn post_for(port: u16, time: Duration) -> (Vec<String>, Vec<String>) {
    let (end, mut answered, mut failed) = (Instant::now() + time, Vec::new(), Vec::new());
    for number in 0.. {
        if Instant::now() > end {
            break;
        }
        let id = number.to_string();
        let mut client = match Client::connect(([127, 0, 0, 1], port)) {
            Ok(client) => client,
            Err(error) => {
                failed.push(format!("{error:#}"));
                continue;
            }
        };
        match client.post("/", &format!("X-Id: {id}\r\n"), b"body") {
            Ok(response) if response.status == 200 => answered.push(id),
            Ok(response) => failed.push(format!("{} {}", response.status, response.text())),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    (answered, failed)
}

#[test]
fn access_and_error_log_have_a_line_for_each_request_and_are_reopened() {
    let setup = Setup::default();
    let (access, errors) = (setup.folder().join("access.log"), setup.folder().join("error.log"));
    let peer = Peer::start(|request| match request.target.as_str() {
        "/slow" => Deed::SendAfter(Duration::from_secs(2), ok("late")),
        _ => Deed::Send(ok("hello")),
    });
    let port = port::free();
    let log = format!("[log]\naccess = \"{}\"\nerror = \"{}\"\n", access.display(), errors.display());
    let text = config::to_backends(port, std::slice::from_ref(&peer.address), PLAIN, "");
    let lb = setup.start(&text.replace("[metrics]", &format!("{log}\n[metrics]")));
    let lines = |path: &Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
            .collect()
    };
    assert_eq!(get(([127, 0, 0, 1], port), "/path?q=1").unwrap().status, 200);
    assert_eq!(get(([127, 0, 0, 1], port), "/slow").unwrap().status, 504);
    let records = until(Duration::from_secs(5), "two access records", || {
        Some(lines(&access)).filter(|found| found.len() == 2)
    });
    assert_eq!((&records[0]["status"], &records[0]["path"]), (&200.into(), &"/path".into()), "{records:?}");
    assert_eq!(
        (&records[0]["client_ip"], &records[0]["bytes_sent"]),
        (&"127.0.0.1".into(), &5.into()),
        "{records:?}"
    );
    assert_eq!(records[1]["reason"], "response_timeout", "{records:?}");
    let failures = until(Duration::from_secs(5), "an error record", || {
        Some(lines(&errors)).filter(|found| !found.is_empty())
    });
    assert_eq!(failures[0]["reason"], "response_timeout", "{failures:?}");

    std::fs::rename(&access, lb.folder().join("access.log.1")).unwrap();
    lb_tests::process::signal(lb.pid(), rustix::process::Signal::USR1);
    until(Duration::from_secs(5), "the access log is there again", || access.exists().then_some(()));
    let again = until(Duration::from_secs(5), "a record in the new file", || {
        assert_eq!(get(([127, 0, 0, 1], port), "/again").unwrap().status, 200);
        Some(lines(&access)).filter(|found| !found.is_empty())
    });
    assert_eq!(again[0]["path"], "/again");

    lb.write_config(&text);
    lb.succeed(&["reload"]);
    let (accesses, failures) = (lines(&access).len(), lines(&errors).len());
    assert_eq!(get(([127, 0, 0, 1], port), "/slow").unwrap().status, 504);
    until(Duration::from_secs(5), "the failure on standard error", || {
        lb.complaints().contains("\"reason\":\"response_timeout\"").then_some(())
    });
    assert_eq!((lines(&access).len(), lines(&errors).len()), (accesses, failures), "logs are switched off");
    lb.stop();
}
