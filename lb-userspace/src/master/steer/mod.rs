//! Steering: what the XDP program is told, and how it is kept in the kernel.
//!
//! Effectful: loads BPF, pins it, and asks the kernel for the ways to backends.

pub mod attach;
#[cfg(test)]
mod lab;
pub mod next_hop;
pub mod pins;
pub mod sys;
