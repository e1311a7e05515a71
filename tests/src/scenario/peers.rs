//! The HTTP proxy against nginx and HAProxy (Debian's): the same work for the same backend, in turns.
//!
//! Each proxy has core 0 to itself; load generator and backend share core 1. Processor time per request says what a proxy
//! costs; requests per second also depend on what else core 1 has to do.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::thread::CpuSet;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::figures::Spread;
use crate::http1::get;
use crate::lb::Lb;
use crate::load::{Plan, run_for};
use crate::port;
use crate::process::{cpu_time, descendants};
use crate::scenario::transfer::is_program;
use crate::wait::until;

/// Connections that each proxy keeps to the backend, more than any plan has clients.
const KEPT_CONNECTIONS: usize = 256;
/// HAProxy refuses more than the limit on descriptors allows.
const HAPROXY_CONNECTIONS: usize = 4_000;
const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;
/// What the backend says about itself; every proxy removes it.
const REMOVED: &str = "x-powered-by";
/// What every proxy tells the backend about the client.
const TOLD: [&str; 7] = [
    "host: test.example",
    "x-real-ip: 127.0.0.1",
    "x-forwarded-for: 127.0.0.1",
    "x-forwarded-proto: http",
    "x-forwarded-host: test.example",
    "x-request-id: ",
    "via: ",
];

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct PeersPlan {
    /// Turns of each proxy that count; one more warms up.
    pub rounds: usize,
    /// Length of a turn.
    pub time: Duration,
    /// Clients at once.
    pub connections: usize,
    /// Bytes of each answer's body.
    pub bytes: usize,
}

/// One turn of one proxy.
#[derive(Clone, Copy, Debug)]
struct Turn {
    rate: f64,
    /// Microseconds per request.
    cpu: f64,
}

/// The turns of one proxy.
struct Column {
    name: &'static str,
    turns: Vec<Turn>,
}

/// What was measured; the first column is lbctl's.
pub struct PeersFigures {
    columns: Vec<Column>,
}

impl PeersFigures {
    /// Prints medians, and lbctl's share of each other proxy's figure, turn by turn.
    pub fn print(&self) {
        for Column { name, turns } in &self.columns {
            println!("{name:>8}  requests/s {}", spread(turns, |turn| turn.rate));
            println!("{name:>8}  µs of CPU/request {}", spread(turns, |turn| turn.cpu));
        }
        for peer in &self.columns[1..] {
            println!("lbctl : {:<8} requests/s {}", peer.name, self.ratio(peer, |turn| turn.rate));
            println!("lbctl : {:<8} CPU/request {}", peer.name, self.ratio(peer, |turn| turn.cpu));
        }
    }

    fn ratio(&self, peer: &Column, figure: impl Fn(&Turn) -> f64) -> Spread {
        let pairs = self.columns[0].turns.iter().zip(&peer.turns);
        Spread::of(pairs.map(|(ours, theirs)| figure(ours) / figure(theirs)).collect())
    }
}

fn spread(turns: &[Turn], figure: impl Fn(&Turn) -> f64) -> Spread {
    Spread::of(turns.iter().map(figure).collect())
}

/// Starts all three beside each other and loads them in turns.
///
/// # Errors
/// When there are fewer than two cores, a proxy is missing or does not do its work, or a request fails.
pub fn run(plan: PeersPlan) -> anyhow::Result<PeersFigures> {
    for (program, package) in [("nginx", "nginx-light"), ("haproxy", "haproxy")] {
        ensure!(
            is_program(program),
            "{program} is missing: run `cargo xtask setup`, which installs {package}"
        );
    }
    let folder = tempfile::Builder::new().prefix("lb-peers-").tempdir()?;
    stay_on(LOAD_CORE)?;
    let backend = Backend::start(plan.bytes)?;
    stay_on(PROXY_CORE)?;
    let proxies = Proxies::start(&folder, backend.address)?;
    stay_on(LOAD_CORE)?;
    let all = proxies.all();
    for proxy in &all {
        backend.check(proxy, plan.bytes).with_context(|| proxy.name)?;
    }
    let mut columns: Vec<Column> =
        all.iter().map(|proxy| Column { name: proxy.name, turns: Vec::new() }).collect();
    for round in 0..=plan.rounds {
        for (proxy, column) in all.iter().zip(&mut columns) {
            let turn = turn(proxy, &plan);
            println!("round {round}: {:>8} {:.0} requests/s, {:.2} µs", proxy.name, turn.rate, turn.cpu);
            // The first round warms up.
            if round > 0 {
                column.turns.push(turn);
            }
        }
    }
    Ok(PeersFigures { columns })
}

fn turn(proxy: &Proxy, plan: &PeersPlan) -> Turn {
    let cpu = || proxy.processes.iter().map(|pid| cpu_time(*pid)).sum::<Duration>();
    let before = cpu();
    let outcome = run_for(Plan::keep_alive(proxy.port, plan.connections), plan.time);
    outcome.assert_none_failed();
    let cpu = (cpu() - before).as_secs_f64() * 1e6 / outcome.ok as f64;
    Turn { rate: outcome.rate(), cpu }
}

/// From here on this thread, and what it starts, runs on one core.
fn stay_on(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).with_context(|| format!("staying on core {core}"))
}

/// A proxy that runs.
struct Proxy {
    name: &'static str,
    port: u16,
    processes: Vec<u32>,
}

/// All proxies; they end when this is dropped.
struct Proxies {
    lbctl: Lb,
    lbctl_port: u16,
    others: Vec<(&'static str, u16, Ended)>,
}

/// A process that is ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxies {
    fn start(folder: &TempDir, backend: SocketAddr) -> anyhow::Result<Self> {
        let [lbctl_port, nginx_port, haproxy_port] = [(); 3].map(|()| port::free());
        let nginx = folder.path().join("nginx.conf");
        std::fs::write(&nginx, nginx_config(folder.path(), nginx_port, backend))?;
        let haproxy = folder.path().join("haproxy.cfg");
        std::fs::write(&haproxy, haproxy_config(haproxy_port, backend))?;
        let mut start_nginx = Command::new("nginx");
        start_nginx.arg("-e").arg(folder.path().join("nginx.err")).arg("-c").arg(&nginx);
        let mut start_haproxy = Command::new("haproxy");
        start_haproxy.arg("-db").arg("-f").arg(&haproxy);
        let others = vec![
            ("nginx", nginx_port, started(&mut start_nginx)?),
            ("haproxy", haproxy_port, started(&mut start_haproxy)?),
        ];
        let lbctl = Lb::start(&lbctl_config(lbctl_port, backend));
        Ok(Self { lbctl, lbctl_port, others })
    }

    fn all(&self) -> Vec<Proxy> {
        let running = |name, port, pid| {
            let below = descendants(pid).into_iter().map(|process| process.pid);
            Proxy { name, port, processes: below.chain([pid]).collect() }
        };
        let mut all = vec![running("lbctl", self.lbctl_port, self.lbctl.pid())];
        for (name, port, process) in &self.others {
            until(Duration::from_secs(10), name, || std::net::TcpStream::connect(("127.0.0.1", *port)).ok());
            all.push(running(name, *port, process.0.id()));
        }
        all
    }
}

fn started(command: &mut Command) -> anyhow::Result<Ended> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(Ended(command.spawn().with_context(|| format!("starting {name}"))?))
}

fn lbctl_config(port: u16, backend: SocketAddr) -> String {
    format!(
        r#"
[node]
worker_threads = 1
[metrics]
bind = ""
[[listener]]
name = "web"
bind = ["127.0.0.1:{port}"]
protocol = "http"
[[route]]
listener = "web"
path = "/"
upstream = "site"
response_headers = {{ remove = ["{REMOVED}"] }}
[upstream.site]
backends = [{{ address = "{backend}" }}]
keepalive = {KEPT_CONNECTIONS}
"#
    )
}

fn nginx_config(folder: &Path, port: u16, backend: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 75s; keepalive_requests 1000000000;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  upstream site {{ server {backend}; keepalive {KEPT_CONNECTIONS}; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://site; proxy_http_version 1.1; proxy_max_temp_file_size 0; proxy_buffers 16 16k;
      proxy_set_header Connection \"\";
      proxy_set_header Host $http_host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Request-ID $request_id;
      proxy_set_header Via \"1.1 nginx\";
      proxy_hide_header {REMOVED};
    }}
  }}
}}
"
    )
}

fn haproxy_config(port: u16, backend: SocketAddr) -> String {
    format!(
        "global
  maxconn {HAPROXY_CONNECTIONS}
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-keep-alive
  http-reuse always
frontend web
  bind 127.0.0.1:{port}
  unique-id-format %{{+X}}o%ci%cp%Ts%rt
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Request-ID %[unique-id]
  http-request set-header Via \"1.1 haproxy\"
  http-response del-header {REMOVED}
  default_backend site
backend site
  server one {backend}
"
    )
}

/// A backend that costs as little as it can: each head is answered with the same bytes.
struct Backend {
    address: SocketAddr,
    /// The last head that came.
    head: Arc<Mutex<Vec<u8>>>,
}

impl Backend {
    /// Runs in a thread that ends with the process.
    fn start(bytes: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("binding the backend")?;
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let head: Arc<Mutex<Vec<u8>>> = Arc::default();
        let seen = head.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{REMOVED}: bench\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
            answer.resize(answer.len() + bytes, b'x');
            let answer: Arc<[u8]> = answer.into();
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(answer_all(stream, answer.clone(), seen.clone()));
                }
            });
        });
        Ok(Self { address, head })
    }

    /// Whether the proxy does all that is compared.
    fn check(&self, proxy: &Proxy, bytes: usize) -> anyhow::Result<()> {
        let response = get(([127, 0, 0, 1], proxy.port), "/")?;
        ensure!(response.status == 200 && response.body.len() == bytes, "answers {response:?}");
        ensure!(response.header(REMOVED).is_none(), "passes {REMOVED} on");
        let head = self.head.lock().map_err(|_| anyhow::anyhow!("the backend panicked"))?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        for told in TOLD {
            ensure!(head.contains(&format!("\r\n{told}")), "does not tell {told:?}: {head}");
        }
        ensure!(!head.contains("connection: close"), "keeps no connection to the backend: {head}");
        Ok(())
    }
}

async fn answer_all(mut stream: TcpStream, answer: Arc<[u8]>, seen: Arc<Mutex<Vec<u8>>>) {
    let mut received = Vec::with_capacity(4096);
    while matches!(stream.read_buf(&mut received).await, Ok(1..)) {
        if !received.ends_with(b"\r\n\r\n") {
            continue;
        }
        if let Ok(mut seen) = seen.lock() {
            seen.clone_from(&received);
        }
        received.clear();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}
