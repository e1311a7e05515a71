//! The event log: the last events in memory, each also a line of the program's own log, and those who follow.

use std::collections::VecDeque;

use tokio::sync::broadcast;

use crate::control::protocol::EventRecord;
use crate::limits::EVENTS_KEPT;
use crate::printable::printable;

/// Events that a follower may be behind before it loses some.
const FOLLOWER_EVENTS_MAX: usize = 1024;

/// The log.
pub struct EventLog {
    kept: VecDeque<EventRecord>,
    followers: broadcast::Sender<EventRecord>,
    next: u64,
}

impl EventLog {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self { kept: VecDeque::new(), followers: broadcast::channel(FOLLOWER_EVENTS_MAX).0, next: 1 }
    }

    /// Adds an event and numbers it.
    pub fn push(&mut self, mut record: EventRecord) {
        record.number = self.next;
        self.next += 1;
        log::info!("{}", printable(&line(&record)));
        if self.followers.receiver_count() > 0 {
            // An error says that the last follower left meanwhile.
            let _ = self.followers.send(record.clone());
        }
        self.kept.push_back(record);
        if self.kept.len() > EVENTS_KEPT {
            self.kept.pop_front();
        }
    }

    /// The last so many.
    pub fn last(&self, count: usize) -> Vec<EventRecord> {
        self.kept.iter().skip(self.kept.len().saturating_sub(count)).cloned().collect()
    }

    /// Everything from now on.
    pub fn follow(&self) -> broadcast::Receiver<EventRecord> {
        self.followers.subscribe()
    }
}

/// `process exited subject=docs:0 signal=9 actor=kernel took_us=83`.
fn line(record: &EventRecord) -> String {
    let mut line = format!("{} subject={}", record.what, record.subject);
    if !record.cause.is_empty() {
        line += &if record.cause.contains('=') {
            format!(" {}", record.cause)
        } else {
            format!(" cause=\"{}\"", record.cause)
        };
    }
    if !record.actor.is_empty() {
        line += &if record.actor.contains('=') {
            format!(" by {}", record.actor)
        } else {
            format!(" by={}", record.actor)
        };
    }
    if let Some(took_ns) = record.took_ns {
        line += &format!(" took_us={}", took_ns / 1000);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_are_kept_and_all_are_numbered() {
        let mut log = EventLog::new();
        for _ in 0..EVENTS_KEPT + 5 {
            log.push(EventRecord::default());
        }
        assert_eq!(log.last(usize::MAX).len(), EVENTS_KEPT);
        let numbers = log.last(2).iter().map(|record| record.number).collect::<Vec<_>>();
        assert_eq!(numbers, [EVENTS_KEPT as u64 + 4, EVENTS_KEPT as u64 + 5]);
    }

    #[test]
    fn event_is_one_line_noun_first() {
        let record = EventRecord {
            subject: "docs:0".into(),
            what: "process exited".into(),
            cause: "signal=9".into(),
            actor: "kernel".into(),
            took_ns: Some(83_400),
            ..EventRecord::default()
        };
        assert_eq!(line(&record), "process exited subject=docs:0 signal=9 by=kernel took_us=83");
    }
}
