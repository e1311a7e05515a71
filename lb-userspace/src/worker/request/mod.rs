//! What happens to a request, in the order it passes.
pub mod forwarded;
pub mod framing;
pub mod gate;
pub mod rewrite;
pub mod route;
pub mod variables;
pub mod websocket;
