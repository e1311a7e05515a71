//! What the kernel tells the master, as something to wait for.

use lb_common::exit::Notice;

/// The notices of the kernel programs.
pub struct NoticeStream {}

impl NoticeStream {
    /// A stream that never has anything.
    pub fn silent() -> Self {
        Self {}
    }

    /// Waits until there is something and returns all of it. Cancel-safe. Waits for ever when nothing is watched.
    pub async fn next(&mut self) -> Vec<Notice> {
        std::future::pending().await
    }
}
