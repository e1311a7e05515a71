//! `lbctl demo-backend`: a small HTTP server with which the demonstration and the tests play. Opens sockets and waits.
//!
//! It starts in about two milliseconds, uses no processor time while idle, and ends at SIGTERM when it has answered what it was asked.

mod answer;
mod arguments;
mod listen;
mod web_socket;

use std::cell::Cell;
use std::convert::Infallible;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use arguments::Arguments;
use listen::{Listener, Stream};

/// What all connections of one backend share.
#[derive(Clone)]
struct Shared {
    /// Which instance this is, for the answers.
    instance: Rc<str>,
    /// Becomes true at SIGTERM.
    ending: watch::Receiver<bool>,
    /// Asks the accept loop to close the listening socket for a while (`None`: for good).
    close: mpsc::Sender<Option<Duration>>,
    /// Held by each connection and tunnel: the process ends when all are dropped.
    _working: mpsc::Sender<Infallible>,
    /// Requests answered.
    requests: Rc<Cell<u64>>,
}

/// The whole life of the process.
pub fn main() -> ExitCode {
    let arguments = <Arguments as clap::Parser>::parse_from(std::env::args_os().skip(1));
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-backend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGTERM.
fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        serve(arguments, async { terminate.recv().await.unwrap_or_default() }).await
    })
}

/// Serves until `terminate` is ready, then lets what is in progress finish.
async fn serve(arguments: &Arguments, terminate: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (ended, ending) = watch::channel(false);
    let (close, closing) = mpsc::channel(1);
    let (working, mut all_done) = mpsc::channel(1);
    let instance = arguments.instance.as_str().into();
    let shared = Shared { instance, ending, close, _working: working, requests: Rc::default() };
    tokio::select! {
        result = accept(shared, closing, arguments) => return result,
        () = terminate => {}
    }
    ended.send_replace(true);
    // Ends when the last connection has dropped its `Shared`.
    all_done.recv().await;
    println!("demo-backend {} pid={} stopped", arguments.instance, std::process::id());
    Ok(())
}

/// Waits its start delay, then accepts connections, with a pause when one of them asks for it.
async fn accept(
    shared: Shared,
    mut closing: mpsc::Receiver<Option<Duration>>,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    listen::pause(arguments.start_delay()).await;
    loop {
        let listener = Listener::bind(arguments)?;
        let (name, pid) = (&arguments.instance, std::process::id());
        println!("demo-backend {name} pid={pid} listening on {}", arguments.place());
        let for_how_long = tokio::select! {
            never = accept_on(&listener, &shared) => match never {},
            asked = closing.recv() => asked.flatten(),
        };
        drop(listener);
        match for_how_long {
            Some(span) => listen::pause(span).await,
            None => std::future::pending().await,
        }
    }
}

/// Accepts connections for ever.
async fn accept_on(listener: &Listener, shared: &Shared) -> Infallible {
    loop {
        match listener.accept().await {
            Ok(stream) => drop(tokio::task::spawn_local(connection(stream, shared.clone()))),
            // A full descriptor table passes; nothing is gained by ending.
            Err(_) => listen::pause(Duration::from_millis(10)).await,
        }
    }
}

/// Serves one connection until the peer, or SIGTERM, ends it.
async fn connection(stream: Stream, shared: Shared) {
    let mut ending = shared.ending.clone();
    let service = service_fn(move |request| answer::answer(request, shared.clone()));
    let connection = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection.with_upgrades());
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ending.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(test)]
mod tests;
