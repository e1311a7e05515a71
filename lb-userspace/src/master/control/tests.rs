//! The server against real clients, with a loop that answers by itself.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::*;
use crate::control::protocol::{Answer, Command, Request};
use crate::master::inbox::Input;

struct House {
    run_dir: RunDir,
    _folder: tempfile::TempDir,
}

/// A server whose loop answers everything with one line and `Done`.
fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path()).unwrap();
    let (inbox, mut inputs) = mpsc::channel(8);
    serve(&run_dir, inbox).unwrap();
    tokio::spawn(async move {
        while let Some(Input::Command(request)) = inputs.recv().await {
            let line =
                Answer::Line { instance: "docs:0".into(), stream: "stdout".into(), text: request.actor };
            request.answers.send(line).await.unwrap();
            request.answers.send(Answer::Done { lines: vec!["fine".into()] }).await.unwrap();
        }
    });
    House { run_dir, _folder: folder }
}

async fn ask(house: &House, line: &str) -> String {
    let mut stream = UnixStream::connect(house.run_dir.control_socket()).await.unwrap();
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn request(command: Command) -> String {
    serde_json::to_string(&Request { version: 1, command }).unwrap() + "\n"
}

#[tokio::test]
async fn answers_come_as_lines_and_acts_are_audited() {
    let house = house();
    let answer = ask(&house, &request(Command::Stop { names: vec!["docs".into()], now: false })).await;
    let lines = answer.lines().map(|line| serde_json::from_str::<Answer>(line).unwrap()).collect::<Vec<_>>();
    assert_eq!(lines[1], Answer::Done { lines: vec!["fine".into()] });
    assert!(
        matches!(&lines[0], Answer::Line { text, .. } if text.contains(&format!("pid={}", std::process::id())))
    );
    ask(&house, &request(Command::Status { names: vec![] })).await;
    let audit = std::fs::read_to_string(house.run_dir.audit_log()).unwrap();
    assert_eq!(audit.lines().count(), 1, "{audit}");
    assert!(
        audit.contains(r#""command":"stop","names":["docs"]"#) && audit.contains(r#""outcome":"done""#),
        "{audit}"
    );
    let mode = |path: std::path::PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(house.run_dir.audit_log()), 0o600);
    assert_eq!(mode(house.run_dir.control_socket()), 0o600);
}

#[tokio::test]
async fn other_versions_and_nonsense_are_refused() {
    let house = house();
    assert!(
        ask(&house, "{\"version\":2,\"command\":{\"command\":\"new\"}}\n")
            .await
            .contains(r#""kind":"version""#)
    );
    assert!(
        ask(&house, "{\"version\":1,\"command\":{\"command\":\"new\"}}\n").await.contains("unknown variant")
    );
    assert!(ask(&house, "hello\n").await.contains(r#""kind":"version""#));
    let endless = "x".repeat(crate::limits::CONTROL_REQUEST_BYTES_MAX);
    assert!(ask(&house, &endless).await.contains("too long"));
}
