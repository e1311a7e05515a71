use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::model::steering::{
    FlowRate, Forward, Mode, NatSource, PortRange, Quic, VipProtocol, XdpMode,
};
use crate::config::model::{Address, Balance, Dependency, ProbeKind, ProgramAddress, Switch, User};

/// The example of the documentation without what is not implemented yet.
const EXAMPLE: &str = include_str!("example.toml");

fn load(text: &str) -> Result<Loaded, Report> {
    read_text("lb.toml", text, Path::new("/"))
}

#[test]
fn the_example_is_read_as_written() {
    let loaded = load(EXAMPLE).unwrap();
    let model = loaded.model;
    assert_eq!(model.node.name, "edge-1");
    assert_eq!(model.metrics_bind, Some("127.0.0.1:9901".parse().unwrap()));
    assert_eq!(model.listeners[0].bind.len(), 2);
    let route = &model.routes[0];
    assert_eq!(route.body_bytes_max, Some(100 << 20));
    assert!(route.request_headers.set.contains_key("x-real-ip"));
    let upstream = &model.upstreams["docs"];
    assert_eq!(upstream.balance, Balance::LeastConnections);
    assert_eq!(upstream.min_in, 1);
    assert_eq!(upstream.passive.max_ejected, 0.5);
    assert_eq!(upstream.backends[0].address, Address::Tcp("192.168.1.10:8080".parse().unwrap()));
    assert_eq!((upstream.backends[0].weight, upstream.backends[1].backup), (3, true));
    let program = &model.programs["docs"];
    assert_eq!(program.command, ["/bin/true", "--port", "$PORT"]);
    assert_eq!(program.address, Some(ProgramAddress::Chosen("127.0.0.1".parse().unwrap())));
    assert_eq!(program.depends_on.len(), 2);
    assert!(program.depends_on.contains(&Dependency::Tcp("127.0.0.1:6379".parse().unwrap())));
    assert_eq!(program.startup.as_ref().unwrap().within, Duration::from_secs(60));
    let http = ProbeKind::Http { path: "/health".into(), host: None, status: vec![] };
    assert_eq!(program.liveness.as_ref().unwrap().kind, http);
    assert_eq!(program.limits.cpu_cores, Some(1.5));
    assert_eq!(program.log.stdout, Some("/docs.out.log".into()));
}

#[test]
fn an_empty_file_is_a_configuration_of_defaults() {
    let model = load("").unwrap().model;
    assert_eq!(model.metrics_bind, Some("127.0.0.1:9901".parse().unwrap()));
    assert!(model.node.worker_threads >= 1);
    assert!(model.listeners.is_empty() && model.programs.is_empty());
}

#[test]
fn a_program_brings_its_upstream() {
    let text =
        "[program.a]\nupstream = \"u\"\ncommand = \"/bin/true\"\naddress = \"127.0.0.1:0\"\ninstances = 3\n";
    let model = load(text).unwrap().model;
    assert_eq!(model.upstreams["u"].min_in, 1);
    assert_eq!(model.upstreams["u"].probe, None);
    assert_eq!(model.upstreams["u"].hold_timeout, Duration::from_secs(30));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = "[node]\nworker_thread = 1\n[[listener]]\nname = \"web\"\nbind = [\"0.0.0.0:99999\"]\n\
                [[route]]\nlistener = \"wbe\"\npath = 3\n";
    let report = load(text).unwrap_err();
    let messages: Vec<String> = report.entries().into_iter().map(|entry| entry.message).collect();
    assert_eq!(messages.len(), 5, "{messages:#?}");
    let lines: Vec<Option<usize>> = report.entries().into_iter().map(|entry| entry.line).collect();
    assert_eq!(lines, [Some(2), Some(5), Some(6), Some(7), Some(8)]);
}

#[test]
fn more_than_a_node_holds_is_refused() {
    let program = |index: usize| format!("[program.p{index}]\ncommand = \"/bin/true\"\ninstances = 256\n");
    let text: String = (0..17).map(program).collect();
    let entries = load(&text).unwrap_err().entries();
    assert_eq!(
        entries[0].message,
        "the configuration has 4352 instances of programs, and one node holds 4096"
    );
}

#[test]
fn more_sockets_than_a_node_listens_on_are_refused() {
    let binds: Vec<String> = (1..=200).map(|host| format!("\"127.0.1.{host}:80\"")).collect();
    let listener = format!("[[listener]]\nname = \"web\"\nbind = [{}]\n", binds.join(", "));
    let text = |threads| format!("[node]\nworker_threads = {threads}\n{listener}");
    assert!(load(&text(80)).is_ok());
    let entries = load(&text(100)).unwrap_err().entries();
    assert!(entries[0].message.contains("20000 listening sockets"), "{}", entries[0].message);
}

#[test]
fn a_valid_model_survives_its_journey_to_a_worker() {
    let model = load(EXAMPLE).unwrap().model;
    let text = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), model);
}

/// An ordinary user on a machine where everything exists.
struct Unprivileged;

impl System for Unprivileged {
    fn user(&self, name: &str) -> std::io::Result<Option<User>> {
        let uid = if name == "me" { 1000 } else { 33 };
        Ok(Some(User { name: name.into(), uid, gid: uid, groups: vec![uid], home: "/".into() }))
    }
    fn uid(&self) -> u32 {
        1000
    }
    fn is_folder(&self, _: &Path) -> bool {
        true
    }
    fn exists(&self, _: &Path) -> bool {
        true
    }
    fn append_refused(&self, _: &Path) -> Option<String> {
        None
    }
    fn rotation_refused(&self, path: &Path) -> Option<String> {
        path.starts_with("/var/log").then(|| "Permission denied".to_owned())
    }
    fn cores(&self) -> usize {
        3
    }
    fn host_name(&self) -> String {
        "edge".into()
    }
    fn unprivileged_port_min(&self) -> u16 {
        1024
    }
    fn text(&self, _: &Path) -> std::io::Result<String> {
        Ok("198.51.100.0/24 # noise\n\n# nothing\n2001:db8:bad::/48\n198.51.100.7/24\n".to_owned())
    }
    fn has_interface(&self, name: &str) -> bool {
        name == "eth0"
    }
    fn has_address(&self, address: std::net::IpAddr) -> bool {
        address == std::net::IpAddr::from([192, 0, 2, 1])
    }
    fn local_ports(&self) -> (u16, u16) {
        (32_768, 60_999)
    }
}

#[test]
fn a_log_that_cannot_be_rotated_is_warned_of() {
    let program = |name: &str, log: &str| format!("[program.{name}]\ncommand = \"a\"\nlog = {{ {log} }}\n");
    let text = program("a", "stdout = \"/var/log/a.log\"")
        + &program("b", "stdout = \"/var/log/b.log\", rotate = \"0\"")
        + &program("c", "stderr = \"/srv/c.log\"");
    let mut collection = Collection::default();
    collection.add_main("lb.toml", text, Path::new("/"));
    let loaded = collection.finish(&Unprivileged).unwrap();
    let messages: Vec<String> = loaded.warnings.entries().into_iter().map(|entry| entry.message).collect();
    let expect =
        "program \"a\": log: stdout: /var/log/a.log cannot be rotated in /var/log: Permission denied";
    assert_eq!(messages, [expect]);
}

#[test]
fn what_only_root_can_do_is_a_warning_for_others() {
    let text = "[node]\nuser = \"www\"\n[[listener]]\nname = \"web\"\nbind = [\"0.0.0.0:80\", \"0.0.0.0:8000\"]\n\
                [[route]]\nlistener = \"web\"\nupstream = \"u\"\n\
                [upstream.u]\nbackends = [{ address = \"192.0.2.1:80\" }]\n\
                [program.mine]\ncommand = \"a\"\nuser = \"me\"\n[program.other]\ncommand = \"a\"\nuser = \"www\"\n";
    let mut collection = Collection::default();
    collection.add_main("lb.toml", text.to_owned(), Path::new("/"));
    let loaded = collection.finish(&Unprivileged).unwrap();
    assert_eq!((loaded.model.node.worker_threads, loaded.model.node.name.as_str()), (3, "edge"));
    let messages: Vec<String> = loaded.warnings.entries().into_iter().map(|entry| entry.message).collect();
    let expect = [
        "[node]: lbctl runs as uid 1000 and cannot start a process as user \"www\"",
        "port 80 can be bound by root only",
        "program \"other\": lbctl runs as uid 1000 and cannot start a process as user \"www\"",
    ];
    assert_eq!(messages, expect);
}

fn load_elsewhere(text: &str) -> Loaded {
    let mut collection = Collection::default();
    collection.add_main("lb.toml", text.to_owned(), Path::new("/"));
    collection.finish(&Unprivileged).unwrap()
}

#[test]
fn vips_are_read_as_written() {
    let loaded = load_elsewhere(include_str!("vips.toml"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings.render(false, 160));
    let steering = loaded.model.steering;
    assert_eq!((steering.xdp, steering.xdp_mode), (Switch::On, XdpMode::Native));
    assert_eq!((steering.lookup_rows, steering.flows, steering.vips_outlive), (16_381, 4096, true));
    let networks =
        |texts: &[&str]| -> Vec<ipnet::IpNet> { texts.iter().map(|it| it.parse().unwrap()).collect() };
    assert_eq!(steering.guard.deny, networks(&["10.0.0.0/8", "198.51.100.0/24", "2001:db8:bad::/48"]));
    assert_eq!(steering.guard.allow, networks(&["10.1.0.0/16"]));
    let names: Vec<&str> = steering.vips.iter().map(|vip| vip.name.as_str()).collect();
    let expect = [
        "web",
        "203.0.113.10:443/udp",
        "203.0.113.16/28:8000-8999",
        "[2001:db8::1]:443",
        "203.0.113.11",
        "192.0.2.1:80",
        "203.0.113.12:5000-5999/udp",
    ];
    assert_eq!(names, expect);
    let remote = |upstream: &str, mode: Mode| Forward::Remote { upstream: upstream.to_owned(), mode };
    let ports = PortRange::new(20_000, 29_999).unwrap();
    assert_eq!(steering.vips[0].forward, remote("tls", Mode::Nat(NatSource::Node { ports })));
    let rate = FlowRate { per_source: 100.try_into().unwrap(), burst: 200.try_into().unwrap() };
    assert_eq!(
        (steering.vips[0].new_flows, steering.vips[0].persistence),
        (Some(rate), Some(Duration::from_secs(600)))
    );
    assert_eq!(steering.vips[0].protocol, VipProtocol::Tcp { syn_rate: Some(5000.try_into().unwrap()) });
    let quic = Some(Quic { server_id_bytes: 4, configuration: 0 });
    assert_eq!(steering.vips[1].protocol, VipProtocol::Udp { idle_timeout: Duration::from_secs(120), quic });
    assert_eq!(steering.vips[1].forward, remote("quic", Mode::L2Dsr));
    assert_eq!(loaded.model.upstreams["quic"].backends[0].server_id, [0x0a, 0x1b, 0x2c, 0x3d]);
    assert_eq!(steering.vips[2].forward, remote("tunnel", Mode::IpIp(None)));
    let source = Some("2001:db8:2::1".parse().unwrap());
    assert_eq!(steering.vips[3].forward, remote("gue", Mode::Gue { source, port: 9886 }));
    assert!(steering.vips[4].address.ports.is_every());
    assert_eq!(steering.vips[4].forward, remote("clients", Mode::Nat(NatSource::Client)));
    assert_eq!(steering.vips[5].forward, Forward::Local { upstream: Some("app".to_owned()) });
    assert_eq!(steering.vips[6].forward, remote("clients", Mode::Nat(NatSource::Client)));
}

#[test]
fn a_vip_that_this_machine_would_not_like_is_warned_of() {
    let text = "[kernel]\nlookup_rows = 251\n\
                [[vip]]\naddress = \"192.0.2.0/28\"\ninterface = \"eth9\"\nupstream = \"u\"\nforward = \"nat\"\n\
                ports = \"30000-40000\"\n\
                [[vip]]\naddress = \"203.0.113.1:80\"\ninterface = \"eth0\"\nforward = \"local\"\n\
                [[listener]]\nname = \"web\"\nbind = [\"192.0.2.1:8080\"]\n\
                [[route]]\nlistener = \"web\"\nupstream = \"u\"\n\
                [upstream.u]\nbackends = [{ address = \"198.51.100.1:80\" }, { address = \"198.51.100.2:80\" }, \
                { address = \"198.51.100.3:80\" }]\n";
    let warnings = load_elsewhere(text).warnings;
    let messages: Vec<String> = warnings.entries().into_iter().map(|entry| entry.message).collect();
    let expect = [
        "upstream \"u\" of vip \"192.0.2.0/28\" has 3 backends, and 251 rows share badly among them",
        "vip \"192.0.2.0/28\" takes every tcp packet to 192.0.2.1, an address of this machine: SSH too",
        "vip \"192.0.2.0/28\": this machine has no interface \"eth9\"",
        "vip \"192.0.2.0/28\": ports 30000-40000 overlap those of connections of this machine, 32768-60999",
        "vip \"203.0.113.1:80\" is local, and 203.0.113.1 is no address of this machine",
        "listener \"web\" hears nothing from eth9: vip \"192.0.2.0/28\" takes the packets to 192.0.2.1:8080",
    ];
    assert_eq!(messages, expect);
}

#[test]
fn files_that_are_no_text_are_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| read(path).unwrap_err().entries()[0].message.clone();
    let path = folder.path().join("lb.toml");
    assert!(message(&path).contains("cannot be read"));
    assert!(message(folder.path()).contains("not a regular file"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(message(&path).contains("not a regular file"));
    let large = std::fs::File::create(folder.path().join("large.toml")).unwrap();
    large.set_len(CONFIG_BYTES_MAX + 1).unwrap();
    assert!(message(&folder.path().join("large.toml")).contains("larger than 4 MiB"));
}

#[test]
fn a_file_that_everybody_may_write_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    std::fs::File::create(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let warnings = read(&path).unwrap().warnings;
    assert!(warnings.entries()[0].message.contains("can be written by every user"));
}

#[test]
fn a_pattern_that_matches_the_including_file_reads_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::File::create(folder.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap()
    };
    write("lb.toml", "include = [\"*.toml\", \"b.toml\"]\n");
    write("b.toml", "[program.b]\ncommand = \"/bin/true\"\nlog = { stdout = \"b.log\" }\n");
    write("a.toml", "[program.a]\ncommand = \"/bin/true\"\n");
    let loaded = read(&folder.path().join("lb.toml")).unwrap();
    assert_eq!(loaded.files, ["lb.toml", "a.toml", "b.toml"].map(|name| folder.path().join(name)));
    assert_eq!(loaded.model.programs["b"].log.stdout, Some(folder.path().join("b.log")));
}

#[test]
fn a_report_shows_no_control_characters_and_no_endless_line() {
    let report = load(&format!("[node]\nname = 1 # \u{1b}[31m\n[log]\naccess = [{}]\n", "1, ".repeat(2000)))
        .unwrap_err();
    let text = report.render(false, 80);
    assert!(!text.contains('\u{1b}'));
    assert!(text.lines().all(|line| line.len() < 200), "{text}");
}

/// Pieces of which files are made, and of which they should not be.
fn piece() -> impl Strategy<Value = String> {
    let lines: Vec<String> = EXAMPLE.lines().map(|line| format!("{line}\n")).collect();
    prop_oneof![
        8 => prop::sample::select(lines),
        1 => "[ -~\n]{0,30}",
        1 => "[a-z_.]{1,8} = [\\[\\]{}\"a-z0-9, .:/$-]{0,20}\n",
        1 => "\\[{1,2}[a-z.\"]{0,12}\\]{1,2}\n",
        1 => "\\PC{0,10}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        match load(&pieces.concat()) {
            Ok(loaded) => {
                let text = serde_json::to_string(&loaded.model).unwrap();
                prop_assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), loaded.model);
            }
            Err(report) => {
                prop_assert!(report.has_errors());
                prop_assert!(!report.render(true, 60).is_empty());
            }
        }
    }

    #[test]
    fn the_example_with_a_line_missing_is_valid_or_explained(skipped in 0..EXAMPLE.lines().count()) {
        let kept = EXAMPLE.lines().enumerate().filter(|(index, _)| *index != skipped);
        let text: String = kept.map(|(_, line)| format!("{line}\n")).collect();
        if let Err(report) = load(&text) {
            prop_assert!(report.entries().iter().all(|entry| entry.line.is_some() && !entry.hint.is_empty()));
        }
    }
}
