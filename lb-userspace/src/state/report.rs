//! The status report as operators ask for it: whole, or the part that names select.

use std::collections::BTreeSet;

use super::State;
use super::backend::Backend;
use super::event::Slot;
use super::instance::Instance;
use crate::control::protocol::{BackendStatus, InstanceStatus, StatusReport};
use crate::time::Time;
use lb_common::backend::TrafficState;

/// A row's active requests, open connections and requests ever sent, summed over workers.
type Activity<'a> = &'a dyn Fn(Slot) -> (u32, u32, u64);
/// The joined verdict of master and kernel on a row.
type Traffic<'a> = &'a dyn Fn(Slot) -> TrafficState;

impl State {
    /// What is, for `status`, `/metrics` and `/readyz`. `activity` gives a row's active requests, open connections and
    /// requests ever sent, summed over workers; `traffic` the joined verdict of master and kernel. The loop fills in `workers` and
    /// `uptime_ms`.
    pub fn report(&self, now: Time, activity: Activity<'_>, traffic: Traffic<'_>) -> StatusReport {
        let model = self.model.as_deref();
        let listeners = model.iter().flat_map(|model| &model.listeners);
        let addresses = listeners.flat_map(|listener| listener.bind.iter().map(ToString::to_string));
        StatusReport {
            node: model.map(|model| model.node.name.clone()).unwrap_or_default(),
            master_pid: self.master_pid,
            snapshot: self.acknowledged,
            listeners: addresses.collect(),
            instances: self
                .instances
                .values()
                .map(|each| self.instance(each, now, activity, traffic))
                .collect(),
            backends: self.backends.values().map(|each| self.backend(each, activity, traffic)).collect(),
            ..Default::default()
        }
    }

    fn backend(&self, backend: &Backend, activity: Activity<'_>, traffic: Traffic<'_>) -> BackendStatus {
        let (active, connections, requests) = activity(backend.slot);
        BackendStatus {
            upstream: backend.upstream.clone(),
            name: backend.name.clone(),
            address: backend.address.as_ref().map(ToString::to_string).unwrap_or_default(),
            slot: backend.slot.0,
            traffic_state: traffic(backend.slot).name().to_owned(),
            weight: backend.weight,
            backup: backend.backup,
            active,
            connections,
            requests,
            reason: backend.reason.clone(),
            supervised: backend.supervised.is_some(),
        }
    }

    fn instance(
        &self,
        instance: &Instance,
        now: Time,
        activity: Activity<'_>,
        traffic: Traffic<'_>,
    ) -> InstanceStatus {
        InstanceStatus {
            name: instance.name.to_string(),
            program: instance.name.program.clone(),
            pid: instance.pid,
            instance: instance.last_life.0,
            process_state: instance.process_state(),
            traffic_state: instance.slot.map(|slot| traffic(slot).name().to_owned()),
            address: instance.address.as_ref().map(ToString::to_string),
            uptime_ms: instance.pid.map(|_| now.since(instance.spawned_at).as_millis() as u64),
            restarts: instance.restarts,
            active: instance.slot.map_or(0, |slot| activity(slot).0),
            reason: self.reason(instance).to_owned(),
            ending: instance.ending,
            last_line: instance.last_line.clone(),
        }
    }

    /// Why it is what it is. What keeps traffic from an instance that is well, its row knows.
    fn reason<'s>(&'s self, instance: &'s Instance) -> &'s str {
        let row = instance.slot.and_then(|slot| self.backends.get(&slot));
        match row.filter(|row| instance.is_running() && (row.drained || row.watch.is_ejected())) {
            Some(row) => &row.reason,
            None => &instance.reason,
        }
    }
}

/// The part of a report that `names` select (programs, instances, upstreams, `upstream/address`); all of it for no names.
///
/// # Errors
/// The first name that nothing has.
pub fn select(report: StatusReport, names: &[String]) -> Result<StatusReport, String> {
    let mut report = report;
    if let Some(unknown) = names.iter().find(|name| !is_known(&report, name)) {
        return Err(unknown.clone());
    }
    if !names.is_empty() {
        report.backends.retain(|each| {
            let static_name = format!("{}/{}", each.upstream, each.name);
            let program = each.name.rsplit_once(':').map_or("", |(program, _)| program);
            names.iter().any(|name| {
                *name == each.name || *name == each.upstream || *name == static_name || *name == program
            })
        });
        // Who asks about an upstream asks about the instances behind it.
        let behind = report.backends.iter().filter(|each| each.supervised).map(|each| &each.name);
        let behind = behind.collect::<BTreeSet<_>>();
        report.instances.retain(|each| {
            names.contains(&each.name) || names.contains(&each.program) || behind.contains(&each.name)
        });
    }
    Ok(report)
}

fn is_known(report: &StatusReport, name: &str) -> bool {
    report.instances.iter().any(|each| each.name == name || each.program == name)
        || report
            .backends
            .iter()
            .any(|each| each.upstream == name || format!("{}/{}", each.upstream, each.name) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instances and backends that `names` leave of two programs, one of them behind `site`, which has a static backend too.
    fn check(names: &[&str], instances: &[&str], backends: &[&str]) {
        let instance = |name: &str| InstanceStatus {
            name: format!("{name}:0"),
            program: name.into(),
            ..InstanceStatus::default()
        };
        let backend = |name: &str, supervised| BackendStatus {
            upstream: "site".into(),
            name: name.into(),
            supervised,
            ..BackendStatus::default()
        };
        let report = StatusReport {
            instances: vec![instance("app"), instance("job")],
            backends: vec![backend("app:0", true), backend("10.0.0.7:80", false)],
            ..StatusReport::default()
        };
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let left = select(report, &names).unwrap();
        assert_eq!(left.instances.iter().map(|each| each.name.as_str()).collect::<Vec<_>>(), instances);
        assert_eq!(left.backends.iter().map(|each| each.name.as_str()).collect::<Vec<_>>(), backends);
    }

    #[test]
    fn upstream_selects_the_instances_behind_it() {
        check(&[], &["app:0", "job:0"], &["app:0", "10.0.0.7:80"]);
        check(&["site"], &["app:0"], &["app:0", "10.0.0.7:80"]);
        check(&["site/app:0"], &["app:0"], &["app:0"]);
        check(&["site/10.0.0.7:80"], &[], &["10.0.0.7:80"]);
        check(&["job"], &["job:0"], &[]);
        check(&["app", "job:0"], &["app:0", "job:0"], &["app:0"]);
        assert_eq!(select(StatusReport::default(), &["nobody".to_owned()]).unwrap_err(), "nobody");
    }
}
