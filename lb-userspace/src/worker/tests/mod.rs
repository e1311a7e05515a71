//! A worker in this process, with the test as its master and as its backends: real sockets, the real clock.

mod harness;
mod hold;
mod relay;
