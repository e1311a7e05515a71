//! What is written down when a request is over: counters always, a log record where somebody asked for it.
//!
//! Effectful: reads the clock.

use super::record::Record;

/// Counts and logs a request that is over.
pub fn write(record: &Record) {
    let _ = record;
}
