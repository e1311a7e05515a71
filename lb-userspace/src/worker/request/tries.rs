//! The tries of one request: who is next, and what follows a failure.
//!
//! Effectful: reads the clock, waits.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::exchange::TryFailed;
use super::hold::{hold, wait_for_change};
use super::pick::{self, Nobody, Picked, Tried, pick};
use super::prepare::Prepared;
use super::record::Record;
use super::retry::{self, Decision, Failed, Retriable};
use crate::reason::Reason;
use crate::time::Time;
use crate::worker::served::LocalUpstream;

/// How long a request waits for the table to change when every backend that is IN has just failed it: the master or the
/// kernel is about to notice.
const SETTLE: Duration = Duration::from_millis(250);

/// What the tries of one request leave behind.
#[derive(Default)]
pub struct Tries {
    tried: Tried,
    /// The backend whose pooled connection was stale: it is asked again.
    reconnect: Option<(Rc<LocalUpstream>, Picked)>,
    held_since: Option<Instant>,
    last: Option<Reason>,
}

/// Who is next.
pub struct Next {
    /// The upstream that it was picked from.
    pub upstream: Rc<LocalUpstream>,
    /// The backend.
    pub picked: Picked,
    /// Whether it must be asked over a new connection.
    pub fresh: bool,
    /// Whether the request waited for it.
    pub waited: bool,
}

impl Tries {
    /// The backend for the next try; waits while there is none.
    ///
    /// # Errors
    /// The reason of the answer when there will be none.
    pub async fn next(&mut self, record: &mut Record) -> Result<Next, Reason> {
        if let Some((upstream, picked)) = self.reconnect.take() {
            return Ok(Next { upstream, picked, fresh: true, waited: false });
        }
        let thread = record.thread.clone();
        let mut settled_at = None;
        loop {
            let upstream = record.look_again().ok_or(Reason::NoRoute)?;
            match pick(&thread, &upstream, record.client_ip, &self.tried) {
                Ok(picked) => {
                    let waited = self.held_since.is_some() || settled_at.is_some();
                    return Ok(Next { upstream, picked, fresh: false, waited });
                }
                Err(Nobody::NoneIn) => {
                    let since = *self.held_since.get_or_insert_with(Instant::now);
                    hold(record, since).await.map_err(|reason| self.rather_than(reason))?;
                }
                Err(Nobody::AllTried) => {
                    let until = *settled_at.get_or_insert_with(|| Instant::now() + SETTLE);
                    if upstream.shared.hold_timeout.is_zero() || Instant::now() >= until {
                        return Err(self.rather_than(Reason::NoBackend));
                    }
                    wait_for_change(&thread, until).await;
                }
            }
        }
    }

    /// What a backend did says more than that there is no other.
    fn rather_than(&self, reason: Reason) -> Reason {
        match reason {
            Reason::NoBackend | Reason::BackendStarting => self.last.unwrap_or(reason),
            other => other,
        }
    }

    /// Decides what follows a failed try.
    ///
    /// # Errors
    /// The reason of the answer, where nothing does.
    pub fn after(
        &mut self,
        failed: &TryFailed,
        record: &mut Record,
        prepared: &Prepared,
        upstream: Rc<LocalUpstream>,
    ) -> Result<(), Reason> {
        let Some(picked) = record.fail_try(failed) else { return Err(failed.reason) };
        let life = (picked.slot, picked.instance);
        let gone = pick::is_gone(&record.thread.shared.table, picked.slot, picked.instance);
        let known = Failed { reason: failed.reason, sent: failed.sent, stale: failed.stale, gone };
        let request = Retriable {
            idempotent: prepared.idempotent,
            replayable: record.is_replayable(),
            attempts: record.attempts,
            tries: record.tries,
        };
        match retry::decide(known, request) {
            Decision::Answer(reason) => return Err(reason),
            Decision::Reconnect => {
                upstream.metrics.stale_connections.add(1);
                record.attempts -= 1;
                self.reconnect = Some((upstream.clone(), picked));
            }
            Decision::Another { free: true } => {
                record.attempts -= 1;
                self.tried.push(life);
            }
            Decision::Another { free: false } => {
                if !upstream.budget.borrow_mut().spend(Time::now()) {
                    return Err(Reason::RetryBudgetSpent);
                }
                self.tried.push(life);
            }
        }
        self.last = Some(failed.reason);
        upstream.metrics.retries.add(1);
        Ok(())
    }
}
