use std::path::PathBuf;

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// Runs `client` with a backend on a unix socket; `oneshot` ends the backend, and its end is waited for.
fn with_backend<F: Future<Output = ()>>(client: impl FnOnce(PathBuf, oneshot::Sender<()>) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.sock");
    let listen = format!("unix:{}", path.display());
    let arguments = Arguments::parse_from(["demo-backend", "--instance", "7", "--listen", &listen]);
    let (terminate, terminated) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let both = async {
        let backend = serve(&arguments, async { drop(terminated.await) });
        let (ended, ()) = tokio::join!(backend, client(path, terminate));
        ended.unwrap();
    };
    let in_time = async { tokio::time::timeout(Duration::from_secs(10), both).await };
    LocalSet::new().block_on(&runtime, in_time).expect("client and backend end");
}

/// Connects as soon as somebody listens.
async fn connect(path: &PathBuf) -> UnixStream {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Sends a GET; the answer ends with the connection.
async fn send(stream: &mut UnixStream, target: &str) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

async fn answer(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn a_request_in_progress_is_answered_before_the_end() {
    with_backend(|path, terminate| async move {
        let mut slow = connect(&path).await;
        send(&mut slow, "/slow?ms=50").await;
        let mut quick = connect(&path).await;
        send(&mut quick, "/requests").await;
        assert!(answer(quick).await.ends_with("2\n"), "both requests have arrived");
        terminate.send(()).unwrap();
        assert!(answer(slow).await.ends_with("instance 7 slept 50 ms\n"));
    });
}

#[test]
fn an_idle_connection_does_not_delay_the_end() {
    with_backend(|path, terminate| async move {
        let idle = connect(&path).await;
        // Accepted after the idle one, so its answer shows that both are.
        let mut later = connect(&path).await;
        send(&mut later, "/").await;
        answer(later).await;
        terminate.send(()).unwrap();
        assert_eq!(answer(idle).await, "");
    });
}

#[test]
fn the_listener_closes_and_opens_again() {
    with_backend(|path, terminate| async move {
        let mut asking = connect(&path).await;
        send(&mut asking, "/close-listener?for_ms=50").await;
        assert!(answer(asking).await.ends_with("closing\n"));
        while UnixStream::connect(&path).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let mut again = connect(&path).await;
        send(&mut again, "/").await;
        assert!(answer(again).await.contains("instance 7"));
        terminate.send(()).unwrap();
    });
}

#[test]
fn web_sockets_echo_and_are_told_of_the_end() {
    with_backend(|path, terminate| async move {
        let stream = connect(&path).await;
        let (mut socket, _) = tokio_tungstenite::client_async("ws://x/ws", stream).await.unwrap();
        socket.send(Message::text("hello")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));
        terminate.send(()).unwrap();
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else { panic!("no close frame") };
        assert_eq!(u16::from(frame.code), 1001);
    });
}
