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

/// A server whose loop answers everything with one line and `Done`, but nothing to those who follow.
fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(folder.path()).unwrap();
    let (inbox, mut inputs) = mpsc::channel(8);
    let audit = Arc::new(Audit::open(&audit_log(&run_dir)).unwrap());
    serve(&run_dir, audit, inbox).unwrap();
    tokio::spawn(async move {
        let mut following = Vec::new();
        while let Some(Input::Command(request)) = inputs.recv().await {
            if request.command.follows() {
                following.push(request.answers);
                continue;
            }
            let line =
                Answer::Line { instance: "docs:0".into(), stream: "stdout".into(), text: request.actor };
            request.answers.send(line).await.unwrap();
            request.answers.send(Answer::Done { lines: vec!["fine".into()] }).await.unwrap();
        }
    });
    House { run_dir, _folder: folder }
}

fn audit_log(run_dir: &RunDir) -> std::path::PathBuf {
    run_dir.audit_log(&crate::config::model::Log::default())
}

async fn connected(house: &House, line: &str) -> UnixStream {
    let mut stream = UnixStream::connect(house.run_dir.control_socket()).await.unwrap();
    stream.write_all(line.as_bytes()).await.unwrap();
    stream
}

async fn ask(house: &House, line: &str) -> String {
    let mut stream = connected(house, line).await;
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
    let audit = std::fs::read_to_string(audit_log(&house.run_dir)).unwrap();
    let stop = r#""command":"stop","names":["docs"],"now":false},"outcome":"#;
    let outcomes = audit.lines().map(|line| line.split_once(stop).unwrap().1).collect::<Vec<_>>();
    assert_eq!(outcomes, [r#""received"}"#, r#""done"}"#]);
    let mode = |path: std::path::PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(audit_log(&house.run_dir)), 0o600);
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

#[tokio::test]
async fn those_who_follow_leave_room_for_others() {
    let house = house();
    let follow = request(Command::Events { last: 0, follow: true });
    let mut following = Vec::new();
    for _ in 0..CONTROL_FOLLOWERS_MAX {
        following.push(connected(&house, &follow).await);
    }
    // The server has taken them when it refuses one more.
    let refused = async {
        loop {
            let mut stream = connected(&house, &follow).await;
            let mut answer = [0; 4096];
            let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut answer)).await;
            let Ok(Ok(length)) = read else { continue };
            return String::from_utf8_lossy(&answer[..length]).into_owned();
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert!(refused.contains("busy: 32 others follow"), "{refused}");
    assert!(ask(&house, &request(Command::Status { names: vec![] })).await.contains("fine"));
}

#[tokio::test]
async fn who_comes_when_all_places_are_taken_is_told_so() {
    let house = house();
    let mut silent = Vec::new();
    for _ in 0..CONTROL_CONNECTIONS_MAX {
        silent.push(UnixStream::connect(house.run_dir.control_socket()).await.unwrap());
    }
    let answer = ask(&house, "").await;
    assert!(answer.contains("busy: the master answers 128 others"), "{answer}");
}
