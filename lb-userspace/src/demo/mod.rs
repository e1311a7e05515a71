//! The demonstration that `lbctl up` runs where there is no configuration file: its configuration and its backend.

pub mod backend;
pub mod config;
