//! Prometheus text (OpenMetrics 1.0) of what the threads counted and of what the master reported.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::steering;
use super::{Count, LATENCY_BUCKETS_US, Metrics, Reasons, ThreadMetrics, UpstreamMetrics, locked};
use crate::control::protocol::StatusReport;
use crate::reason::Reason;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Records that the logs dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogsDropped {
    /// Of the access log.
    pub access: u64,
    /// Of the error log.
    pub error: u64,
}

impl Metrics {
    /// The text for `/metrics`: this worker's counts, and the master's `report` where one came.
    pub fn render(&self, report: Option<&Arc<StatusReport>>, dropped: LogsDropped) -> String {
        let threads = locked(&self.threads).clone();
        let mut registry = Registry::with_prefix("lbctl");
        registry.register_collector(Box::new(Page { threads, report: report.cloned(), dropped }));
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a String cannot fail");
        text
    }
}

/// One rendering.
#[derive(Debug)]
struct Page {
    threads: Vec<Arc<ThreadMetrics>>,
    report: Option<Arc<StatusReport>>,
    dropped: LogsDropped,
}

/// The same upstream in every thread.
type Upstreams = BTreeMap<Arc<str>, Vec<Arc<UpstreamMetrics>>>;

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.encode_connections(&mut families)?;
        let upstreams = self.upstreams();
        encode_traffic(&upstreams, &mut families)?;
        self.encode_reasons(&upstreams, &mut families)?;
        encode_latency(&upstreams, &mut families)?;
        families.counter(
            "log_records_dropped",
            "Log records dropped because the disk was too slow.",
            |counts| {
                counts.add(&[("log", "access")], self.dropped.access)?;
                counts.add(&[("log", "error")], self.dropped.error)
            },
        )?;
        self.report.as_deref().map_or(Ok(()), |report| encode_report(report, &mut families))
    }
}

impl Page {
    fn sum(&self, count: impl Fn(&ThreadMetrics) -> &Count) -> u64 {
        self.threads.iter().map(|thread| count(thread).get()).sum()
    }

    fn upstreams(&self) -> Upstreams {
        let mut upstreams = Upstreams::new();
        for thread in &self.threads {
            for (name, metrics) in locked(&thread.upstreams).iter() {
                upstreams.entry(name.clone()).or_default().push(metrics.clone());
            }
        }
        upstreams
    }

    fn encode_connections(&self, families: &mut Families<'_>) -> fmt::Result {
        let accepted = self.sum(|thread| &thread.connections_accepted);
        let closed = self.sum(|thread| &thread.connections_closed);
        families.counter("client_connections_accepted", "Client connections accepted.", |counts| {
            counts.add(&[], accepted)
        })?;
        families.gauge("client_connections", "Client connections open.", |gauges| {
            gauges.add(&[], accepted.saturating_sub(closed) as f64)
        })?;
        families.counter(
            "client_connections_refused",
            "Client connections for which there was no room.",
            |counts| counts.add(&[], self.sum(|thread| &thread.connections_refused)),
        )?;
        families.bytes(
            "client_received",
            "Bytes read from clients.",
            self.sum(|thread| &thread.bytes_received),
        )?;
        families.bytes("client_sent", "Bytes written to clients.", self.sum(|thread| &thread.bytes_sent))
    }

    fn encode_reasons(&self, upstreams: &Upstreams, families: &mut Families<'_>) -> fmt::Result {
        families.counter("own_answers", "Answers made in a backend's stead, by reason.", |counts| {
            let mut add = |upstream: &str, sum: &dyn Fn(usize) -> u64| {
                Reason::ALL
                    .iter()
                    .enumerate()
                    .map(|(index, reason)| (reason, sum(index)))
                    .filter(|(_, sum)| *sum > 0)
                    .try_for_each(|(reason, sum)| {
                        counts.add(&[("upstream", upstream), ("reason", reason.name())], sum)
                    })
            };
            let of = |reasons: &Reasons, index: usize| reasons.0[index].get();
            add("", &|index| self.threads.iter().map(|thread| of(&thread.reasons, index)).sum())?;
            for (name, threads) in upstreams {
                add(name, &|index| threads.iter().map(|thread| of(&thread.reasons, index)).sum())?;
            }
            Ok(())
        })
    }
}

fn encode_traffic(upstreams: &Upstreams, families: &mut Families<'_>) -> fmt::Result {
    families.counter("requests", "Requests answered by backends, by status class.", |counts| {
        for (upstream, threads) in upstreams {
            for ((backend, class), sum) in answers(threads) {
                counts
                    .add(&[("upstream", upstream), ("backend", &backend), ("class", CLASSES[class])], sum)?;
            }
        }
        Ok(())
    })?;
    type Part = (&'static str, &'static str, fn(&UpstreamMetrics) -> &Count);
    const COUNTERS: [Part; 5] = [
        ("retries", "Attempts after the first.", |one| &one.retries),
        ("stale_connections", "Pooled connections that were dead when used.", |one| &one.stale_connections),
        ("backend_connections_opened", "Requests sent on a new connection.", |one| &one.connections_opened),
        ("backend_connections_reused", "Requests sent on a pooled connection.", |one| {
            &one.connections_reused
        }),
        ("held_requests", "Requests that waited for a backend.", |one| &one.held_total),
    ];
    const GAUGES: [Part; 2] = [
        ("requests_held", "Requests that wait for a backend now.", |one| &one.held),
        ("tunnels", "WebSockets in progress.", |one| &one.tunnels),
    ];
    for (name, help, count) in COUNTERS {
        families.counter(name, help, |counts| {
            upstreams.iter().try_for_each(|(upstream, threads)| {
                counts.add(&[("upstream", upstream)], sum(threads, count))
            })
        })?;
    }
    for (name, help, count) in GAUGES {
        families.gauge(name, help, |gauges| {
            upstreams.iter().try_for_each(|(upstream, threads)| {
                gauges.add(&[("upstream", upstream)], sum(threads, count) as f64)
            })
        })?;
    }
    families.gauge(
        "backend_connection_reuse_ratio",
        "Share of requests sent on a pooled connection.",
        |gauges| {
            for (upstream, threads) in upstreams {
                let reused = sum(threads, |one| &one.connections_reused) as f64;
                let all = reused + sum(threads, |one| &one.connections_opened) as f64;
                gauges.add(&[("upstream", upstream)], if all > 0.0 { reused / all } else { 0.0 })?;
            }
            Ok(())
        },
    )
}

fn sum(threads: &[Arc<UpstreamMetrics>], count: impl Fn(&UpstreamMetrics) -> &Count) -> u64 {
    threads.iter().map(|thread| count(thread).get()).sum()
}

/// Answers by backend and class; only those that there were.
fn answers(threads: &[Arc<UpstreamMetrics>]) -> BTreeMap<(Arc<str>, usize), u64> {
    let mut answers = BTreeMap::new();
    for thread in threads {
        for (backend, metrics) in locked(&thread.backends).iter() {
            for (class, count) in metrics.answers.iter().enumerate().filter(|(_, count)| count.get() > 0) {
                *answers.entry((backend.clone(), class)).or_default() += count.get();
            }
        }
    }
    answers
}

fn encode_latency(upstreams: &Upstreams, families: &mut Families<'_>) -> fmt::Result {
    let help = "Time from a request's head to the end of its answer.";
    families.family("request_duration", help, Some(&Unit::Seconds), MetricType::Histogram, |encoder| {
        for (upstream, threads) in upstreams {
            let bounds = LATENCY_BUCKETS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
            let bucket =
                |index: usize| threads.iter().map(|thread| thread.latency.buckets[index].get()).sum();
            let buckets: Vec<(f64, u64)> =
                bounds.enumerate().map(|(index, bound)| (bound, bucket(index))).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum_us: u64 = threads.iter().map(|thread| thread.latency.sum_us.get()).sum();
            encoder.encode_family(&[("upstream", &**upstream)])?.encode_histogram::<NoLabelSet>(
                sum_us as f64 / 1e6,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    })
}

fn encode_report(report: &StatusReport, families: &mut Families<'_>) -> fmt::Result {
    families
        .gauge("node", "1, with the node's name.", |gauges| gauges.add(&[("node", &report.node)], 1.0))?;
    families.gauge_in("master_uptime", "Since the master started.", Some(&Unit::Seconds), |gauges| {
        gauges.add(&[], report.uptime_ms as f64 / 1000.0)
    })?;
    families.gauge("snapshot", "The number of the snapshot that every worker serves.", |gauges| {
        gauges.add(&[], report.snapshot as f64)
    })?;
    families.gauge("workers", "Worker processes.", |gauges| gauges.add(&[], report.workers.len() as f64))?;
    families.gauge("worker_generation", "How many workers came before the newest.", |gauges| {
        let newest = report.workers.iter().map(|worker| worker.generation).max();
        newest.map_or(Ok(()), |newest| gauges.add(&[], newest as f64))
    })?;
    encode_instances(report, families)?;
    encode_backends(report, families)?;
    encode_kernel(report, families)?;
    steering::encode(&report.steering, families)
}

fn encode_kernel(report: &StatusReport, families: &mut Families<'_>) -> fmt::Result {
    let help = "1 where the node has what `lbctl doctor` shows under this name, 0 where it has not.";
    families.gauge("capability", help, |gauges| {
        report
            .capabilities
            .iter()
            .try_for_each(|one| gauges.add(&[("capability", &one.name)], f64::from(u8::from(one.on))))
    })?;
    let kernel = &report.kernel;
    for (name, help, count) in [
        ("kernel_exits", "Deaths of instances that the kernel program saw.", kernel.exits),
        ("kernel_notices_lost", "Notices to the master that found the ring full.", kernel.notices_lost),
        ("short_cut_sockets_enrolled", "Sockets enrolled in the short-cut.", kernel.enrolled),
        ("short_cut_sockets_refused", "Sockets that could have been enrolled and were not.", kernel.refused),
        ("short_cut_messages", "Messages that took the short-cut.", kernel.redirected),
        ("short_cut_messages_passed", "Messages of enrolled sockets that went by TCP.", kernel.passed),
        (
            "short_cut_segments_lost",
            "Segments lost for want of memory, and their connections with them.",
            kernel.repeated_lost,
        ),
    ] {
        families.counter(name, help, |counts| counts.add(&[], count))?;
    }
    families.bytes("short_cut", "Bytes that took the short-cut.", kernel.redirected_bytes)
}

fn encode_instances(report: &StatusReport, families: &mut Families<'_>) -> fmt::Result {
    let states =
        "Process state: 0 STOPPED, 10 STARTING, 20 RUNNING, 30 BACKOFF, 40 STOPPING, 100 EXITED, 200 FATAL.";
    families.gauge("process_state", states, |gauges| {
        report.instances.iter().try_for_each(|one| {
            gauges.add(
                &[("program", &one.program), ("instance", &one.name)],
                f64::from(one.process_state as u32),
            )
        })
    })?;
    families.gauge_in(
        "process_uptime",
        "Since the process was started.",
        Some(&Unit::Seconds),
        |gauges| {
            let running = report.instances.iter().filter_map(|one| Some((one, one.uptime_ms?)));
            for (one, uptime_ms) in running {
                gauges
                    .add(&[("program", &one.program), ("instance", &one.name)], uptime_ms as f64 / 1000.0)?;
            }
            Ok(())
        },
    )?;
    families.counter("process_restarts", "Starts that no operator asked for.", |counts| {
        report.instances.iter().try_for_each(|one| {
            counts.add(&[("program", &one.program), ("instance", &one.name)], one.restarts)
        })
    })
}

fn encode_backends(report: &StatusReport, families: &mut Families<'_>) -> fmt::Result {
    const STATES: [&str; 5] = ["OUT", "WARMING", "IN", "DRAINING", "HELD"];
    families.gauge(
        "backend_traffic_state",
        "1 for the state that the backend is in, 0 for the others.",
        |gauges| {
            for one in &report.backends {
                for state in STATES {
                    let labels = [("upstream", &*one.upstream), ("backend", &*one.name), ("state", state)];
                    gauges.add(&labels, f64::from(u8::from(one.traffic_state == state)))?;
                }
            }
            Ok(())
        },
    )?;
    families.gauge("backend_weight", "Share relative to the upstream's other backends.", |gauges| {
        report.backends.iter().try_for_each(|one| {
            gauges.add(&[("upstream", &one.upstream), ("backend", &one.name)], f64::from(one.weight))
        })
    })?;
    families.gauge(
        "backend_active_requests",
        "Requests and tunnels in progress, over all workers.",
        |gauges| {
            report.backends.iter().try_for_each(|one| {
                gauges.add(&[("upstream", &one.upstream), ("backend", &one.name)], f64::from(one.active))
            })
        },
    )?;
    families.gauge("backend_connections", "Open connections, over all workers.", |gauges| {
        report.backends.iter().try_for_each(|one| {
            gauges.add(&[("upstream", &one.upstream), ("backend", &one.name)], f64::from(one.connections))
        })
    })
}

/// Writes families one after the other.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

type Labels<'a> = [(&'a str, &'a str)];

/// The samples of a family of counters.
pub(super) struct Counts<'a, 'b>(&'b mut MetricEncoder<'a>);

impl Counts<'_, '_> {
    pub(super) fn add(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        match labels {
            [] => self.0.encode_counter::<NoLabelSet, _, u64>(&value, None),
            _ => ConstCounter::new(value).encode(self.0.encode_family(&labels)?),
        }
    }
}

/// The samples of a family of gauges.
pub(super) struct Gauges<'a, 'b>(&'b mut MetricEncoder<'a>);

impl Gauges<'_, '_> {
    pub(super) fn add(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        match labels {
            [] => self.0.encode_gauge(&value),
            _ => ConstGauge::new(value).encode(self.0.encode_family(&labels)?),
        }
    }
}

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        fill: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        fill(&mut self.0.encode_descriptor(name, help, unit, kind)?)
    }

    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        fill: impl FnOnce(&mut Counts<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        self.counter_in(name, help, None, fill)
    }

    pub(super) fn counter_in(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        fill: impl FnOnce(&mut Counts<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Counter, |encoder| fill(&mut Counts(encoder)))
    }

    pub(super) fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counter_in(name, help, Some(&Unit::Bytes), |counts| counts.add(&[], value))
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        fill: impl FnOnce(&mut Gauges<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        self.gauge_in(name, help, None, fill)
    }

    pub(super) fn gauge_in(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        fill: impl FnOnce(&mut Gauges<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, |encoder| fill(&mut Gauges(encoder)))
    }
}
