//! What the end-to-end tests and benches share: the real binary, backends, clients, figures.
//!
//! Effectful throughout: it starts processes, opens sockets and reads clocks, because that is what it tests. A `.clippy.toml` of
//! its own lifts the bans for this package.

pub mod binary;
pub mod config;
pub mod control;
pub mod figures;
pub mod http1;
pub mod lab;
pub mod lb;
pub mod leftovers;
pub mod load;
pub mod peer;
pub mod port;
pub mod process;
pub mod scenario;
pub mod steer;
pub mod table;
pub mod tracer;
pub mod wait;
pub mod websocket;
