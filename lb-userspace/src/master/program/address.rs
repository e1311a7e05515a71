//! Where an instance will listen: chosen ports, fixed ports counted up, socket paths.
//!
//! Effectful: tries ports by binding them, removes sockets that nobody listens on.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::order::expand_instance;
use crate::append::Place;
use crate::config::model::{Address, ProgramAddress};

/// Below `ip_local_port_range` (32768 and up), so that no outgoing connection can occupy one or connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_768;

/// The ports that are spoken for, by instance name.
pub struct Ports {
    of: HashMap<String, u16>,
    random: fastrand::Rng,
}

impl Ports {
    /// No port is spoken for.
    pub fn new(seed: u64) -> Self {
        Self { of: HashMap::new(), random: fastrand::Rng::with_seed(seed) }
    }

    /// The address for an instance: the one it had where that is still free, as configured otherwise.
    ///
    /// # Errors
    /// Nothing free, with a sentence that says so.
    pub fn address(
        &mut self,
        instance: &str,
        index: u32,
        configured: &ProgramAddress,
        before: Option<&Address>,
    ) -> Result<Address, String> {
        match configured {
            ProgramAddress::Chosen(ip) => self.chosen(instance, *ip, before).map(Address::Tcp),
            ProgramAddress::Fixed(first) => {
                let port = u16::try_from(u32::from(first.port()) + index)
                    .map_err(|_| format!("port {} + instance {index} is beyond 65535", first.port()))?;
                Ok(Address::Tcp(SocketAddr::new(first.ip(), port)))
            }
            ProgramAddress::Unix(path) => {
                let path = expand_instance(path, index);
                remove_stale_socket(Path::new(&path))
                    .map_err(|error| format!("remove stale socket {path}: {error}"))?;
                Ok(Address::Unix(path.into()))
            }
        }
    }

    fn chosen(&mut self, instance: &str, ip: IpAddr, before: Option<&Address>) -> Result<SocketAddr, String> {
        if let Some(Address::Tcp(before)) = before
            && before.ip() == ip
            && self.of.iter().all(|(name, port)| name == instance || *port != before.port())
            && is_free(*before)
        {
            self.of.insert(instance.to_owned(), before.port());
            return Ok(*before);
        }
        self.of.remove(instance);
        for _ in 0..256 {
            let address = SocketAddr::new(ip, self.random.u16(PORTS));
            if !self.of.values().any(|port| *port == address.port()) && is_free(address) {
                self.of.insert(instance.to_owned(), address.port());
                return Ok(address);
            }
        }
        Err(format!("no free port for {ip} in {}-{}", PORTS.start, PORTS.end - 1))
    }

    /// Forgets all instances that `keep` does not take.
    pub fn keep(&mut self, keep: impl Fn(&str) -> bool) {
        self.of.retain(|name, _| keep(name));
    }
}

/// Whether a program could listen there now. With SO_REUSEADDR, as servers do: connections in TIME_WAIT are no obstacle.
fn is_free(address: SocketAddr) -> bool {
    let attempt = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)
    };
    attempt().is_ok()
}

/// A socket file that a killed program left would keep the next one from listening.
///
/// # Errors
/// What the operating system says.
pub fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    // Not blocking: where the queue of a living listener is full the kernel would make us wait, now it says so.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Place::of(path)?.remove(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_kept_over_restarts_and_given_to_one_instance_only() {
        let mut ports = Ports::new(1);
        let any = ProgramAddress::Chosen("127.0.0.1".parse().unwrap());
        let first = ports.address("docs:0", 0, &any, None).unwrap();
        assert_eq!(ports.address("docs:0", 0, &any, Some(&first)).unwrap(), first);
        let second = ports.address("docs:1", 1, &any, Some(&first)).unwrap();
        assert_ne!(second, first);
    }

    #[test]
    fn taken_port_is_replaced() {
        let mut ports = Ports::new(2);
        let any = ProgramAddress::Chosen("127.0.0.1".parse().unwrap());
        let Address::Tcp(first) = ports.address("docs:0", 0, &any, None).unwrap() else { panic!("not tcp") };
        let squatter = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        squatter.bind(&first.into()).unwrap();
        squatter.listen(1).unwrap();
        assert_ne!(
            ports.address("docs:0", 0, &any, Some(&Address::Tcp(first))).unwrap(),
            Address::Tcp(first)
        );
    }

    #[test]
    fn fixed_port_counts_up_with_the_instance() {
        let fixed = ProgramAddress::Fixed("127.0.0.1:7000".parse().unwrap());
        let address = Ports::new(3).address("docs:2", 2, &fixed, None).unwrap();
        assert_eq!(address, Address::Tcp("127.0.0.1:7002".parse().unwrap()));
        let last = ProgramAddress::Fixed("127.0.0.1:65535".parse().unwrap());
        assert!(Ports::new(3).address("docs:1", 1, &last, None).is_err());
    }

    #[test]
    fn socket_that_nobody_listens_on_is_removed_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let configured = ProgramAddress::Unix(path.display().to_string());
        Ports::new(4).address("app:0", 0, &configured, None).unwrap();
        assert!(path.exists());
        drop(listener);
        Ports::new(4).address("app:0", 0, &configured, None).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn frozen_listener_with_a_full_queue_is_alive_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let frozen = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        frozen.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        frozen.listen(0).unwrap();
        let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (told, hear) = std::sync::mpsc::channel();
        let asked = path.clone();
        std::thread::spawn(move || told.send(remove_stale_socket(&asked)));
        hear.recv_timeout(std::time::Duration::from_secs(5)).expect("it does not wait").unwrap();
        assert!(path.exists());
    }
}
