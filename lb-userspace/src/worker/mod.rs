//! The unprivileged process that accepts, parses and relays.

pub mod request;

pub mod access_log;
pub mod error_log;
pub mod log_queue;
pub mod metrics;
