use std::time::Duration;

use super::*;
use crate::config::model::{Address, Balance, Dependency, ProbeKind, ProgramAddress};

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
fn a_valid_model_survives_its_journey_to_a_worker() {
    let model = load(EXAMPLE).unwrap().model;
    let text = serde_json::to_string(&model).unwrap();
    assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), model);
}
