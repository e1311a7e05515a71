//! An http probe: one GET on a connection of its own; the head of the answer decides.
//!
//! Effectful: talks to backends.

use ::http::{Request, header};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;

use super::connect::{self, in_words};
use crate::config::model::Address;

/// Bytes of an answer's head. hyper allows no less than 8 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Asks for `path`. Passes with one of `expected`, or with 200–399 where none is named.
///
/// # Errors
/// `connect …`, `status 503`, `answer is not HTTP: …`.
pub async fn get(address: &Address, path: &str, host: Option<&str>, expected: &[u16]) -> Result<(), String> {
    let connection = connect::connect(address).await?;
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(connection))
        .await;
    let (mut sender, driver) = handshake.map_err(|error| describe(&error))?;
    let request = request(address, path, host)?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // The connection has handed over what it got, an error too, before it ends.
        _ = driver => answer.await,
    };
    let answer = answer.map_err(|error| describe(&error))?;
    let status = answer.status().as_u16();
    let passes = if expected.is_empty() { (200..400).contains(&status) } else { expected.contains(&status) };
    if passes { Ok(()) } else { Err(format!("status {status}")) }
}

fn request(address: &Address, path: &str, host: Option<&str>) -> Result<Request<Empty<Bytes>>, String> {
    let of_address = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".into(),
    };
    Request::get(path)
        .header(header::HOST, host.unwrap_or(&of_address))
        .header(header::USER_AGENT, concat!("lbctl-probe/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("request {path}: {error}"))
}

fn describe(error: &hyper::Error) -> String {
    use std::error::Error;
    if error.is_parse() {
        return format!("answer is not HTTP: {error}");
    }
    if error.is_incomplete_message() {
        return "closed without an answer".into();
    }
    let cause = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.map_or_else(|| error.to_string(), |cause| format!("read answer: {}", in_words(cause)))
}
