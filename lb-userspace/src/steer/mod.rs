//! Steering decided: from the configuration and the state of backends to what the XDP program is to find in its tables.
//!
//! Pure. `master::steer` performs it and keeps it in the kernel.

pub mod captured;
pub mod change;
pub mod contents;
pub mod flow_lookup;
pub mod identity;
pub mod maglev;
pub mod plan;
pub mod programs;
pub mod room;
