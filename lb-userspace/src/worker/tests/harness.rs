//! The master's part of the link, and backends that do exactly what a test says.
#![expect(clippy::disallowed_types, reason = "tests play clients and backends")]
#![expect(clippy::disallowed_methods, reason = "tests wait")]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_common::backend::TrafficState;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::config::model::{AccessFormat, Address, Balance, HeaderChanges, Route};
use crate::link::{Attachment, FromWorker, PACKET_BYTES_MAX, ToWorker};
use crate::snapshot::{ServedBackend, ServedListener, ServedUpstream, Snapshot};
use crate::state::event::{InstanceId, Slot};
use crate::table::{ACTIVITY_BYTES, ActivityTable, BackendTable, TABLE_BYTES, read_only, shared_memory};

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running worker and what its master holds.
pub struct Harness {
    /// Where it accepts.
    pub address: SocketAddr,
    /// The master's view of the backend table.
    pub table: BackendTable,
    /// The worker's load.
    pub activity: ActivityTable,
    /// What it serves.
    pub snapshot: Snapshot,
    link: OwnedFd,
    worker: Option<JoinHandle<anyhow::Result<()>>>,
    _listener: TcpListener,
}

impl Harness {
    /// One listener, one route, one upstream with these backends, all of them IN as instance 1.
    pub fn start(backends: &[SocketAddr]) -> Self {
        Self::start_with(backends, |_| {})
    }

    /// The same with a snapshot changed by `adjust`.
    pub fn start_with(backends: &[SocketAddr], adjust: impl FnOnce(&mut Snapshot)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (table_memory, activity_memory) = (
            shared_memory("table", TABLE_BYTES).unwrap(),
            shared_memory("activity", ACTIVITY_BYTES).unwrap(),
        );
        let table = BackendTable::map(&table_memory).unwrap();
        let activity = ActivityTable::map(&activity_memory).unwrap();
        let mut snapshot = snapshot(address, backends);
        adjust(&mut snapshot);
        let flags = SocketFlags::CLOEXEC;
        let (link, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let worker = std::thread::spawn(move || crate::worker::main_thread::serve(theirs));
        let mut harness =
            Self { address, table, activity, snapshot, link, worker: Some(worker), _listener: listener };
        for slot in 0..backends.len() {
            harness.set(slot as u32, 1, TrafficState::In);
        }
        harness.send(&ToWorker::Hello { threads: 1, generation: 0 }, None);
        harness.attach(Attachment::Table, read_only(&table_memory).unwrap().as_fd());
        harness.attach(Attachment::Activity, activity_memory.as_fd());
        let socket = harness._listener.try_clone().unwrap();
        harness.attach(Attachment::Listener { id: 1, thread: 0 }, socket.as_fd());
        harness.publish();
        harness
    }

    /// Sends the snapshot under the next number and waits until it is served.
    pub fn publish(&mut self) {
        let number = self.send_snapshot();
        self.wait_for(|message| *message == FromWorker::Serving { number });
    }

    /// Sends the snapshot under the next number, and returns that.
    pub fn send_snapshot(&mut self) -> u64 {
        self.snapshot.number += 1;
        let memory = shared_memory("snapshot", 0).unwrap();
        let mut file = std::fs::File::from(memory);
        file.write_all(&serde_json::to_vec(&self.snapshot).unwrap()).unwrap();
        let number = self.snapshot.number;
        self.send(&ToWorker::Snapshot { number }, Some(file.as_fd()));
        number
    }

    /// Waits until the worker has obeyed all that it was sent before.
    pub fn settle(&self) {
        self.send(&ToWorker::Ping, None);
        self.wait_for(|message| *message == FromWorker::Pong);
    }

    /// Writes a row and tells the worker.
    pub fn set(&self, slot: u32, instance: u64, state: TrafficState) {
        self.table.write(Slot(slot), InstanceId(instance), state, 1, 1);
        self.send(&ToWorker::TableChanged, None);
    }

    /// Sends a message.
    pub fn send(&self, message: &ToWorker, descriptor: Option<BorrowedFd<'_>>) {
        let bytes = serde_json::to_vec(message).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        rustix::net::sendmsg(&self.link, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty())
            .unwrap();
    }

    /// Attaches a descriptor.
    pub fn attach(&self, what: Attachment, descriptor: BorrowedFd<'_>) {
        self.send(&ToWorker::Attach { what }, Some(descriptor));
    }

    /// The next message from the worker; `None` when none comes within `patience`.
    pub fn receive(&self, patience: Duration) -> Option<FromWorker> {
        let mut poll = [rustix::event::PollFd::new(&self.link, rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        };
        if rustix::event::poll(&mut poll, Some(&patience)).unwrap() == 0 {
            return None;
        }
        let mut packet = vec![0u8; PACKET_BYTES_MAX];
        let (bytes, _) = rustix::net::recv(&self.link, &mut packet, RecvFlags::empty()).unwrap();
        (bytes > 0).then(|| serde_json::from_slice(&packet[..bytes]).unwrap())
    }

    /// Reads messages until one is as wanted.
    pub fn wait_for(&self, wanted: impl Fn(&FromWorker) -> bool) -> FromWorker {
        loop {
            let message = self.receive(PATIENCE).expect("the worker says something in time");
            if wanted(&message) {
                return message;
            }
        }
    }

    /// Requests and tunnels in progress on a backend.
    pub fn active(&self, slot: u32) -> u32 {
        self.activity.row(Slot(slot)).active.load(Ordering::SeqCst)
    }

    /// A client connection.
    pub fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).unwrap())
    }

    /// Waits until the worker has ended.
    pub fn join(mut self) {
        self.worker.take().unwrap().join().unwrap().unwrap();
    }

    /// Closes the link. The worker then runs until the test process ends.
    pub fn lose_master(&mut self) {
        let (other, _) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        self.link = other;
        self.worker = None;
    }

    /// What asks for `/metrics`.
    pub fn metrics(&self) -> impl Fn() -> String + use<> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        self.attach(Attachment::Metrics, listener.as_fd());
        move || {
            let mut scraper = Client(TcpStream::connect(address).unwrap());
            scraper.ask("GET /metrics HTTP/1.1\r\nhost: m\r\n\r\n").text().to_owned()
        }
    }

    /// One request on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        self.client().ask(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take().filter(|_| !std::thread::panicking()) else { return };
        self.send(&ToWorker::Drain { within_ms: 200 }, None);
        worker.join().unwrap().unwrap();
    }
}

fn snapshot(address: SocketAddr, backends: &[SocketAddr]) -> Snapshot {
    let route = Route {
        listener: "web".into(),
        host: None,
        path: "/".into(),
        upstream: "docs".into(),
        body_bytes_max: Some(1 << 20),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
    };
    let backend =
        |(slot, address): (usize, &SocketAddr)| served(&format!("docs:{slot}"), slot as u32, *address);
    let upstream = ServedUpstream {
        name: "docs".into(),
        balance: Balance::RoundRobin,
        keepalive: 32,
        connect_timeout_ms: 1000,
        send_timeout_ms: 1000,
        read_timeout_ms: 1000,
        hold_timeout_ms: 0,
        retry_budget: 0.2,
        backends: backends.iter().enumerate().map(backend).collect(),
        unplaced: 0,
    };
    Snapshot {
        number: 0,
        node: "test".into(),
        listeners: vec![ServedListener { id: 1, name: "web".into(), address }],
        routes: vec![route],
        upstreams: vec![upstream],
        reason_header: true,
        access_format: Some(AccessFormat::Json),
        error_file: true,
        metrics: true,
        ..Snapshot::default()
    }
}

/// A backend as a snapshot has it.
pub fn served(name: &str, slot: u32, address: SocketAddr) -> ServedBackend {
    let address = Address::Tcp(address);
    ServedBackend { slot, name: name.into(), address, backup: false, drain_timeout_ms: 1000 }
}

/// A client connection.
pub struct Client(pub TcpStream);

impl Client {
    /// Sends `request` and reads one answer.
    pub fn ask(&mut self, request: &str) -> Answer {
        self.0.write_all(request.as_bytes()).unwrap();
        self.answer(request.starts_with("HEAD"))
    }

    /// Reads one answer.
    pub fn answer(&mut self, head_only: bool) -> Answer {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        Answer::read(&mut self.0, head_only)
    }

    /// Whether the worker closes the connection in time.
    pub fn is_closed(&mut self) -> bool {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, lower case.
    pub head: String,
    /// Its body, chunks joined.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: String,
}

impl Answer {
    fn read(stream: &mut TcpStream, head_only: bool) -> Self {
        let head = read_head(stream);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut answer =
            Self { status, head: head.to_ascii_lowercase(), body: Vec::new(), trailers: String::new() };
        if head_only || matches!(status, 100..=199 | 204 | 304) {
            return answer;
        }
        if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut answer.body).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(read_line(stream).trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).unwrap();
                answer.body.extend_from_slice(&chunk[..size]);
            }
            loop {
                let line = read_line(stream);
                if line == "\r\n" {
                    break;
                }
                answer.trailers.push_str(&line);
            }
        } else {
            stream.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Why the worker answered itself.
    pub fn reason(&self) -> &str {
        self.header("x-lb-reason").unwrap_or_default()
    }
}

/// Reads up to and including the empty line.
pub fn read_head(stream: &mut impl Read) -> String {
    let mut head = String::new();
    loop {
        let line = read_line(stream);
        head.push_str(&line);
        if line == "\r\n" || line.is_empty() {
            return head;
        }
    }
}

/// Reads up to and including the line's end.
pub fn read_line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap_or(0) == 1 {
        line.push(byte[0]);
        if byte == *b"\n" {
            break;
        }
    }
    String::from_utf8(line).unwrap()
}

/// A backend that calls `serve` for each connection, with the number of it from 0, in a thread of its own.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections accepted.
    pub accepted: Arc<AtomicUsize>,
}

impl Backend {
    /// Starts one.
    pub fn start(serve: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, serve) = (accepted.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(number, stream));
            }
        });
        Self { address, accepted }
    }

    /// Answers every request on every connection with `name` and the request's head.
    pub fn echo(name: &'static str) -> Self {
        Self::start(move |_, mut stream| {
            loop {
                let head = read_head(&mut stream);
                if head.is_empty() {
                    return;
                }
                let body = format!("{name}\n{head}");
                answer(&mut stream, &body);
            }
        })
    }
}

/// Writes a 200.
pub fn answer(stream: &mut TcpStream, body: &str) {
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
}

/// Closes with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// An address on which nobody listens.
pub fn nobody() -> SocketAddr {
    crate::free_port::at("127.0.0.1".parse().unwrap())
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
