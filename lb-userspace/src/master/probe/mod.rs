//! Active probes: one task for each probe of each instance, asking until it is stopped.
//!
//! Effectful: connects to backends and waits. What an answer means is decided by `step`; here it is only got.

#![expect(clippy::disallowed_methods, reason = "probes wait for their period here")]

mod connect;
mod http;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::inbox::{Inbox, Input};
use crate::config::model::{Address, ProbeKind};
use crate::state::event::{InstanceId, ProbeRole};

/// All probes that run.
pub struct Probes {
    running: HashMap<(InstanceId, ProbeRole), Running>,
    epoch: u64,
    inbox: Inbox,
}

struct Running {
    epoch: u64,
    now: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What to ask and when.
pub struct Plan {
    /// What.
    pub kind: ProbeKind,
    /// Where.
    pub address: Address,
    /// The period.
    pub every: Duration,
    /// The first period; it doubles up to `every`.
    pub first: Duration,
    /// The longest one probe may take.
    pub timeout: Duration,
}

impl Probes {
    /// None yet.
    pub fn new(inbox: Inbox) -> Self {
        Self { running: HashMap::new(), epoch: 0, inbox }
    }

    /// Starts a probe; an earlier one of the same role is replaced.
    pub fn start(&mut self, instance: InstanceId, role: ProbeRole, plan: Plan) {
        self.epoch += 1;
        let now = Arc::new(Notify::new());
        let task = tokio::spawn(ask(plan, now.clone(), self.inbox.clone(), instance, role, self.epoch));
        self.running.insert((instance, role), Running { epoch: self.epoch, now, task });
    }

    /// Stops a probe.
    pub fn stop(&mut self, instance: InstanceId, role: ProbeRole) {
        self.running.remove(&(instance, role));
    }

    /// Stops all probes of an instance.
    pub fn stop_all(&mut self, instance: InstanceId) {
        self.running.retain(|(of, _), _| *of != instance);
    }

    /// Asks without waiting for the period.
    pub fn now(&self, instance: InstanceId, role: ProbeRole) {
        if let Some(running) = self.running.get(&(instance, role)) {
            running.now.notify_one();
        }
    }

    /// Whether a result is of the probe that runs, and not of one that was stopped or replaced meanwhile.
    pub fn is_current(&self, instance: InstanceId, role: ProbeRole, epoch: u64) -> bool {
        self.running.get(&(instance, role)).is_some_and(|running| running.epoch == epoch)
    }
}

async fn ask(plan: Plan, now: Arc<Notify>, inbox: Inbox, instance: InstanceId, role: ProbeRole, epoch: u64) {
    let mut period = plan.first.min(plan.every);
    // The period starts where it may not beat in step with the others.
    let mut pause = if plan.first < plan.every { period } else { period.mul_f64(fastrand::f64() * 0.1) };
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = now.notified() => {}
        }
        let result = once(&plan.kind, &plan.address, plan.timeout).await;
        if inbox.send(Input::Probed { instance, role, epoch, result }).await.is_err() {
            return;
        }
        pause = period.mul_f64(0.95 + fastrand::f64() * 0.1);
        period = (period * 2).min(plan.every);
    }
}

/// Asks once.
///
/// # Errors
/// What went wrong, in words for status and events.
pub async fn once(kind: &ProbeKind, address: &Address, timeout: Duration) -> Result<(), String> {
    let answer = async {
        match kind {
            ProbeKind::Tcp => connect::connect(address).await.map(drop),
            ProbeKind::Http { path, host, status } => http::get(address, path, host.as_deref(), status).await,
        }
    };
    match tokio::time::timeout(timeout, answer).await {
        Ok(result) => result,
        Err(_) => Err(format!("timed out after {timeout:?}")),
    }
}

#[cfg(test)]
mod tests;
