//! Ports that nobody uses now.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};

/// Below the range that lbctl chooses from and below the kernel's ephemeral ports.
const RANGE: std::ops::Range<u16> = 10_000..19_900;

/// A port that is free for IPv4 and IPv6 on loopback and that no other test takes while this process lives.
///
/// # Panics
/// When there is none.
pub fn free() -> u16 {
    for _ in 0..RANGE.len() {
        let port = fastrand::u16(RANGE);
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok();
        if is_free && reserve(port) {
            return port;
        }
    }
    panic!("no free port in {RANGE:?}");
}

/// Tests run in several processes at once: an abstract socket name, held until the process ends, marks a port as taken.
fn reserve(port: u16) -> bool {
    static RESERVED: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let name = format!("lb-tests/port/{port}");
    let Ok(address) = SocketAddrUnix::new_abstract_name(name.as_bytes()) else { return false };
    let Ok(mark) = socket(AddressFamily::UNIX, SocketType::DGRAM, None) else { return false };
    if bind(&mark, &address).is_err() {
        return false;
    }
    RESERVED.lock().expect("nobody panics while holding it").push(mark);
    true
}
