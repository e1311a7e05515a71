//! The listening sockets: opened and kept by the master, so that no worker's death closes one.
//!
//! Effectful: binds. Each address has one socket per worker thread (SO_REUSEPORT), and keeps them over reloads that do not change it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use socket2::{Domain, Socket, Type};

use super::port_holder;
use crate::config::model::Model;
use crate::limits::ACCEPT_QUEUE_MAX;
use crate::snapshot::ServedListener;

/// All listening sockets.
pub struct Listeners {
    threads: usize,
    next_id: u32,
    open: BTreeMap<SocketAddr, Open>,
    metrics: BTreeMap<SocketAddr, (SocketAddr, Arc<OwnedFd>)>,
}

/// The sockets of one address.
pub struct Open {
    /// `ServedListener::id`.
    pub id: u32,
    /// The listener's name.
    pub name: String,
    /// Where it listens: the port is never 0.
    pub address: SocketAddr,
    /// One for each thread.
    pub sockets: Vec<Arc<OwnedFd>>,
}

impl Listeners {
    /// None yet, for workers with so many threads.
    pub fn new(threads: usize) -> Self {
        Self { threads, next_id: 1, open: BTreeMap::new(), metrics: BTreeMap::new() }
    }

    /// Opens what the model has and we have not. What it has no longer stays until [`Self::settle`].
    ///
    /// # Errors
    /// The listener that cannot be opened, why, and who is in the way. Nothing has changed then.
    pub fn prepare(&mut self, model: &Model) -> Result<(), String> {
        let mut opened = Vec::new();
        for listener in &model.listeners {
            for bind in listener.bind.iter().filter(|bind| !self.open.contains_key(bind)) {
                let sockets = listening(*bind, self.threads, self.beside(*bind))
                    .map_err(|error| refusal(&format!("listener \"{}\"", listener.name), *bind, &error))?;
                opened.push((*bind, listener.name.clone(), sockets));
            }
        }
        if let Some(bind) = model.metrics_bind.filter(|bind| !self.metrics.contains_key(bind)) {
            let mut sockets =
                listening(bind, 1, self.beside(bind)).map_err(|error| refusal("metrics", bind, &error))?;
            if let Some(socket) = sockets.1.pop() {
                self.metrics.insert(bind, (sockets.0, socket));
            }
        }
        for (bind, name, (address, sockets)) in opened {
            self.open.insert(bind, Open { id: self.next_id, name, address, sockets });
            self.next_id += 1;
        }
        Ok(())
    }

    /// Closes what the model has no longer, and takes over its names.
    pub fn settle(&mut self, model: &Model) {
        self.open.retain(|bind, open| {
            match model.listeners.iter().find(|listener| listener.bind.contains(bind)) {
                Some(listener) => {
                    open.name.clone_from(&listener.name);
                    true
                }
                None => false,
            }
        });
        self.metrics.retain(|bind, _| model.metrics_bind == Some(*bind));
    }

    /// Whether the port is ours already, at an address that a socket at `bind` would meet: `0.0.0.0` and each address of the host.
    fn beside(&self, bind: SocketAddr) -> Beside {
        let meets = |open: &SocketAddr| {
            let any = open.ip().is_unspecified() || bind.ip().is_unspecified();
            open.port() == bind.port() && open.is_ipv4() == bind.is_ipv4() && any
        };
        let metrics = self.metrics.values().map(|(address, _)| address);
        match self.open.values().map(|open| &open.address).chain(metrics).any(meets) {
            true => Beside::Ours,
            false => Beside::Nobody,
        }
    }

    /// All addresses with their sockets.
    pub fn all(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    /// What workers are told of them.
    pub fn served(&self) -> Vec<ServedListener> {
        let served =
            |open: &Open| ServedListener { id: open.id, name: open.name.clone(), address: open.address };
        self.all().map(served).collect()
    }

    /// The socket for `/metrics`, and its address.
    pub fn metrics(&self) -> Option<&(SocketAddr, Arc<OwnedFd>)> {
        self.metrics.values().next()
    }

    /// Closes all: nobody is to be accepted any more.
    pub fn close(&mut self) {
        self.open.clear();
        self.metrics.clear();
    }
}

/// Who may listen on the port already.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nobody,
    /// We do, at a wider or narrower address, until the configuration that does away with it is applied.
    Ours,
}

/// `count` sockets that listen on the same address. Port 0 is chosen by the first.
fn listening(bind: SocketAddr, count: usize, beside: Beside) -> io::Result<(SocketAddr, Vec<Arc<OwnedFd>>)> {
    // Among sockets with SO_REUSEPORT a second product would get a share of our connections without anybody noticing:
    // a socket without it is refused when there is one already. One of ours would refuse it, too.
    let first = bound(bind, if beside == Beside::Ours { Sharing::BetweenThreads } else { Sharing::Alone })?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    drop(first);
    let socket = || -> io::Result<Arc<OwnedFd>> {
        let socket = bound(address, Sharing::BetweenThreads)?;
        socket.listen(ACCEPT_QUEUE_MAX)?;
        socket.set_nonblocking(true)?;
        Ok(Arc::new(socket.into()))
    };
    Ok((address, (0..count).map(|_| socket()).collect::<io::Result<_>>()?))
}

#[derive(PartialEq)]
enum Sharing {
    Alone,
    BetweenThreads,
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::BetweenThreads)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn refusal(what: &str, bind: SocketAddr, error: &io::Error) -> String {
    let holder = match error.kind() {
        io::ErrorKind::AddrInUse => port_holder::holder(bind.port()),
        _ => None,
    };
    match holder {
        Some(holder) => format!("{what}: bind {bind}: address in use ({holder})"),
        None => format!("{what}: bind {bind}: {}", super::program::exec_shim::plain(error).to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(binds: &[&str]) -> Result<(SocketAddr, Vec<Arc<OwnedFd>>), String> {
        let bind = binds[0].parse().unwrap();
        listening(bind, 2, Beside::Nobody).map_err(|error| refusal("listener \"web\"", bind, &error))
    }

    #[test]
    fn threads_share_the_port_that_the_first_chose() {
        let (address, sockets) = open(&["127.0.0.1:0"]).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(sockets.len(), 2);
        for socket in sockets {
            let socket = Socket::from(socket.try_clone().unwrap());
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(address));
        }
    }

    #[test]
    fn bind_is_narrowed_and_widened_on_the_same_port() {
        let port = crate::free_port::at(std::net::Ipv4Addr::LOCALHOST.into()).port();
        let model = |bind: String| {
            let text = format!("[metrics]\nbind = \"\"\n[[listener]]\nname = \"web\"\nbind = [\"{bind}\"]\n");
            crate::config::read_text("lb.toml", &text, std::path::Path::new("/")).unwrap().model
        };
        let mut listeners = Listeners::new(2);
        for address in ["0.0.0.0", "127.0.0.1", "0.0.0.0"] {
            let model = model(format!("{address}:{port}"));
            listeners.prepare(&model).unwrap();
            listeners.settle(&model);
            assert_eq!(
                listeners.all().map(|open| open.address.to_string()).collect::<Vec<_>>(),
                [format!("{address}:{port}")]
            );
        }
        let mut others = Listeners::new(2);
        assert!(others.prepare(&model(format!("127.0.0.1:{port}"))).is_err(), "another product gets a share");
    }

    #[test]
    fn second_product_on_the_same_port_is_refused_by_name() {
        let (address, _sockets) = open(&["127.0.0.1:0"]).unwrap();
        let error = open(&[&address.to_string()]).map(|_| ()).unwrap_err();
        let expected =
            format!("listener \"web\": bind {address}: address in use (pid {}, ", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
    }
}
