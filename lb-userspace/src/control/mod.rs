//! What `lbctl` commands and the master say to each other.

pub mod client;
pub mod credentials;
pub mod protocol;
