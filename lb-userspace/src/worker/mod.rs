//! The unprivileged process that accepts, parses and relays.
//!
//! The main thread talks to the master and serves `/metrics`; every other thread has a runtime of its own and accepts on
//! sockets of its own, so that a request never crosses threads.

pub mod request;

pub mod access_log;
mod connection;
pub mod error_log;
mod hardening;
mod linger;
mod listener;
pub mod log_queue;
mod main_thread;
mod master_link;
mod metered;
pub mod metrics;
mod metrics_listener;
mod place;
mod room;
mod served;
mod shared;
mod thread;
mod timer;

#[cfg(test)]
mod tests;

pub use main_thread::run;
