//! A worker in this process, with the test as its master and as its backends: real sockets, the real clock.

mod answers;
mod bodies;
mod conformance;
mod early;
mod harness;
mod hold;
mod life;
mod relay;
mod retry;
mod upgrade;
