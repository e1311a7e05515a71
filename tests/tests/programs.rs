//! Supervised programs: how they start, end, fail, wait for each other, and where their output goes.

use std::path::Path;
use std::time::Duration;

use lb_tests::config;
use lb_tests::control::StatusExt;
use lb_tests::http1::get;
use lb_tests::lb::Setup;
use lb_tests::port;
use lb_tests::process::{Process, cgroup, descendants, signal};
use lb_tests::tracer::{Keeps, Tracer};
use lb_tests::wait::until;
use lb_userspace::control::protocol::{ProcessState, StatusReport};
use lb_userspace::state::event::Ending;
use rustix::process::Signal;

const SECOND: Duration = Duration::from_secs(1);

/// Programs without traffic.
fn only_programs(programs: &str) -> String {
    format!("[metrics]\nbind = \"\"\n{programs}")
}

/// Whether the worker serves and the instance is in this state.
fn is(status: &StatusReport, name: &str, state: ProcessState) -> bool {
    status.instance(name).process_state == state
}

#[test]
fn exit_codes_and_signals_lead_to_the_documented_states() {
    let text = only_programs(
        r#"
[program.done]
command = "sh -c 'exit 0'"
autorestart = "on-failure"
[program.never]
command = "sh -c 'echo good bye >&2; exit 7'"
autorestart = "never"
[program.fatal]
command = "sh -c 'exit 3'"
start_retries = 2
[program.missing]
command = "/no/such/program"
start_retries = 1
[program.idle]
command = "sleep 1000"
autostart = false
"#,
    );
    let lb = Setup::default().start_unready(&text);
    let status = lb.wait_status(20 * SECOND, "each program has come to its end", |status| {
        is(status, "done:0", ProcessState::Exited)
            && is(status, "never:0", ProcessState::Exited)
            && is(status, "fatal:0", ProcessState::Fatal)
            && is(status, "missing:0", ProcessState::Fatal)
            && is(status, "idle:0", ProcessState::Stopped)
    });
    assert_eq!(status.instance("done:0").ending, Some(Ending::Code(0)));
    assert_eq!(status.instance("never:0").ending, Some(Ending::Code(7)));
    assert_eq!(status.instance("never:0").last_line.as_deref(), Some("good bye"));
    assert_eq!(status.instance("fatal:0").ending, Some(Ending::Code(3)));
    assert!(
        status.instance("missing:0").reason.contains("No such file"),
        "{:?}",
        status.instance("missing:0")
    );
    lb.succeed(&["start", "idle"]);
    assert!(is(&lb.status(), "idle:0", ProcessState::Running));
    lb.stop();
}

#[test]
fn program_that_keeps_failing_waits_longer_each_time() {
    let setup = Setup::default();
    let file = setup.folder().join("starts");
    let text = only_programs(&format!(
        "[program.fails]\ncommand = \"sh -c 'date +%s%N >> {}; exit 1'\"\n",
        file.display()
    ));
    let lb = setup.start_unready(&text);
    let starts = until(20 * SECOND, "four starts", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Some(text.lines().map(|line| line.parse::<u64>().unwrap()).collect::<Vec<_>>())
            .filter(|starts| starts.len() >= 4)
    });
    let waits: Vec<u64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1_000_000).collect();
    assert!(waits[0] >= 400, "restarted after {waits:?} ms");
    assert!(waits[2] > waits[0], "{waits:?} ms");
    assert!(matches!(
        lb.status().instance("fails:0").process_state,
        ProcessState::Backoff | ProcessState::Starting
    ));
    lb.stop();
}

#[test]
fn dependents_start_after_what_they_depend_on() {
    let (setup, port) = (Setup::default(), port::free());
    let order = setup.folder().join("order");
    let log = |name: &str| format!("sh -c 'echo {name} >> {}; exec sleep 1000'", order.display());
    let text = config::demo(
        port,
        1,
        &format!(
            r#"
[program.last]
command = "{}"
depends_on = {{ first = "started", demo = "healthy", job = "completed" }}
[program.first]
command = "{}"
[program.job]
command = "sh -c 'sleep 0.3; echo job >> {}'"
autorestart = "never"
"#,
            log("last"),
            log("first"),
            order.display()
        ),
    );
    let lb = setup.start_unready(&text);
    let lines = until(15 * SECOND, "all have started", || {
        let text = std::fs::read_to_string(&order).unwrap_or_default();
        Some(text.lines().map(str::to_owned).collect::<Vec<_>>()).filter(|lines| lines.len() == 3)
    });
    assert_eq!(lines, ["first", "job", "last"]);
    lb.stop();
}

#[test]
fn memory_hog_is_ended_by_its_limit_and_said_to_be() {
    let setup = Setup::default();
    let text = only_programs(
        "[program.hog]\ncommand = \"sh -c 'sleep 0.2; head -c 400000000 /dev/zero | tail'\"\nautorestart = \"never\"\nlimits = { memory = \"32MiB\" }\n",
    );
    let lb = setup.start_unready(&text);
    let memory_is_controlled = {
        let doctor = lb.succeed(&["doctor"]);
        println!("{doctor}");
        cgroup(lb.status().workers[0].pid)
            .and_then(|leaf| std::fs::read_to_string(leaf.parent()?.join("cgroup.controllers")).ok())
            .is_some_and(|controllers| controllers.contains("memory"))
    };
    let status =
        lb.wait_status(20 * SECOND, "the hog has ended", |status| is(status, "hog:0", ProcessState::Exited));
    if memory_is_controlled {
        assert_eq!(status.instance("hog:0").ending, Some(Ending::OutOfMemory));
    }
    lb.stop();
}

#[test]
fn children_of_a_program_end_with_it() {
    let setup = Setup::default();
    let text = only_programs(
        "[program.family]\ncommand = \"sh -c 'sleep 1000 & sleep 1000 & wait'\"\nstop = { kill_after = \"1s\" }\n",
    );
    let lb = setup.start_unready(&text);
    let status =
        lb.wait_status(5 * SECOND, "it runs", |status| is(status, "family:0", ProcessState::Running));
    let pid = status.instance("family:0").pid.unwrap();
    let family = until(5 * SECOND, "its children run", || {
        Some(lb_tests::process::descendants(pid)).filter(|children| children.len() == 2)
    });
    lb.succeed(&["stop", "family"]);
    until(5 * SECOND, "its children have ended", || {
        family.iter().all(|child| !child.is_alive()).then_some(())
    });
    lb.stop();
}

#[test]
fn program_that_ignores_its_stop_signal_is_killed() {
    let setup = Setup::default();
    let text = only_programs(
        "[program.stubborn]\ncommand = \"sh -c 'trap \\\"\\\" TERM; while :; do sleep 0.1; done'\"\nstop = { kill_after = \"500ms\" }\n",
    );
    let lb = setup.start_unready(&text);
    lb.wait_status(5 * SECOND, "it runs", |status| is(status, "stubborn:0", ProcessState::Running));
    // Time to have set its trap.
    std::thread::sleep(Duration::from_millis(300));
    lb.succeed(&["stop", "stubborn"]);
    let status = lb.status();
    assert_eq!(status.instance("stubborn:0").process_state, ProcessState::Stopped);
    assert_eq!(status.instance("stubborn:0").ending, Some(Ending::Signal(9)));
    lb.stop();
}

#[test]
fn output_of_a_chatty_program_is_captured_rotated_and_never_blocks_it() {
    let setup = Setup::default();
    let (log, done) = (setup.folder().join("chatty.log"), setup.folder().join("done"));
    let text = only_programs(&format!(
        r#"
[program.chatty]
command = "sh -c 'seq 1 300000; sleep 0.5; echo that was it >&2; touch {}; exec sleep 1000'"
log = {{ stdout = "{}", rotate = "200KiB", keep = 2 }}
"#,
        done.display(),
        log.display()
    ));
    let lb = setup.start_unready(&text);
    until(20 * SECOND, "the program has written everything", || done.exists().then_some(()));
    until(30 * SECOND, "the end is in the file", || {
        std::fs::read_to_string(&log).unwrap_or_default().ends_with("300000\n").then_some(())
    });
    let files: Vec<(String, u64)> = log_files(lb.folder(), "chatty.log");
    assert_eq!(files.len(), 3, "the file and two rotated ones: {files:?}");
    assert!(files.iter().all(|(_, bytes)| *bytes <= 300 * 1024), "{files:?}");
    let tail = lb.succeed(&["logs", "-n", "5", "chatty"]);
    assert!(tail.contains("300000") || tail.contains("that was it"), "{tail}");
    assert!(lb.succeed(&["logs", "-n", "50", "chatty"]).contains("that was it"));
    lb.stop();
}

fn log_files(folder: &Path, prefix: &str) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), entry.metadata().expect("it is there").len())
        })
        .collect()
}

#[test]
fn program_runs_as_its_user_in_its_folder_with_its_environment_and_nothing_else() {
    let setup = Setup::default();
    let out = setup.folder().join("out");
    std::fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(65_534), Some(65_534)).expect("needs root: run `cargo xtask test`");
    let (file, folder) = (out.join("said"), out.display().to_string());
    let text = only_programs(&format!(
        r#"
[program.said]
command = "sh -c 'echo $(id -u) $(pwd) $COLOUR $INSTANCE $(umask) $(ls /proc/self/fd | wc -l) > {0}.new; mv {0}.new {0}; exec sleep 1000'"
user = "nobody"
directory = "{folder}"
umask = "027"
environment = {{ COLOUR = "green" }}
"#,
        file.display()
    ));
    // `$` belongs to the shell here, except for the two that are filled in.
    let text = text.replace("$(", "$$(").replace("$COLOUR", "$$COLOUR");
    let lb = setup.start_unready(&text);
    let said = until(10 * SECOND, "it has said so", || std::fs::read_to_string(&file).ok());
    // `ls` itself holds 0, 1, 2 and the folder that it lists.
    assert_eq!(said.trim(), format!("65534 {folder} green 0 0027 4"));
    lb.stop();
}

#[test]
fn liveness_failure_replaces_the_instance() {
    let port = port::free();
    let extra = r#"liveness = { http = "/fail", every = "200ms", timeout = "1s", down_after = 2 }"#;
    let lb = Setup::default().start_unready(&config::demo(port, 2, extra));
    let status =
        lb.wait_status(10 * SECOND, "it has been started", |status| status.instance("demo:0").pid.is_some());
    let first = status.instance("demo:0").instance;
    lb.wait_status(20 * SECOND, "another instance", |status| status.instance("demo:0").instance > first);
    assert!(lb.events().iter().any(|event| event.cause.contains("liveness")), "{:?}", lb.events());
    lb.stop();
}

#[test]
fn instances_on_unix_sockets_are_backends_too() {
    let (setup, port) = (Setup::default(), port::free());
    let path = format!("unix:{}/demo-$INSTANCE.sock", setup.folder().display());
    let command = config::demo_command().replace("--port $PORT", &format!("--listen {path}"));
    let text = config::demo(port, 2, "").replace(&config::demo_command(), &command);
    // Workers are another user than the program: its socket must be open to them.
    let lb = setup.start(&text.replace("\"127.0.0.1:0\"", &format!("\"{path}\"\numask = \"000\"")));
    let mut answers: Vec<String> = (0..6).map(|_| get(([127, 0, 0, 1], port), "/").unwrap().text()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 2, "{answers:?}");
    let pid = lb.status().instance("demo:0").pid.unwrap();
    std::thread::sleep(SECOND + SECOND / 5);
    signal(pid, Signal::KILL);
    for _ in 0..20 {
        assert_eq!(get(([127, 0, 0, 1], port), "/").unwrap().status, 200);
    }
    lb.wait_ready();
    // One that is killed cannot remove its socket file itself.
    lb.succeed(&["stop", "demo:1", "--now"]);
    assert!(!Path::new(&path[5..].replace("$INSTANCE", "1")).exists());
    lb.stop();
}

#[test]
fn killed_process_is_told_as_exited_and_not_as_one_that_closed_its_listener() {
    let lb = Setup::default().start(&config::demo(port::free(), 1, ""));
    let pid = lb.status().instance("demo:0").pid.unwrap();
    signal(pid, Signal::KILL);
    lb.wait_status(20 * SECOND, "another process", |status| {
        lb_tests::lb::is_ready(status) && status.instance("demo:0").pid != Some(pid)
    });
    let events = lb.events();
    let of =
        |what: &str| events.iter().filter(|event| event.subject == "demo:0" && event.what == what).count();
    assert_eq!((of("process exited"), of("listener closed")), (1, 0), "{events:#?}");
    lb.stop();
}

#[test]
fn ended_process_that_a_debugger_holds_does_not_hold_the_master() {
    let text = only_programs("[program.held]\ncommand = \"sleep 1000\"\nautorestart = \"never\"\n");
    let lb = Setup::default().start_unready(&text);
    let status = lb.wait_status(5 * SECOND, "it runs", |status| is(status, "held:0", ProcessState::Running));
    let pid = status.instance("held:0").pid.unwrap();
    let tracer = Tracer::of(pid, Keeps::Unreaped);
    signal(pid, Signal::KILL);
    lb.wait_status(10 * SECOND, "it counts as ended", |status| is(status, "held:0", ProcessState::Exited));
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "it was reaped: nothing was tested");
    drop(tracer);
    until(5 * SECOND, "it is reaped", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    lb.stop();
}

#[test]
fn process_that_cannot_be_killed_is_left_behind_after_a_second_signal() {
    let text = only_programs("[program.stuck]\ncommand = \"sleep 1000\"\n");
    let mut lb = Setup::default().start_unready(&text);
    let status = lb.wait_status(5 * SECOND, "it runs", |status| is(status, "stuck:0", ProcessState::Running));
    let tracer = Tracer::of(status.instance("stuck:0").pid.unwrap(), Keeps::Unended);
    lb.note_holdings();
    signal(lb.pid(), Signal::TERM);
    std::thread::sleep(SECOND / 2);
    signal(lb.pid(), Signal::TERM);
    assert_eq!(lb.wait_end(20 * SECOND).code(), Some(1));
    assert!(lb.complaints().contains("left=\"stuck:0 pid "), "{}", lb.complaints());
    drop(tracer);
    lb.start_again();
    assert_eq!(lb.status().instances.len(), 1);
    lb.stop();
}

/// The process that keeps output pipes.
fn keeper(lb: &lb_tests::lb::Lb) -> Option<Process> {
    descendants(lb.pid()).into_iter().find(|process| process.command_line() == "lbctl __output")
}

#[test]
fn killed_master_blocks_no_program_that_writes() {
    let setup = Setup::default();
    let (go, done) = (setup.folder().join("go"), setup.folder().join("done"));
    let script = format!(
        "while ! test -e {}; do sleep 0.05; done; head -c 2097152 /dev/zero; head -c 2097152 /dev/zero >&2; touch {}; exec sleep 1000",
        go.display(),
        done.display()
    );
    let text = only_programs(&format!("[program.chatty]\ncommand = \"sh -c '{script}'\"\n"));
    let mut lb = setup.start_unready(&text);
    lb.wait_status(5 * SECOND, "it runs", |status| is(status, "chatty:0", ProcessState::Running));
    // One that comes later is told of pipes that were there before.
    let first = until(5 * SECOND, "there is a keeper", || keeper(&lb));
    signal(first.pid, Signal::KILL);
    until(10 * SECOND, "there is another", || keeper(&lb).filter(|each| *each != first));
    lb.kill_master();
    std::fs::write(&go, "").unwrap();
    until(10 * SECOND, "it has written four megabytes", || done.exists().then_some(()));
    lb.start_again();
    lb.stop();
}
