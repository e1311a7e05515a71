//! How long a worker may leave what it was told unanswered: snapshots and pings.
//!
//! A worker that hangs serves nobody and holds its share of the clients that connect; without pings that was noticed only when the
//! next snapshot was not acknowledged.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{ACKNOWLEDGE_TIMEOUT, PING_EVERY, PONG_TIMEOUT};
use crate::link::{FromWorker, ToWorker};

/// We come by so late only when we ourselves were stopped, and then the worker may have been too.
const LATE: Duration = Duration::from_millis(500);
/// Nothing is due before somebody says something.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is awaited of one worker.
pub struct Patience {
    snapshot: Option<(u64, Instant)>,
    ping: Ping,
}

enum Ping {
    /// It serves nothing yet: starting may take its time, and has its deadline by the first snapshot.
    NotYet,
    /// To be sent then.
    At(Instant),
    /// To be sent, but the link is full; to be emptied by then.
    Blocked(Instant),
    /// Sent, to be answered by then.
    Sent(Instant),
    /// It drains: it may answer or not, and its end has a deadline of its own.
    NotAnyMore,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing: ask again at [`Patience::until`].
    Nothing,
    /// Send a ping.
    Ping,
    /// Give the worker up, and why.
    Lost(String),
}

impl Patience {
    /// Nothing was sent yet.
    pub fn new() -> Self {
        Self { snapshot: None, ping: Ping::NotYet }
    }

    /// A message went out.
    pub fn sent(&mut self, message: &ToWorker, now: Instant) {
        if matches!(self.ping, Ping::NotAnyMore) {
            return;
        }
        if let Ping::Blocked(_) = self.ping {
            self.ping = Ping::At(now);
        }
        match message {
            // The first unanswered one sets the deadline, so that ever new ones do not move it.
            ToWorker::Snapshot { number } => {
                let until = self.snapshot.map_or(now + ACKNOWLEDGE_TIMEOUT, |(_, until)| until);
                self.snapshot = Some((*number, until));
            }
            ToWorker::Ping => self.ping = Ping::Sent(now + PONG_TIMEOUT),
            ToWorker::Drain { .. } => *self = Self { snapshot: None, ping: Ping::NotAnyMore },
            _ => {}
        }
    }

    /// A ping was due, and cannot be sent because the worker has not read what was sent before.
    pub fn blocked(&mut self, now: Instant) {
        self.ping = Ping::Blocked(now + PONG_TIMEOUT);
    }

    /// A message came in.
    pub fn heard(&mut self, message: &FromWorker, now: Instant) {
        match message {
            FromWorker::Serving { number } => {
                self.snapshot = self.snapshot.filter(|(awaited, _)| number < awaited);
                if matches!(self.ping, Ping::NotYet) {
                    self.ping = Ping::At(now + PING_EVERY);
                }
            }
            FromWorker::Pong if !matches!(self.ping, Ping::NotAnyMore) => {
                self.ping = Ping::At(now + PING_EVERY);
            }
            _ => {}
        }
    }

    /// When to ask [`Self::at`].
    pub fn until(&self) -> Instant {
        let ping = match self.ping {
            Ping::NotYet | Ping::NotAnyMore => None,
            Ping::At(until) | Ping::Blocked(until) | Ping::Sent(until) => Some(until),
        };
        let snapshot = self.snapshot.map(|(_, until)| until);
        ping.into_iter().chain(snapshot).min().unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// What is due now.
    pub fn at(&mut self, now: Instant) -> Due {
        let overdue = |until: Instant| now.checked_duration_since(until);
        if let Some((number, until)) = self.snapshot
            && let Some(late) = overdue(until)
        {
            if late > LATE {
                self.snapshot = Some((number, now + ACKNOWLEDGE_TIMEOUT));
                return Due::Nothing;
            }
            let seconds = ACKNOWLEDGE_TIMEOUT.as_secs();
            return Due::Lost(format!("snapshot {number} not acknowledged after {seconds} s"));
        }
        let (until, renewed) = match self.ping {
            Ping::NotYet | Ping::NotAnyMore => return Due::Nothing,
            Ping::At(at) => return if at <= now { Due::Ping } else { Due::Nothing },
            Ping::Blocked(until) => (until, Ping::Blocked(now + PONG_TIMEOUT)),
            Ping::Sent(until) => (until, Ping::Sent(now + PONG_TIMEOUT)),
        };
        match overdue(until) {
            None => Due::Nothing,
            Some(late) if late > LATE => {
                self.ping = renewed;
                Due::Nothing
            }
            Some(_) => Due::Lost(format!("no sign of life for {} s", PONG_TIMEOUT.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A worker that serves its first snapshot, and when it said so.
    fn serving() -> (Patience, Instant) {
        #[expect(clippy::disallowed_methods, reason = "an instant cannot be had without a clock")]
        let start = Instant::from_std(std::time::Instant::now());
        let mut patience = Patience::new();
        patience.sent(&ToWorker::Snapshot { number: 1 }, start);
        patience.heard(&FromWorker::Serving { number: 1 }, start);
        (patience, start)
    }

    #[test]
    fn worker_is_pinged_a_second_after_each_answer() {
        let (mut patience, start) = serving();
        assert_eq!(patience.until(), start + PING_EVERY);
        assert_eq!(patience.at(start + PING_EVERY - MS), Due::Nothing);
        assert_eq!(patience.at(start + PING_EVERY), Due::Ping);
        patience.sent(&ToWorker::Ping, start + PING_EVERY);
        let answered = start + PING_EVERY + 5 * MS;
        patience.heard(&FromWorker::Pong, answered);
        assert_eq!(patience.until(), answered + PING_EVERY);
    }

    #[test]
    fn silence_after_a_ping_is_the_end() {
        let (mut patience, start) = serving();
        patience.sent(&ToWorker::Ping, start);
        assert_eq!(patience.at(start + PONG_TIMEOUT - MS), Due::Nothing);
        assert_eq!(patience.at(start + PONG_TIMEOUT), Due::Lost("no sign of life for 3 s".into()));
    }

    #[test]
    fn a_worker_that_does_not_read_is_given_up_and_one_that_reads_again_is_pinged() {
        let (mut patience, start) = serving();
        patience.blocked(start);
        assert_eq!(patience.at(start + PONG_TIMEOUT - MS), Due::Nothing);
        assert!(matches!(patience.at(start + PONG_TIMEOUT), Due::Lost(_)));
        patience.sent(&ToWorker::TableChanged, start + MS);
        assert_eq!(patience.at(start + MS), Due::Ping);
    }

    #[test]
    fn a_master_that_was_stopped_itself_gives_another_chance() {
        let (mut patience, start) = serving();
        patience.sent(&ToWorker::Ping, start);
        patience.sent(&ToWorker::Snapshot { number: 2 }, start);
        let woken = start + Duration::from_secs(60);
        assert_eq!(patience.at(woken), Due::Nothing);
        assert_eq!(patience.at(woken), Due::Nothing);
        assert_eq!(patience.until(), woken + PONG_TIMEOUT);
        assert!(matches!(patience.at(woken + PONG_TIMEOUT), Due::Lost(_)));
    }

    #[test]
    fn of_a_worker_that_drains_nothing_is_expected() {
        let (mut patience, start) = serving();
        patience.sent(&ToWorker::Snapshot { number: 2 }, start);
        patience.sent(&ToWorker::Drain { within_ms: 1 }, start);
        patience.sent(&ToWorker::Snapshot { number: 3 }, start);
        patience.sent(&ToWorker::Ping, start);
        patience.heard(&FromWorker::Pong, start);
        patience.heard(&FromWorker::Serving { number: 2 }, start);
        assert!(patience.until() > start + Duration::from_secs(24 * 3600));
        assert_eq!(patience.at(start + PING_EVERY + ACKNOWLEDGE_TIMEOUT), Due::Nothing);
    }

    #[test]
    fn a_worker_that_starts_is_not_pinged() {
        let (_, start) = serving();
        let mut patience = Patience::new();
        patience.sent(&ToWorker::Snapshot { number: 7 }, start);
        patience.sent(&ToWorker::Snapshot { number: 8 }, start + PING_EVERY);
        assert_eq!(patience.at(start + 2 * PING_EVERY), Due::Nothing);
        patience.heard(&FromWorker::Serving { number: 7 }, start + 2 * PING_EVERY);
        let lost = Due::Lost("snapshot 8 not acknowledged after 5 s".into());
        patience.sent(&ToWorker::Ping, start + 3 * PING_EVERY);
        patience.heard(&FromWorker::Pong, start + 3 * PING_EVERY);
        assert_eq!(patience.at(start + ACKNOWLEDGE_TIMEOUT), lost);
    }
}
