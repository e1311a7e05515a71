use super::*;
use crate::control::protocol::steering::{ReasonCount, TableUse, VipBackend, VipReport, VipStatus};
use crate::control::protocol::{
    BackendStatus, Capability, InstanceStatus, KernelCounts, ProcessState, StatusReport, WorkerStatus,
};
use crate::snapshot::{ServedBackend, ServedUpstream};

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
}

fn text(metrics: &Metrics) -> String {
    metrics.render(None, LogsDropped::default())
}

#[test]
fn threads_are_summed() {
    let metrics = Metrics::new();
    for _ in 0..2 {
        let thread = metrics.thread();
        thread.connections_accepted.add(3);
        thread.connections_closed.add(1);
        thread.bytes_received.add(10);
        thread.answered_ourselves(Reason::NoRoute);
        let upstream = thread.upstream("docs");
        upstream.backend("docs:0").answered(204);
        upstream.backend("docs:0").answered(503);
        upstream.answered_ourselves(Reason::ConnectRefused);
        upstream.retries.add(1);
        upstream.held.add(2);
        upstream.held.subtract(1);
        upstream.connections_opened.add(1);
        upstream.connections_reused.add(3);
        upstream.took(Duration::from_millis(3));
        upstream.took(Duration::from_secs(60));
    }
    let text = text(&metrics);
    for line in [
        "lbctl_client_connections_accepted_total 6",
        "lbctl_client_connections 4.0",
        "lbctl_client_received_bytes_total 20",
        r#"lbctl_requests_total{upstream="docs",backend="docs:0",class="2xx"} 2"#,
        r#"lbctl_requests_total{upstream="docs",backend="docs:0",class="5xx"} 2"#,
        r#"lbctl_own_answers_total{upstream="",reason="no_route"} 2"#,
        r#"lbctl_own_answers_total{upstream="docs",reason="connect_refused"} 2"#,
        r#"lbctl_retries_total{upstream="docs"} 2"#,
        r#"lbctl_requests_held{upstream="docs"} 2.0"#,
        r#"lbctl_backend_connection_reuse_ratio{upstream="docs"} 0.75"#,
        r#"lbctl_request_duration_seconds_count{upstream="docs"} 4"#,
        r#"lbctl_request_duration_seconds_sum{upstream="docs"} 120.006"#,
        r#"lbctl_request_duration_seconds_bucket{le="0.0025",upstream="docs"} 0"#,
        r#"lbctl_request_duration_seconds_bucket{le="0.005",upstream="docs"} 2"#,
        r#"lbctl_request_duration_seconds_bucket{le="30.0",upstream="docs"} 2"#,
        r#"lbctl_request_duration_seconds_bucket{le="+Inf",upstream="docs"} 4"#,
        "# EOF",
    ] {
        has(&text, line);
    }
}

#[test]
fn report_of_the_master_is_rendered() {
    let report = StatusReport {
        node: "edge-1".into(),
        uptime_ms: 1500,
        snapshot: 7,
        workers: vec![WorkerStatus { generation: 2, ..WorkerStatus::default() }],
        instances: vec![InstanceStatus {
            name: "docs:0".into(),
            program: "docs".into(),
            process_state: ProcessState::Running,
            restarts: 3,
            uptime_ms: Some(2000),
            ..InstanceStatus::default()
        }],
        backends: vec![BackendStatus {
            upstream: "docs".into(),
            name: "docs:0".into(),
            traffic_state: "DRAINING".into(),
            weight: 100,
            active: 4,
            ..BackendStatus::default()
        }],
        ..StatusReport::default()
    };
    let text = Metrics::new().render(Some(&Arc::new(report)), LogsDropped { access: 5, error: 0 });
    for line in [
        r#"lbctl_node{node="edge-1"} 1.0"#,
        "lbctl_snapshot 7.0",
        "lbctl_worker_generation 2.0",
        "lbctl_master_uptime_seconds 1.5",
        r#"lbctl_process_state{program="docs",instance="docs:0"} 20.0"#,
        r#"lbctl_process_restarts_total{program="docs",instance="docs:0"} 3"#,
        r#"lbctl_backend_traffic_state{upstream="docs",backend="docs:0",state="DRAINING"} 1.0"#,
        r#"lbctl_backend_traffic_state{upstream="docs",backend="docs:0",state="IN"} 0.0"#,
        r#"lbctl_backend_active_requests{upstream="docs",backend="docs:0"} 4.0"#,
        r#"lbctl_log_records_dropped_total{log="access"} 5"#,
    ] {
        has(&text, line);
    }
}

#[test]
fn what_the_kernel_does_is_rendered() {
    let backend = |slot: u32, rows: u32| VipBackend {
        slot,
        name: format!("10.0.0.{slot}:443"),
        rows,
        packets: 7,
        trouble: if slot == 8 { "no neighbour".into() } else { String::new() },
        ..VipBackend::default()
    };
    let vip = |name: &str, flows: Option<u64>| VipStatus {
        name: name.into(),
        upstream: "site".into(),
        rows: 4,
        packets: 12,
        bytes: 340,
        flows,
        backends: vec![backend(7, 3), backend(8, 1)],
        ..VipStatus::default()
    };
    let capability = |name: &str, on: bool| Capability {
        name: name.into(),
        on,
        why: String::new(),
        remedy: String::new(),
    };
    let report = StatusReport {
        capabilities: vec![capability("short_cut", true), capability("limits of docs", false)],
        kernel: KernelCounts { redirected_bytes: 99, ..KernelCounts::default() },
        steering: VipReport {
            vips: vec![vip("web", Some(5)), vip("quic", None)],
            reasons: vec![ReasonCount { reason: "echo_answered".into(), is_answer: true, packets: 3 }],
            tables: vec![TableUse { name: "nat".into(), entries: Some(10), entries_max: 100 }],
            ..VipReport::default()
        },
        ..StatusReport::default()
    };
    let text = Metrics::new().render(Some(&Arc::new(report)), LogsDropped::default());
    for line in [
        r#"lbctl_capability{capability="short_cut"} 1.0"#,
        r#"lbctl_capability{capability="limits of docs"} 0.0"#,
        "lbctl_short_cut_bytes_total 99",
        r#"lbctl_vip_forwarded_packets_total{vip="web"} 12"#,
        r#"lbctl_vip_forwarded_bytes_total{vip="quic"} 340"#,
        r#"lbctl_vip_flows_known{vip="web"} 5.0"#,
        r#"lbctl_vip_backend_share{vip="web",backend="10.0.0.7:443"} 0.75"#,
        r#"lbctl_vip_backend_reachable{vip="web",backend="10.0.0.8:443"} 0.0"#,
        r#"lbctl_steered_packets_total{upstream="site",backend="10.0.0.7:443"} 7"#,
        r#"lbctl_steering_not_forwarded_total{reason="echo_answered",what="answered"} 3"#,
        r#"lbctl_steering_table_entries{table="nat"} 10.0"#,
    ] {
        has(&text, line);
    }
    let steered = text.lines().filter(|line| line.starts_with("lbctl_steered_packets_total{")).count();
    assert_eq!(steered, 2, "a backend of two VIPs is counted once:\n{text}");
    assert!(!text.contains(r#"lbctl_vip_flows_known{vip="quic"}"#));
}

#[test]
fn what_the_snapshot_no_longer_names_is_forgotten() {
    let metrics = Metrics::new();
    let thread = metrics.thread();
    for (upstream, backend) in [("docs", "docs:0"), ("docs", "docs:1"), ("old", "old:0")] {
        thread.upstream(upstream).backend(backend).answered(200);
    }
    let backend = ServedBackend {
        slot: 0,
        name: "docs:1".into(),
        address: crate::config::model::Address::Unix("/x".into()),
        backup: false,
        drain_timeout_ms: 1,
    };
    let upstream = ServedUpstream {
        name: "docs".into(),
        balance: crate::config::model::Balance::RoundRobin,
        keepalive: 1,
        connect_timeout_ms: 1,
        send_timeout_ms: 1,
        read_timeout_ms: 1,
        hold_timeout_ms: 1,
        retry_budget: 0.2,
        backends: vec![backend],
        unplaced: 0,
    };
    metrics.forget_others(&Snapshot { upstreams: vec![upstream], ..Snapshot::default() });
    let text = text(&metrics);
    has(&text, r#"lbctl_requests_total{upstream="docs",backend="docs:1",class="2xx"} 1"#);
    assert!(!text.contains("docs:0") && !text.contains("old"), "{text}");
}

/// Every family that we render is explained, and no other.
#[test]
fn documentation_names_every_metric() {
    let metrics = Metrics::new();
    metrics.thread().upstream("docs");
    let steering = VipReport { vips: vec![VipStatus::default()], ..VipReport::default() };
    let report = StatusReport { steering, ..StatusReport::default() };
    let text = metrics.render(Some(&Arc::new(report)), LogsDropped::default());
    let documentation = include_str!("../../../docs/metrics.md");
    let rendered: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let explained: std::collections::BTreeSet<&str> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(|name| name.strip_suffix("_total").unwrap_or(name))
        .collect();
    assert_eq!(rendered, explained);
}
