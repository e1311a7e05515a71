//! A program for lbctl to supervise in tests: it serves HTTP on `$PORT` and writes down each request that it executes.
//!
//! `lb-test-program FILE`: for each request with an `x-id` header the id is appended to FILE before the answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() -> anyhow::Result<()> {
    let file = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("usage: lb-test-program FILE"))?;
    let port: u16 = std::env::var("PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for stream in listener.incoming() {
        let (stream, file) = (stream?, File::options().create(true).append(true).open(&file)?);
        std::thread::spawn(move || serve(stream, file));
    }
    Ok(())
}

/// Answers until the connection ends.
fn serve(stream: TcpStream, mut file: File) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    stream.set_nodelay(true)?;
    loop {
        let (mut id, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            id = line.strip_prefix("x-id: ").map(str::to_owned).or(id);
            length = line.strip_prefix("content-length: ").map_or(Ok(length), str::parse)?;
        }
        reader.read_exact(&mut vec![0; length])?;
        if let Some(id) = id {
            // One write: appends of several processes do not mix.
            file.write_all(format!("{id}\n").as_bytes())?;
            // Leaves time to be killed between execution and answer.
            std::thread::sleep(Duration::from_millis(2));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
    }
}
