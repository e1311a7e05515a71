//! A snapshot made ready for requests: routes sorted, upstreams by name, per-thread choosers and retry budgets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use http::HeaderValue;

use super::access_log::AccessLogFormat;
use super::log_queue::LogQueue;
use super::metrics::{BackendMetrics, LogsDropped, ThreadMetrics, UpstreamMetrics};
use super::place::Place;
use super::request::budget::RetryBudget;
use super::request::route::RouteTable;
use crate::balance::Chooser;
use crate::snapshot::{ServedUpstream, Snapshot};

/// A snapshot as all threads share it.
pub struct Served {
    /// What the master sent.
    pub snapshot: Snapshot,
    /// Its routes by specificity.
    pub routes: RouteTable,
    /// Our `Via` line.
    pub via: HeaderValue,
    /// How access records look.
    pub access_format: AccessLogFormat,
    /// Where records go.
    pub logs: Logs,
    upstreams: HashMap<String, Arc<Upstream>>,
}

/// The logs that there are. A log ends with the last snapshot that has it.
#[derive(Clone, Default)]
pub struct Logs {
    /// The access log.
    pub access: Option<LogQueue>,
    /// The log of answers that we made ourselves.
    pub error: Option<LogQueue>,
}

impl Logs {
    /// Records that were lost.
    pub fn dropped(&self) -> LogsDropped {
        let dropped = |log: &Option<LogQueue>| log.as_ref().map_or(0, LogQueue::dropped);
        LogsDropped { access: dropped(&self.access), error: dropped(&self.error) }
    }
}

/// An upstream as all threads share it.
pub struct Upstream {
    /// As in the snapshot.
    pub served: ServedUpstream,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time between two writes.
    pub send_timeout: Duration,
    /// Time between two reads.
    pub read_timeout: Duration,
    /// Time to wait for a backend.
    pub hold_timeout: Duration,
    /// Per backend what `ip_hash` knows it by.
    pub keys: Vec<u64>,
    /// Requests that wait in places of its own.
    pub held: Arc<AtomicUsize>,
    /// Idle connections of all threads.
    idle: Arc<AtomicUsize>,
}

impl Upstream {
    /// What is counted goes on from `before`.
    fn new(served: &ServedUpstream, before: Option<&Self>) -> Self {
        let (held, idle) =
            before.map(|before| (before.held.clone(), before.idle.clone())).unwrap_or_default();
        Self {
            connect_timeout: Duration::from_millis(served.connect_timeout_ms),
            send_timeout: Duration::from_millis(served.send_timeout_ms),
            read_timeout: Duration::from_millis(served.read_timeout_ms),
            hold_timeout: Duration::from_millis(served.hold_timeout_ms),
            keys: served.backends.iter().map(|backend| crate::balance::key(&backend.name)).collect(),
            served: served.clone(),
            held,
            idle,
        }
    }

    /// The right to keep one idle connection, unless `keepalive` of them are idle already in all threads.
    pub fn idle_place(&self) -> Option<Place> {
        Place::take(&self.idle, self.served.keepalive)
    }
}

impl Served {
    /// Prepares `snapshot`; counts go on from `before`.
    pub fn new(snapshot: Snapshot, logs: Logs, before: Option<&Self>) -> Self {
        let upstreams = snapshot.upstreams.iter().map(|upstream| {
            let before = before.and_then(|before| before.upstreams.get(&upstream.name));
            (upstream.name.clone(), Arc::new(Upstream::new(upstream, before.map(|before| &**before))))
        });
        let via = HeaderValue::try_from(format!("1.1 lbctl-{}", pseudonym(&snapshot.node)))
            .expect("a pseudonym has token characters only");
        Self {
            upstreams: upstreams.collect(),
            routes: RouteTable::new(&snapshot.routes),
            via,
            logs,
            access_format: AccessLogFormat::new(&snapshot.access_format.clone().unwrap_or_default()),
            snapshot,
        }
    }

    /// What the listener is called now; `None` where it is closed.
    pub fn listener_name(&self, id: u32) -> Option<&str> {
        // There are few: looking costs less than hashing.
        self.snapshot.listeners.iter().find(|listener| listener.id == id).map(|listener| &*listener.name)
    }

    /// All upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}

/// The node's name as RFC 9110 §7.6.3 allows it in `Via`: token characters only.
fn pseudonym(node: &str) -> String {
    let token = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    node.chars().map(token).collect()
}

/// A snapshot as one thread uses it.
pub struct LocalServed {
    /// The shared part.
    pub shared: Arc<Served>,
    upstreams: HashMap<String, Rc<LocalUpstream>>,
}

/// An upstream as one thread uses it.
pub struct LocalUpstream {
    /// The shared part.
    pub shared: Arc<Upstream>,
    /// Who is next; goes on over snapshots.
    pub chooser: Rc<RefCell<Chooser>>,
    /// How many retries are left; goes on over snapshots.
    pub budget: Rc<RefCell<RetryBudget>>,
    /// This thread's counters.
    pub metrics: Arc<UpstreamMetrics>,
    /// This thread's counters of each backend.
    pub backend_metrics: Vec<Arc<BackendMetrics>>,
}

impl LocalUpstream {
    fn new(shared: Arc<Upstream>, metrics: Arc<UpstreamMetrics>, before: Option<&Rc<Self>>) -> Self {
        let (now, was) = (&shared.served, before.map(|before| &before.shared.served));
        let chooser = before.filter(|_| was.is_some_and(|was| was.balance == now.balance));
        let budget = before.filter(|_| was.is_some_and(|was| was.retry_budget == now.retry_budget));
        Self {
            backend_metrics: now.backends.iter().map(|backend| metrics.backend(&backend.name)).collect(),
            chooser: chooser.map_or_else(
                || Rc::new(RefCell::new(Chooser::new(now.balance))),
                |before| before.chooser.clone(),
            ),
            budget: budget.map_or_else(
                || Rc::new(RefCell::new(RetryBudget::new(now.retry_budget))),
                |before| before.budget.clone(),
            ),
            metrics,
            shared,
        }
    }
}

impl LocalServed {
    /// Prepares one thread's part, which goes on from `before`.
    pub fn new(shared: Arc<Served>, metrics: &ThreadMetrics, before: Option<&Self>) -> Self {
        let upstreams = shared.upstreams.iter().map(|(name, upstream)| {
            let before = before.and_then(|before| before.upstream(name));
            (name.clone(), Rc::new(LocalUpstream::new(upstream.clone(), metrics.upstream(name), before)))
        });
        Self { upstreams: upstreams.collect(), shared }
    }

    /// The upstream of that name.
    pub fn upstream(&self, name: &str) -> Option<&Rc<LocalUpstream>> {
        self.upstreams.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(keepalive: usize) -> Snapshot {
        let upstream = ServedUpstream {
            name: "docs".into(),
            balance: crate::config::model::Balance::RoundRobin,
            keepalive,
            connect_timeout_ms: 1,
            send_timeout_ms: 1,
            read_timeout_ms: 1,
            hold_timeout_ms: 0,
            retry_budget: 0.2,
            backends: Vec::new(),
            unplaced: 0,
        };
        Snapshot { node: "edge 1".into(), upstreams: vec![upstream], ..Snapshot::default() }
    }

    #[test]
    fn idle_places_count_on_over_snapshots() {
        let first = Served::new(snapshot(1), Logs::default(), None);
        let held = first.upstreams["docs"].idle_place().unwrap();
        let second = Served::new(snapshot(1), Logs::default(), Some(&first));
        assert!(second.upstreams["docs"].idle_place().is_none());
        drop(held);
        assert!(second.upstreams["docs"].idle_place().is_some());
    }

    #[test]
    fn retries_and_turns_count_on_over_snapshots() {
        let metrics = ThreadMetrics::default();
        let served = |change: fn(&mut ServedUpstream)| {
            let mut snapshot = snapshot(1);
            change(&mut snapshot.upstreams[0]);
            Arc::new(Served::new(snapshot, Logs::default(), None))
        };
        let docs = |local: &LocalServed| local.upstream("docs").expect("it is served").clone();
        let first = LocalServed::new(served(|_| {}), &metrics, None);
        let second = LocalServed::new(served(|docs| docs.keepalive = 7), &metrics, Some(&first));
        assert!(Rc::ptr_eq(&docs(&first).budget, &docs(&second).budget));
        assert!(Rc::ptr_eq(&docs(&first).chooser, &docs(&second).chooser));
        let third = LocalServed::new(served(|docs| docs.retry_budget = 0.5), &metrics, Some(&second));
        assert!(!Rc::ptr_eq(&docs(&second).budget, &docs(&third).budget));
        assert!(Rc::ptr_eq(&docs(&second).chooser, &docs(&third).chooser));
    }

    #[test]
    fn via_names_the_node_as_a_token() {
        assert_eq!(Served::new(snapshot(1), Logs::default(), None).via, "1.1 lbctl-edge_1");
    }
}
