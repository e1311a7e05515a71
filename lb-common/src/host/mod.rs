//! Frames and tables of ordinary memory: what the decisions run on in tests, in fuzzing and in `lbctl flow lookup`.
//!
//! They behave as their counterparts in the kernel do, bounds included, so that both sides can be given the same frames
//! and compared.

mod frame;
mod memory;
mod packet;
mod tables;
mod verify;
mod world;

pub use frame::{FRAME_BYTES_MAX, HostFrame};
pub use memory::Memory;
pub use packet::{Body, Packet, address_bytes, internet_sum};
pub use tables::HostTables;
pub use verify::verify;
pub use world::{HopKind, World};
