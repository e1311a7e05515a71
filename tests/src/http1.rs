//! A plain HTTP/1.1 client: it sends the bytes that a test wants, right or wrong, and reads answers strictly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// How long a client waits for the next byte.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header lines in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The first line of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// What a head says about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Bytes of the head with its empty line.
    pub bytes: usize,
    /// How the body ends.
    pub body: BodyEnd,
    /// Whether the connection ends with this answer.
    pub closes: bool,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// After so many bytes.
    After(usize),
    /// With an empty chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The head at the start of `bytes`, once it is complete.
///
/// # Errors
/// When it is no HTTP head.
pub fn head(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(length) = response.parse(bytes).context("malformed answer")? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or(0);
    let mut head = Head { status, bytes: length, body: BodyEnd::Close, closes: false };
    for line in response.headers.iter() {
        let value = str::from_utf8(line.value).unwrap_or("");
        if line.name.eq_ignore_ascii_case("content-length") {
            head.body = BodyEnd::After(value.trim().parse().context("content-length")?);
        } else if line.name.eq_ignore_ascii_case("transfer-encoding") {
            head.body = BodyEnd::Chunked;
        } else if line.name.eq_ignore_ascii_case("connection") {
            head.closes |= value.eq_ignore_ascii_case("close");
        }
    }
    if matches!(status, 100..=199 | 204 | 304) {
        head.body = BodyEnd::After(0);
    }
    head.closes |= head.body == BodyEnd::Close;
    Ok(Some(head))
}

/// A whole answer at the start of `bytes` and how many bytes it takes; `None` while it is incomplete.
///
/// # Errors
/// When it is no HTTP answer.
pub fn response(bytes: &[u8], at_end: bool) -> anyhow::Result<Option<(Response, usize)>> {
    let Some(head) = head(bytes)? else { return Ok(None) };
    let rest = &bytes[head.bytes..];
    let (body, taken) = match head.body {
        BodyEnd::After(length) if rest.len() < length => return Ok(None),
        BodyEnd::After(length) => (rest[..length].to_vec(), length),
        BodyEnd::Chunked => match chunks(rest)? {
            Some(found) => found,
            None => return Ok(None),
        },
        BodyEnd::Close if !at_end => return Ok(None),
        BodyEnd::Close => (rest.to_vec(), rest.len()),
    };
    let headers = header_lines(&bytes[..head.bytes])?;
    Ok(Some((Response { status: head.status, headers, body }, head.bytes + taken)))
}

fn header_lines(head: &[u8]) -> anyhow::Result<Vec<(String, String)>> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut lines);
    response.parse(head)?;
    let owned = |line: &httparse::Header<'_>| {
        (line.name.to_ascii_lowercase(), String::from_utf8_lossy(line.value).into_owned())
    };
    Ok(response.headers.iter().map(owned).collect())
}

/// A chunked body, trailers left out, and the bytes that it takes; `None` while it is incomplete.
///
/// # Errors
/// When the framing is wrong.
pub fn chunks(bytes: &[u8]) -> anyhow::Result<Option<(Vec<u8>, usize)>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(rest).map_err(|_| anyhow::anyhow!("malformed chunk size"))?
        else {
            return Ok(None);
        };
        let size = usize::try_from(size)?;
        if size == 0 {
            return Ok(trailers(&rest[line..]).map(|bytes| (body, at + line + bytes)));
        }
        let Some(data) = rest.get(line..line + size + 2) else { return Ok(None) };
        ensure!(data.ends_with(b"\r\n"), "chunk of {size} bytes does not end where it says");
        body.extend_from_slice(&data[..size]);
        at += line + size + 2;
    }
}

/// Bytes of the trailer part with its empty line.
fn trailers(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"\r\n") {
        return Some(2);
    }
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// One connection to a server.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn connect(address: impl Into<SocketAddr>) -> anyhow::Result<Self> {
        let address = address.into();
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.stream.write_all(bytes.as_ref()).context("sending")
    }

    /// The next answer, interim ones included.
    ///
    /// # Errors
    /// When the connection ends before it is complete, or it is no HTTP.
    pub fn receive(&mut self) -> anyhow::Result<Response> {
        let mut at_end = false;
        loop {
            if let Some((response, taken)) = response(&self.received, at_end)? {
                self.received.drain(..taken);
                return Ok(response);
            }
            ensure!(!at_end, "closed after {} bytes of an answer", self.received.len());
            at_end = self.read_more()? == 0;
        }
    }

    /// Sends a request without body and reads its answer.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn get(&mut self, path: &str) -> anyhow::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test.example\r\n\r\n"))?;
        self.receive()
    }

    /// Sends a request with a body and reads its answer.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> anyhow::Result<Response> {
        let length = body.len();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: test.example\r\nContent-Length: {length}\r\n{headers}\r\n"
        ))?;
        self.send(body)?;
        self.receive()
    }

    /// Everything until the server closes.
    ///
    /// # Errors
    /// When it does not close in time.
    pub fn read_to_end(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            match self.read_more() {
                Ok(0) => return Ok(std::mem::take(&mut self.received)),
                Ok(_) => {}
                Err(error) if is_reset(&error) => return Ok(std::mem::take(&mut self.received)),
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Head of the next answer; what was received after it stays for [`Self::next_bytes`].
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_head(&mut self) -> anyhow::Result<Head> {
        loop {
            if let Some(head) = head(&self.received)? {
                self.received.drain(..head.bytes);
                return Ok(head);
            }
            ensure!(self.read_more()? > 0, "closed before the head was complete");
        }
    }

    /// Bytes of a body as they come; empty at the end.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn next_bytes(&mut self) -> anyhow::Result<Vec<u8>> {
        if self.received.is_empty() {
            self.read_more()?;
        }
        Ok(std::mem::take(&mut self.received))
    }

    fn read_more(&mut self) -> anyhow::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    bail!("no byte within {READ_TIMEOUT:?}")
                }
                Err(error) => return Err(error).context("reading"),
            }
        }
    }
}

fn is_reset(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// One GET on a connection of its own.
///
/// # Errors
/// As [`Client::receive`].
pub fn get(address: impl Into<SocketAddr>, path: &str) -> anyhow::Result<Response> {
    Client::connect(address)?.get(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], at_end: bool, expect: Option<(&[u8], usize)>) {
        let found = response(bytes, at_end).unwrap().map(|(response, taken)| (response.body, taken));
        assert_eq!(found, expect.map(|(body, taken)| (body.to_vec(), taken)));
    }

    #[test]
    fn answers_end_where_their_framing_says() {
        let fixed = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP";
        check(fixed, false, Some((b"abc", fixed.len() - 4)));
        check(&fixed[..fixed.len() - 5], false, None);
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\nA: b\r\n\r\n";
        check(chunked, false, Some((b"abcd", chunked.len())));
        check(&chunked[..chunked.len() - 2], false, None);
        let until_close = b"HTTP/1.1 200 OK\r\n\r\nabc";
        check(until_close, false, None);
        check(until_close, true, Some((b"abc", until_close.len())));
    }
}
