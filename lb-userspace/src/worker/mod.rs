//! The unprivileged process that accepts, parses and relays.
//!
//! The main thread talks to the master and serves `/metrics`; every other thread has a runtime of its own and accepts on
//! sockets of its own, so that a request never crosses threads.

pub mod request;

pub mod access_log;
pub mod error_log;
pub mod log_queue;
pub mod metrics;
mod connection;
mod hardening;
mod listener;
mod main_thread;
mod master_link;
mod metered;
mod served;
mod shared;
mod thread;
mod timer;

#[cfg(test)]
mod tests;

pub use main_thread::run;
