//! Backends inside of the test process: they note what arrives and answer as told.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Method.
    pub method: String,
    /// Target.
    pub target: String,
    /// Header lines in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

impl Arrived {
    /// All values of a name, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What a peer does with a request.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Sends these bytes and reads on.
    Send(Vec<u8>),
    /// Waits, then sends these bytes.
    SendAfter(Duration, Vec<u8>),
    /// Sends these bytes and closes.
    SendAndClose(Vec<u8>),
}

/// `200 OK` with this text.
pub fn ok(text: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

type Decide = Arc<dyn Fn(&Arrived) -> Deed + Send + Sync>;
type Notes = Arc<Mutex<Vec<Arrived>>>;

/// A backend in a thread. It lives as long as the test process; its socket is its own.
pub struct Peer {
    /// Where it listens, as a configuration names it.
    pub address: String,
    arrived: Notes,
}

impl Peer {
    /// Listens on IPv4 loopback.
    pub fn start(decide: impl Fn(&Arrived) -> Deed + Send + Sync + 'static) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), decide)
    }

    /// Listens on this address and a free port.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start_on(ip: IpAddr, decide: impl Fn(&Arrived) -> Deed + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        Self::serve(address, decide, move || listener.accept().ok().map(|(stream, _)| stream))
    }

    /// Listens on a unix socket that everybody may use.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start_unix(path: &Path, decide: impl Fn(&Arrived) -> Deed + Send + Sync + 'static) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let listener = UnixListener::bind(path).expect("the path is free");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).expect("the socket is ours");
        let address = format!("unix:{}", path.display());
        Self::serve(address, decide, move || listener.accept().ok().map(|(stream, _)| stream))
    }

    fn serve<S: Read + Write + Send + 'static>(
        address: String,
        decide: impl Fn(&Arrived) -> Deed + Send + Sync + 'static,
        accept: impl Fn() -> Option<S> + Send + 'static,
    ) -> Self {
        let arrived = Notes::default();
        let (notes, decide): (Notes, Decide) = (arrived.clone(), Arc::new(decide));
        std::thread::spawn(move || {
            while let Some(stream) = accept() {
                let (notes, decide) = (notes.clone(), decide.clone());
                std::thread::spawn(move || serve_connection(stream, &notes, &decide));
            }
        });
        Self { address, arrived }
    }

    /// What has arrived so far.
    ///
    /// # Panics
    /// When a connection's thread did.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("nobody panics while holding it").clone()
    }
}

fn serve_connection(mut stream: impl Read + Write, notes: &Notes, decide: &Decide) {
    let mut received = Vec::new();
    let mut chunk = [0; 64 * 1024];
    loop {
        while let Some((request, taken)) = request(&received) {
            received.drain(..taken);
            notes.lock().expect("nobody panics while holding it").push(request.clone());
            let (bytes, closes) = match decide(&request) {
                Deed::Send(bytes) => (bytes, false),
                Deed::SendAfter(time, bytes) => {
                    std::thread::sleep(time);
                    (bytes, false)
                }
                Deed::SendAndClose(bytes) => (bytes, true),
            };
            if stream.write_all(&bytes).is_err() || closes {
                return;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => received.extend_from_slice(&chunk[..count]),
        }
    }
}

/// A whole request at the start of `bytes` and how many bytes it takes. What cannot be parsed is noted as it is.
fn request(bytes: &[u8]) -> Option<(Arrived, usize)> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut lines);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return None,
        Err(error) => {
            let target = format!("{error}: {}", String::from_utf8_lossy(bytes));
            return Some((
                Arrived { method: String::new(), target, headers: vec![], body: vec![] },
                bytes.len(),
            ));
        }
    };
    let mut arrived = Arrived {
        method: parsed.method.unwrap_or("").to_owned(),
        target: parsed.path.unwrap_or("").to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    for line in parsed.headers.iter() {
        arrived
            .headers
            .push((line.name.to_ascii_lowercase(), String::from_utf8_lossy(line.value).into_owned()));
    }
    let rest = &bytes[head..];
    let taken = if arrived.values("transfer-encoding").is_empty() {
        let length =
            arrived.values("content-length").first().and_then(|value| value.parse().ok()).unwrap_or(0);
        arrived.body = rest.get(..length)?.to_vec();
        length
    } else {
        let (body, taken) = crate::http1::chunks(rest).ok()??;
        arrived.body = body;
        taken
    };
    Some((arrived, head + taken))
}
