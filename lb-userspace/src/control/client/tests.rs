use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;

/// A master that reads one request and answers `lines`; joins to the request.
fn master(run_dir: &Path, lines: &'static [u8]) -> JoinHandle<Request> {
    let listener = UnixListener::bind(run_dir.join(SOCKET_NAME)).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(lines).unwrap();
        serde_json::from_str(&line).unwrap()
    })
}

#[test]
fn the_request_carries_version_and_command() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), b"");
    let command = Command::Stop { names: vec!["docs".into()], now: true };
    Client::ask(folder.path(), command.clone()).unwrap();
    assert_eq!(master.join().unwrap(), Request { version: PROTOCOL_VERSION, command });
}

#[test]
fn heartbeats_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let master =
        master(folder.path(), b"{\"answer\":\"more\"}\n{\"answer\":\"done\",\"body\":{\"lines\":[\"a\"]}}\n");
    let mut client = Client::ask(folder.path(), Command::Reload).unwrap();
    assert_eq!(client.next_answer().unwrap(), Some(Answer::Done { lines: vec!["a".into()] }));
    assert_eq!(client.next_answer().unwrap(), None);
    master.join().unwrap();
}

#[test]
fn half_a_line_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let master = master(folder.path(), b"{\"answer\":");
    let mut client = Client::ask(folder.path(), Command::Reload).unwrap();
    assert!(matches!(client.next_answer(), Err(ClientError::Malformed(_))));
    master.join().unwrap();
}

#[test]
fn master_that_ends_before_the_last_answer_is_an_error() {
    let line = br#"{"answer":"line","body":{"instance":"a","stream":"stdout","text":"b"}}"#;
    for lines in [&b""[..], b"{\"answer\":\"more\"}\n", &[&line[..], b"\n"].concat().leak()[..]] {
        let folder = tempfile::tempdir().unwrap();
        let master = master(folder.path(), lines);
        let mut client = Client::ask(folder.path(), Command::Reload).unwrap();
        let mut answers = std::iter::repeat_with(|| client.next_answer());
        let last = answers.find(|answer| !matches!(answer, Ok(Some(_))));
        assert!(matches!(last, Some(Err(ClientError::Ended))), "{last:?}");
        master.join().unwrap();
    }
}

#[test]
fn only_root_and_oneself_are_believed_to_be_the_master() {
    assert!(is_trusted(0, 1000) && is_trusted(1000, 1000) && is_trusted(1000, 0));
    assert!(!is_trusted(1001, 1000));
}

#[test]
fn nobody_there_says_what_to_do() {
    let error = Client::ask(Path::new("/nonexistent"), Command::Reload).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot reach the master at /nonexistent/control.sock: is it running?"),
        "{error}"
    );
    assert!(error.contains("start it with \"lbctl up\""), "{error}");
}

#[test]
fn a_socket_without_a_listener_is_nobody_there() {
    let folder = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(folder.path().join(SOCKET_NAME)).unwrap());
    assert!(matches!(Client::ask(folder.path(), Command::Reload), Err(ClientError::NotThere(_))));
}
