//! Descriptors that the runtime waits for: pidfds, pipes, socket pairs.
//!
//! Effectful: registers with epoll.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for.
///
/// # Errors
/// What epoll says.
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `register` wants a descriptor that stays the same and open until it is given back: an `OwnedFd` does.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
