//! What happens to a request, in the order it passes.

pub mod body;
pub mod budget;
pub mod exchange;
pub mod failure;
pub mod forwarded;
pub mod framing;
pub mod gate;
pub mod handle;
pub mod hold;
pub mod pick;
pub mod pipe;
pub mod pool;
pub mod prepare;
pub mod protocols;
pub mod record;
pub mod relay;
pub mod report;
pub mod request_id;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod target;
pub mod tries;
pub mod upgrade;
pub mod variables;
pub mod websocket;
