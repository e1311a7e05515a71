//! Who is at the other end of a unix socket, as the kernel says. Reads a socket option.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Who connected, or who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id; 0 where it is in a namespace that we do not see (rustix' type cannot hold that).
    pub pid: i32,
    /// User id.
    pub uid: u32,
}

/// Asks the kernel.
///
/// # Errors
/// What the operating system says.
pub fn of_peer(socket: impl AsFd) -> io::Result<Credentials> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the kernel writes at most `length` bytes, the size of `found`, to where the pointer leads.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { pid: found.pid, uid: found.uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_pair_are_ours() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let expect = Credentials { pid: std::process::id() as i32, uid: rustix::process::geteuid().as_raw() };
        assert_eq!(of_peer(&one).unwrap(), expect);
    }
}
