//! Large bodies through programs of other makers: gunicorn (PyPI) and nginx (Debian), on TCP and on unix sockets.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use crate::binary::venv;
use crate::figures::short;
use crate::http1::{BodyEnd, Client};
use crate::lab::pattern;
use crate::lb::{Lb, Setup};
use crate::port;
use crate::process::resident_bytes;

/// A WSGI program: the digest of what was uploaded, or so many bytes of a pattern.
const APP: &str = r#"
import hashlib

def app(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        digest = hashlib.sha256()
        while block := environ["wsgi.input"].read(65536):
            digest.update(block)
        body = digest.hexdigest().encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
"#;

/// What was measured for one transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// What it was.
    pub name: String,
    /// Bytes of the body.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// How much the worker's resident memory grew at most.
    pub growth_bytes: u64,
    /// Whether the digests agree.
    pub exact: bool,
}

impl Transfer {
    /// Prints it.
    pub fn print(&self) {
        println!(
            "{}: {} MiB in {}, {:.0} MiB/s, worker grew by {:.1} MiB, {}",
            self.name,
            self.bytes >> 20,
            short(self.took),
            (self.bytes >> 20) as f64 / self.took.as_secs_f64(),
            self.growth_bytes as f64 / 1_048_576.0,
            if self.exact { "byte-exact" } else { "DIFFERENT" }
        );
    }
}

/// Uploads to gunicorn and downloads from nginx, on TCP and on unix sockets.
///
/// # Errors
/// When a program is missing or a transfer fails.
pub fn run(upload_bytes: u64, download_bytes: u64) -> anyhow::Result<Vec<Transfer>> {
    let setup = Setup::default();
    let gunicorn = venv().join("bin/gunicorn");
    ensure!(
        gunicorn.is_file(),
        "gunicorn is missing: run `cargo xtask setup`, which installs it under target/venv"
    );
    ensure!(is_program("nginx"), "nginx is missing: run `cargo xtask setup`, which installs nginx-light");
    std::fs::write(setup.folder().join("app.py"), APP)?;
    pattern_file(&setup.folder().join("file.bin"), download_bytes)?;
    let ports = [(); 4].map(|()| port::free());
    let nginx_port = port::free();
    for (name, listen) in [
        ("tcp", format!("127.0.0.1:{nginx_port}")),
        ("unix", format!("unix:{}/nginx.sock", setup.folder().display())),
    ] {
        std::fs::write(
            setup.folder().join(format!("nginx-{name}.conf")),
            nginx_config(setup.folder(), name, &listen),
        )?;
    }
    let config = config(setup.folder(), &gunicorn, ports, nginx_port);
    let lb = setup.start(&config);
    let mut transfers = Vec::new();
    for (name, port) in
        [("upload to gunicorn on TCP", ports[0]), ("upload to gunicorn on a unix socket", ports[1])]
    {
        transfers.push(measured(&lb, name, upload_bytes, || upload(port, upload_bytes))?);
    }
    for (name, port) in
        [("download from nginx on TCP", ports[2]), ("download from nginx on a unix socket", ports[3])]
    {
        transfers.push(measured(&lb, name, download_bytes, || download(port, download_bytes))?);
    }
    lb.stop();
    Ok(transfers)
}

fn config(folder: &Path, gunicorn: &Path, ports: [u16; 4], nginx_port: u16) -> String {
    let (folder, gunicorn) = (folder.display(), gunicorn.display());
    let programs = [
        (
            "gunicorn-tcp",
            "127.0.0.1:0".to_owned(),
            format!("{gunicorn} --chdir {folder} --bind 127.0.0.1:$PORT --workers 1 --threads 4 app:app"),
        ),
        (
            "gunicorn-unix",
            format!("unix:{folder}/gunicorn.sock"),
            format!(
                "{gunicorn} --chdir {folder} --bind unix:{folder}/gunicorn.sock --umask 0 --workers 1 --threads 4 app:app"
            ),
        ),
        (
            "nginx-tcp",
            format!("127.0.0.1:{nginx_port}"),
            format!("nginx -e {folder}/nginx-tcp.err -c {folder}/nginx-tcp.conf"),
        ),
        (
            "nginx-unix",
            format!("unix:{folder}/nginx.sock"),
            format!("nginx -e {folder}/nginx-unix.err -c {folder}/nginx-unix.conf"),
        ),
    ];
    let mut text = "[metrics]\nbind = \"\"\n".to_owned();
    for ((name, address, command), port) in programs.into_iter().zip(ports) {
        text += &format!(
            r#"
[[listener]]
name = "{name}"
bind = ["127.0.0.1:{port}"]
protocol = "http"
[[route]]
listener = "{name}"
path = "/"
upstream = "{name}"
body_max = "4GiB"
[upstream.{name}]
read_timeout = "30s"
[program.{name}]
upstream = "{name}"
address = "{address}"
command = "{command}"
startup = {{ http = "/", every = "250ms", within = "30s" }}
stop = {{ signal = "TERM", drain_timeout = "2s", kill_after = "5s" }}
"#
        );
    }
    text
}

fn nginx_config(folder: &Path, name: &str, listen: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; pid {folder}/nginx-{name}.pid; error_log {folder}/nginx-{name}.err;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; keepalive_timeout 60;
  client_body_temp_path {folder}/{name}-1; proxy_temp_path {folder}/{name}-2; fastcgi_temp_path {folder}/{name}-3;
  uwsgi_temp_path {folder}/{name}-4; scgi_temp_path {folder}/{name}-5;
  server {{ listen {listen}; location / {{ return 200 \"ok\\n\"; }} location /file.bin {{ root {folder}; }} }}
}}
"
    )
}

/// Blocks of the whole body, one after another.
fn blocks(bytes: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let block = pattern::at(at, bytes - at);
        at += block.len() as u64;
        (!block.is_empty()).then_some(block)
    })
}

fn pattern_file(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path).context("creating the file to download")?;
    for block in blocks(bytes) {
        file.write_all(block)?;
    }
    Ok(())
}

/// Runs a transfer and watches the worker's memory meanwhile.
fn measured(
    lb: &Lb,
    name: &str,
    bytes: u64,
    transfer: impl FnOnce() -> anyhow::Result<bool> + Send,
) -> anyhow::Result<Transfer> {
    let worker = lb.status().workers.first().context("no worker")?.pid;
    let (before, begun) = (resident_bytes(worker), Instant::now());
    let (exact, most) = std::thread::scope(|scope| {
        let running = scope.spawn(transfer);
        let mut most = before;
        while !running.is_finished() {
            most = most.max(resident_bytes(worker));
            std::thread::sleep(Duration::from_millis(20));
        }
        (running.join().expect("a transfer does not panic"), most)
    });
    let exact = exact.with_context(|| name.to_owned())?;
    Ok(Transfer { name: name.to_owned(), bytes, took: begun.elapsed(), growth_bytes: most - before, exact })
}

fn upload(port: u16, bytes: u64) -> anyhow::Result<bool> {
    let mut client = Client::connect(([127, 0, 0, 1], port))?;
    client.send(format!("POST /upload HTTP/1.1\r\nHost: up.example\r\nContent-Length: {bytes}\r\n\r\n"))?;
    let mut digest = Sha256::new();
    for block in blocks(bytes) {
        client.send(block)?;
        digest.update(block);
    }
    let response = client.receive()?;
    ensure!(response.status == 200, "answered {} {}", response.status, response.text());
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(response.text() == hex)
}

fn download(port: u16, bytes: u64) -> anyhow::Result<bool> {
    let mut client = Client::connect(([127, 0, 0, 1], port))?;
    client.send("GET /file.bin HTTP/1.1\r\nHost: down.example\r\n\r\n")?;
    let head = client.receive_head()?;
    ensure!(head.status == 200 && head.body == BodyEnd::After(usize::try_from(bytes)?), "answered {head:?}");
    let mut at = 0;
    while at < bytes {
        let block = client.next_bytes()?;
        ensure!(!block.is_empty(), "closed {} bytes before the end", bytes - at);
        ensure!(at + block.len() as u64 <= bytes, "more bytes than announced");
        if !pattern::is(at, &block) {
            println!("{}", difference(at, &block));
            return Ok(false);
        }
        at += block.len() as u64;
        if fastrand::u8(..) < 4 {
            // So that what is under way fills every buffer and empties it again.
            std::thread::sleep(Duration::from_micros(fastrand::u64(..3_000)));
        }
    }
    Ok(true)
}

/// What is wrong with a block that begins at `at`.
fn difference(at: u64, block: &[u8]) -> String {
    /// Enough not to be found twice.
    const PIECE_BYTES: usize = 32;
    let expected = pattern::at(at, block.len() as u64);
    let differs = block.iter().zip(expected).position(|(is, should)| is != should).unwrap_or(block.len());
    let piece = &block[differs..block.len().min(differs + PIECE_BYTES)];
    let place = at + differs as u64;
    match pattern::delay(place, piece) {
        Some(late) => format!("byte {place} differs: what follows comes {late} bytes too late"),
        None => format!("byte {place} differs: what follows is no part of the body"),
    }
}

/// Whether the program can be started.
pub fn is_program(name: &str) -> bool {
    Command::new(name).arg("-v").stdin(std::process::Stdio::null()).output().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_piece_of_the_body_is_known() {
        let mut block = pattern::at(65_536, 4096).to_vec();
        block.splice(1000..1000, pattern::at(66_483, 53).iter().copied());
        assert_eq!(difference(65_536, &block), "byte 66536 differs: what follows comes 53 bytes too late");
        assert_eq!(difference(0, &[1; 64]), "byte 0 differs: what follows is no part of the body");
    }
}
