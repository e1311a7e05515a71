//! The unprivileged process that accepts, parses and relays.

pub mod request;
