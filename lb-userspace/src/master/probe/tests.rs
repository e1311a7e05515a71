//! Probes against local sockets.

#![expect(clippy::disallowed_types, reason = "the tests listen")]

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;

/// A server that answers every connection with these bytes and sends what it read.
async fn server(answer: &'static str) -> (Address, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            let _ = sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (Address::Tcp(address), requests)
}

fn http(path: &str, status: &[u16]) -> ProbeKind {
    ProbeKind::Http { path: path.into(), host: None, status: status.to_vec() }
}

async fn check(answer: &'static str, status: &[u16], expect: Result<(), &str>) {
    let (address, _requests) = server(answer).await;
    let result = once(&http("/health", status), &address, Duration::from_secs(5)).await;
    assert_eq!(result, expect.map_err(str::to_owned), "{answer:?}");
}

#[tokio::test]
async fn status_decides() {
    check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", &[], Ok(())).await;
    check("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", &[], Ok(())).await;
    check("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", &[], Err("status 503")).await;
    check("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", &[503], Ok(())).await;
    check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", &[204], Err("status 200")).await;
    check("", &[], Err("closed without an answer")).await;
}

#[tokio::test]
async fn answer_that_is_not_http_fails() {
    let (address, _requests) = server("SSH-2.0-x\r\n").await;
    let error = once(&http("/", &[]), &address, Duration::from_secs(5)).await.unwrap_err();
    assert!(error.starts_with("answer is not HTTP"), "{error}");
}

#[tokio::test]
async fn request_names_host_and_prober() {
    let (address, mut requests) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    once(&http("/health?full=1", &[]), &address, Duration::from_secs(5)).await.unwrap();
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("GET /health?full=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
    assert!(request.contains("user-agent: lbctl-probe/"), "{request}");
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let address = crate::free_port::at("127.0.0.1".parse().unwrap());
    let listener = TcpListener::bind(address).await.unwrap();
    let address = Address::Tcp(address);
    once(&ProbeKind::Tcp, &address, Duration::from_secs(5)).await.unwrap();
    drop(listener);
    let error = once(&ProbeKind::Tcp, &address, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, format!("connect {address}: connection refused"));
}

#[tokio::test]
async fn unix_socket_is_asked_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    once(&http("/", &[]), &Address::Unix(path), Duration::from_secs(5)).await.unwrap();
    let missing = Address::Unix(Path::new("/nonexistent.sock").into());
    let error = once(&ProbeKind::Tcp, &missing, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, "connect unix:/nonexistent.sock: no such file or directory");
}

#[tokio::test]
async fn silence_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let error = once(&http("/", &[]), &address, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error, "timed out after 50ms");
}

#[tokio::test]
async fn probe_repeats_is_hurried_and_goes_stale_when_replaced() {
    let (address, _requests) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (inbox, mut inputs) = tokio::sync::mpsc::channel(64);
    let mut probes = Probes::new(inbox);
    let plan = |every: u64, first: u64| Plan {
        kind: http("/", &[]),
        address: address.clone(),
        every: Duration::from_millis(every),
        first: Duration::from_millis(first),
        timeout: Duration::from_secs(5),
    };
    let (instance, role) = (InstanceId(1), ProbeRole::Startup);
    probes.start(instance, role, plan(60_000, 1));
    for _ in 0..3 {
        let Some(Input::Probed { epoch, result, .. }) = inputs.recv().await else { panic!("no result") };
        assert_eq!(result, Ok(()));
        assert!(probes.is_current(instance, role, epoch));
    }
    // The next of its own would come after minutes.
    probes.start(instance, role, plan(600_000, 300_000));
    probes.now(instance, role);
    let hurried = tokio::time::timeout(Duration::from_secs(5), inputs.recv()).await.unwrap();
    let Some(Input::Probed { epoch, .. }) = hurried else { panic!("no result") };
    probes.stop(instance, role);
    assert!(!probes.is_current(instance, role, epoch));
}
