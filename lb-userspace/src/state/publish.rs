//! The numbered picture that workers serve, and what its acknowledgement sets free.

use super::backend::{Backend, Written};
use super::event::{Effect, InstanceId, Slot};
use super::step::Turn;
use crate::config::model::{Model, Upstream};
use crate::snapshot::{ServedBackend, ServedUpstream, Snapshot};
use lb_common::backend::TrafficState;
use std::time::Duration;

impl Turn<'_> {
    /// Publishes a picture, if something in it has changed or somebody waits for one.
    pub(super) fn publish(&mut self) {
        if !self.publish_due && !self.state.slots.needs_publish() {
            return;
        }
        let Some(model) = self.state.model.clone() else { return };
        let snapshot = self.picture(&model);
        self.state.slots.published(snapshot.number);
        self.state.published = snapshot.clone();
        // Before the first answer or signal of this step nothing depends on it: whoever needs it waits for its number.
        self.effects.push(Effect::Publish(snapshot));
    }

    fn picture(&self, model: &Model) -> Snapshot {
        Snapshot {
            number: self.state.published.number + 1,
            node: model.node.name.clone(),
            listeners: Vec::new(),
            routes: model.routes.clone(),
            upstreams: model.upstreams.values().map(|upstream| self.served(upstream)).collect(),
            trusted_proxies: model.node.trusted_proxies.clone(),
            reason_header: model.node.reason_header,
            access_format: model.log.access.as_ref().map(|_| model.log.access_format.clone()),
            error_file: model.log.error.is_some(),
            metrics: model.metrics_bind.is_some(),
        }
    }

    fn served(&self, upstream: &Upstream) -> ServedUpstream {
        let unplaced = |backend: &&Backend| backend.address.is_none() && backend.expected;
        let backends = self.backends_of(&upstream.name).filter_map(|backend| {
            let address = backend.address.clone()?;
            Some(ServedBackend {
                slot: backend.slot.0,
                name: backend.name.clone(),
                address,
                backup: backend.backup,
                drain_timeout_ms: millis(self.drain_timeout(backend, upstream)),
            })
        });
        ServedUpstream {
            name: upstream.name.clone(),
            balance: upstream.balance,
            keepalive: upstream.keepalive,
            connect_timeout_ms: millis(upstream.connect_timeout),
            send_timeout_ms: millis(upstream.send_timeout),
            read_timeout_ms: millis(upstream.read_timeout),
            hold_timeout_ms: millis(upstream.hold_timeout),
            retry_budget: upstream.retry_budget,
            backends: backends.collect(),
            unplaced: self.backends_of(&upstream.name).filter(unplaced).count(),
        }
    }

    /// How long its requests and tunnels are waited for before it is stopped, or its row is given back.
    fn drain_timeout(&self, backend: &Backend, upstream: &Upstream) -> Duration {
        let instance = backend.supervised.as_ref().and_then(|name| self.state.instances.get(name));
        instance.map_or(upstream.drain_timeout, |instance| instance.program.stop.drain_timeout)
    }

    pub(super) fn on_acknowledged(&mut self, number: u64) {
        self.state.acknowledged = self.state.acknowledged.max(number);
        self.write_rows("every worker knows its address", "worker");
    }

    /// Empties the rows that no worker knows any more.
    pub(super) fn free_rows(&mut self) {
        let free = self.state.slots.take_free(self.state.acknowledged);
        for &slot in &free {
            self.push_row(slot, Written::default());
        }
        if !free.is_empty() {
            self.add_missing_static();
        }
    }

    /// Requests on a removed backend had their time.
    pub(super) fn give_up_draining(&mut self, slot: Slot) {
        self.effects.push(Effect::UnwatchDrain { slot });
        self.state.slots.drained(slot);
    }

    /// Writes a row that is no backend's any more.
    pub(super) fn push_row(&mut self, slot: Slot, row: Written) {
        let Written { instance, state, weight, identity } = row;
        self.effects.push(Effect::SetRow { slot, instance, state, weight, identity });
    }

    /// The row of a backend that is removed: nothing new comes, what is there may end.
    pub(super) fn push_leaving_row(&mut self, slot: Slot, instance: InstanceId, identity: u64) {
        self.push_row(slot, Written { instance, state: TrafficState::Draining, weight: 0, identity });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
