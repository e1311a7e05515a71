//! The acceptance scenarios. Tests run them short, `cargo xtask bench` at full length; both print the figures.

pub mod echo;
pub mod freeze;
pub mod idle;
pub mod kill;
pub mod l4_nft;
pub mod peers;
pub mod short_cut;
pub mod transfer;
pub mod vip_change;
pub mod vip_flood;
pub mod vip_load;
pub mod vip_modes;
pub mod websocket;
pub mod worker_kill;
