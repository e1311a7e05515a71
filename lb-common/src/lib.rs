//! What the kernel programs and `lbctl` must agree on: the layout of shared maps and the decisions taken on them.
//!
//! `no_std`, allocation-free, without a clock and without aya, so that the same code runs in a BPF program,
//! in the master, in a worker and in a test.
#![no_std]

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod backend;
pub mod capture;
pub mod checksum;
pub mod counter;
pub mod exit;
pub mod flow;
pub mod forward;
pub mod hash;
pub mod hop;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod limits;
pub mod lookup;
pub mod packet;
pub mod socket;
pub mod tables;
pub mod verdict;
pub mod vip;

/// Grows when the meaning of what lies in pinned maps changes though no size does: the next master then begins with empty ones.
pub const CONTRACT: u32 = 2;
