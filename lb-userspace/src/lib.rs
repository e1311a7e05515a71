//! `lbctl`: a load balancer and process supervisor in one program. See `docs/architecture.md`.
//!
//! This library exists so that tests and fuzz targets reach what the binary is made of; its interface is not stable.

pub mod append;
pub mod config;
pub mod control;
pub mod limits;
pub mod link;
pub mod printable;
pub mod reason;
pub mod snapshot;
pub mod state;
pub mod steer;
pub mod table;
pub mod time;

pub mod balance;
pub mod cli;
pub mod demo;
pub mod health;
pub mod master;
pub mod worker;

#[cfg(test)]
mod free_port;
