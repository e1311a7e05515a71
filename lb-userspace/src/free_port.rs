//! Ports for tests that close a listening socket and use its address again, or want an address where nobody listens.
//!
//! Effectful: binds sockets. A port that the kernel chose will not do: once closed, it is the source of whichever connection is made
//! next. These lie outside of the ranges of the kernel, of `lbctl` and of the end-to-end tests.

#![expect(clippy::disallowed_types, reason = "whether a port is free is known by binding it")]

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u16 = 2_000;
const COUNT: u32 = 6_000;

/// An address where nobody listens and that nobody else in this process is given.
///
/// # Panics
/// When every port is taken.
pub fn at(ip: IpAddr) -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let free = (0..COUNT).find_map(|_| {
        // Two runs at once start at different ports.
        let turn = std::process::id().wrapping_mul(97).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from(turn % COUNT).expect("fewer than 65,536");
        let address = SocketAddr::from((ip, FIRST + offset));
        TcpListener::bind(address).is_ok().then_some(address)
    });
    free.unwrap_or_else(|| panic!("no free port among {COUNT} from {FIRST} on"))
}
