//! The node as an operator meets it: start, stop, kill, reload, commands, without root.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lb_tests::config;
use lb_tests::control::StatusExt;
use lb_tests::http1::get;
use lb_tests::lb::{Lb, Setup};
use lb_tests::load::{Load, Plan};
use lb_tests::port;
use lb_tests::process::{descendants, resident_bytes, signal};
use lb_tests::wait::until;
use lb_userspace::control::protocol::{Command, ProcessState};
use rustix::process::Signal;

const SECOND: Duration = Duration::from_secs(1);

fn local(port: u16) -> ([u8; 4], u16) {
    ([127, 0, 0, 1], port)
}

#[test]
fn sigterm_lets_requests_finish_and_leaves_nothing_behind() {
    let port = port::free();
    let mut lb = Lb::start(&config::demo(port, 3, ""));
    lb.note_holdings();
    assert!(lb.holdings().processes().len() >= 4, "{:?}", lb.holdings());
    assert!(!lb.holdings().cgroups().is_empty(), "needs root and cgroup v2: run `cargo xtask test`");
    let slow = std::thread::spawn(move || get(local(port), "/slow?ms=700"));
    until(5 * SECOND, "the slow request is in progress", || {
        lb.status().instances.iter().any(|instance| instance.active > 0).then_some(())
    });
    signal(lb.pid(), Signal::TERM);
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert!(lb.wait_end(10 * SECOND).success());
    assert_eq!(lb.holdings().left(), Vec::<String>::new());
    assert!(get(local(port), "/").is_err(), "something still listens");
}

#[test]
fn second_sigterm_ends_at_once() {
    let port = port::free();
    let text = config::demo(port, 1, "").replace("drain_timeout = \"2s\"", "drain_timeout = \"60s\"");
    let mut lb = Lb::start(&text);
    lb.note_holdings();
    let slow = std::thread::spawn(move || get(local(port), "/slow?ms=15000"));
    until(5 * SECOND, "the slow request is in progress", || {
        (lb.status().instance("demo:0").active > 0).then_some(())
    });
    signal(lb.pid(), Signal::TERM);
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    signal(lb.pid(), Signal::TERM);
    lb.wait_end(5 * SECOND);
    assert!(begun.elapsed() < 3 * SECOND, "took {:?}", begun.elapsed());
    assert_eq!(lb.holdings().left(), Vec::<String>::new());
    assert!(slow.join().unwrap().is_err());
}

#[test]
fn killed_master_leaves_the_data_path_and_the_next_up_takes_over() {
    let port = port::free();
    let mut lb = Lb::start(&config::demo(port, 2, ""));
    let old: Vec<Option<u32>> = lb.status().instances.iter().map(|instance| instance.pid).collect();
    lb.kill_master();
    // Worker and instances go on.
    for _ in 0..20 {
        assert_eq!(get(local(port), "/").unwrap().status, 200);
    }
    lb.start_again();
    let status = lb.wait_ready();
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    let new: Vec<Option<u32>> = status.instances.iter().map(|instance| instance.pid).collect();
    assert_eq!(new.len(), 2);
    let before = lb.holdings().processes().to_vec();
    let adopted = new == old;
    if !adopted {
        until(5 * SECOND, "the old processes have ended", || {
            before.iter().all(|process| !process.is_alive()).then_some(())
        });
    }
    lb.stop();
}

#[test]
fn client_fails_when_the_master_is_killed_and_not_when_it_ends() {
    let mut lb = Lb::start(&config::demo(port::free(), 1, ""));
    let follow = |lb: &Lb| {
        let mut client = lb.command(&["events", "-f", "-n", "1"]).stdout(Stdio::piped()).spawn().unwrap();
        // Its first byte: the master answers it.
        client.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        client
    };
    let mut client = follow(&lb);
    lb.kill_master();
    assert_eq!(client.wait().unwrap().code(), Some(1));
    lb.start_again();
    lb.wait_ready();
    let mut client = follow(&lb);
    lb.stop();
    assert_eq!(client.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_during_the_start_are_not_lost() {
    let setup = Setup::default();
    let lock = setup.folder().join("run/lock");
    let mut lb = setup.spawn(&config::demo(port::free(), 1, ""));
    until(5 * SECOND, "the start has begun", || lock.exists().then_some(()));
    signal(lb.pid(), Signal::HUP);
    signal(lb.pid(), Signal::USR1);
    lb.wait_answering();
    lb.wait_ready();
    let audit = std::fs::read_to_string(lb.run_dir().join("audit.log")).unwrap();
    assert!(audit.contains(r#""signal":"SIGHUP","outcome":"received""#), "{audit}");
    signal(lb.pid(), Signal::TERM);
    assert!(lb.wait_end(10 * SECOND).success());

    let setup = Setup::default();
    let lock = setup.folder().join("run/lock");
    let mut lb = setup.spawn(&config::demo(port::free(), 1, ""));
    until(5 * SECOND, "the start has begun", || lock.exists().then_some(()));
    signal(lb.pid(), Signal::TERM);
    assert!(lb.wait_end(10 * SECOND).success());
}

#[test]
fn start_that_fails_leaves_what_a_killed_master_left_serving() {
    let port = port::free();
    let text = config::demo(port, 1, "");
    let mut lb = Lb::start(&text);
    lb.kill_master();
    lb.write_config(&format!("[log]\naccess = \"/proc/no-such-folder/access.log\"\n{text}"));
    let output = lb.lbctl(&["up"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && complaint.contains("access.log"), "{complaint}");
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    lb.write_config(&text);
    lb.start_again();
    lb.wait_ready();
    lb.stop();
}

#[test]
fn reload_while_everything_drains_is_refused() {
    let port = port::free();
    let text = config::demo(port, 1, "").replace("drain_timeout = \"2s\"", "drain_timeout = \"20s\"");
    let mut lb = Lb::start(&text);
    let slow = std::thread::spawn(move || get(local(port), "/slow?ms=2000"));
    until(5 * SECOND, "the slow request is in progress", || {
        (lb.status().instance("demo:0").active > 0).then_some(())
    });
    signal(lb.pid(), Signal::TERM);
    until(5 * SECOND, "the listener is closed", || get(local(port), "/").is_err().then_some(()));
    let output = lb.lbctl(&["reload"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("lbctl is ending"), "{complaint}");
    signal(lb.pid(), Signal::HUP);
    std::thread::sleep(SECOND / 5);
    assert!(get(local(port), "/").is_err(), "a signal opened the listener again");
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    assert!(lb.wait_end(10 * SECOND).success());
}

#[test]
fn worker_gets_thousands_of_listening_sockets() {
    let port = port::free();
    let binds: Vec<String> = (1..=250).map(|host| format!("\"127.0.1.{host}:{port}\"")).collect();
    let text = config::demo(port, 1, "").replace(&format!("\"127.0.0.1:{port}\""), &binds.join(", "));
    let lb = Lb::start(&format!("[node]\nworker_threads = 20\n{text}"));
    let status = lb.status();
    assert_eq!(status.workers[0].generation, 0, "workers were killed: {:?}", status.workers);
    assert_eq!(get(([127, 0, 1, 250], port), "/").unwrap().status, 200);
    lb.stop();
}

#[test]
fn two_nodes_run_side_by_side_by_run_folder() {
    let (one, two) = (port::free(), port::free());
    let (first, second) = (Lb::start(&config::demo(one, 1, "")), Lb::start(&config::demo(two, 1, "")));
    assert_eq!(get(local(one), "/").unwrap().status, 200);
    first.stop();
    assert_eq!(get(local(two), "/").unwrap().status, 200);
    assert_eq!(second.status().instance("demo:0").process_state, ProcessState::Running);
    second.stop();
}

#[test]
fn second_master_in_the_same_run_folder_is_refused() {
    let lb = Lb::start(&config::demo(port::free(), 1, ""));
    let output = lb.lbctl(&["up"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{complaint}");
    assert!(complaint.contains("run"), "{complaint}");
    assert_eq!(lb.status().instance("demo:0").process_state, ProcessState::Running);
    lb.stop();
}

#[test]
fn invalid_reload_is_refused_and_changes_nothing() {
    let port = port::free();
    let text = config::demo(port, 2, "");
    let lb = Lb::start(&text);
    let before = lb.status();
    lb.write_config(&text.replace("instances = 2", "instnces = 3"));
    let output = lb.lbctl(&["reload"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("instnces") && complaint.contains("instances"), "{complaint}");
    signal(lb.pid(), Signal::HUP);
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    let after = lb.status();
    let lives = |status: &lb_userspace::control::protocol::StatusReport| -> Vec<u64> {
        status.instances.iter().map(|instance| instance.instance).collect()
    };
    assert_eq!((lives(&before), before.snapshot), (lives(&after), after.snapshot));
    lb.stop();
}

#[test]
fn reload_adds_and_removes_instances_and_keeps_the_others() {
    let port = port::free();
    let text = config::demo(port, 2, "");
    let lb = Lb::start(&text);
    let pids = |count: usize| -> Vec<u32> {
        let status = lb.wait_status(10 * SECOND, "as many instances as configured", |status| {
            status.instances.len() == count && lb_tests::lb::is_ready(status)
        });
        status.instances.iter().filter_map(|instance| instance.pid).collect()
    };
    let before = pids(2);
    let load = Load::start(Plan::keep_alive(port, 8));
    lb.write_config(&text.replace("instances = 2", "instances = 4"));
    lb.succeed(&["reload"]);
    assert_eq!(pids(4)[..2], before);
    lb.write_config(&text.replace("instances = 2", "instances = 1"));
    signal(lb.pid(), Signal::HUP);
    assert_eq!(pids(1), before[..1]);
    load.finish().assert_none_failed();
    lb.stop();
}

#[test]
fn user_of_the_worker_is_the_one_it_was_started_with() {
    let text = config::demo(port::free(), 1, "");
    let lb = Lb::start(&text);
    assert!(lb.succeed(&["doctor"]).contains("workers run as nobody"));
    lb.write_config(&format!("[node]\nuser = \"daemon\"\n{text}"));
    lb.succeed(&["reload"]);
    until(5 * SECOND, "the log says that it waits", || {
        lb.complaints().contains("[node] user counts from the next start of lbctl").then_some(())
    });
    assert!(lb.succeed(&["doctor"]).contains("workers run as nobody"));
    lb.stop();
}

#[test]
fn reload_moves_a_listener_without_failing_a_request() {
    let (port, other) = (port::free(), port::free());
    let text = config::demo(port, 1, "");
    let lb = Lb::start(&text);
    let bind = format!("\"127.0.0.1:{port}\"");
    lb.write_config(&text.replace(&bind, &format!("{bind}, \"127.0.0.1:{other}\"")));
    lb.succeed(&["reload"]);
    let load = Load::start(Plan::keep_alive(port, 4));
    assert_eq!(get(local(other), "/").unwrap().status, 200);
    lb.write_config(&text);
    lb.succeed(&["reload"]);
    until(5 * SECOND, "the removed listener is closed", || get(local(other), "/").is_err().then_some(()));
    load.finish().assert_none_failed();
    lb.stop();
}

#[test]
fn commands_do_what_they_say_and_exit_as_documented() {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, 2, ""));
    let code = |arguments: &[&str]| lb.lbctl(arguments).status.code();
    assert_eq!(code(&["status"]), Some(0));
    assert!(lb.succeed(&["status"]).contains("demo:1"));
    let report: serde_json::Value = serde_json::from_str(&lb.succeed(&["status", "--json"])).unwrap();
    assert_eq!(report["instances"][0]["name"], "demo:0", "{report}");

    assert_eq!(code(&["stop", "demo:0"]), Some(0));
    let status = lb.status();
    assert_eq!(status.instance("demo:0").process_state, ProcessState::Stopped);
    assert_eq!(status.in_rotation(), ["demo:1"]);
    assert_eq!(code(&["status"]), Some(3));
    assert_eq!(code(&["start", "demo:0"]), Some(0));
    assert_eq!(lb.status().in_rotation(), ["demo:0", "demo:1"]);

    assert_eq!(code(&["drain", "demo:1"]), Some(0));
    let status = lb.status();
    assert_eq!(status.in_rotation(), ["demo:0"]);
    assert_eq!(status.instance("demo:1").process_state, ProcessState::Running);
    for _ in 0..10 {
        assert!(get(local(port), "/").unwrap().text().starts_with("instance 0 "));
    }
    assert_eq!(code(&["undrain", "demo:1"]), Some(0));
    lb.wait_ready();

    let before = lb.status().instance("demo:0").instance;
    assert_eq!(code(&["restart", "demo"]), Some(0));
    assert!(lb.status().instance("demo:0").instance > before);

    assert_eq!(code(&["stop", "nobody"]), Some(1));
    assert_eq!(code(&["status", "nobody"]), Some(4));
    assert_eq!(code(&["stop"]), Some(2));
    assert_eq!(code(&["version"]), Some(0));
    assert_eq!(code(&["check"]), Some(0));
    assert!(lb.succeed(&["schema"]).contains("\"listener\""));
    assert!(lb.succeed(&["completions", "bash"]).contains("lbctl"));
    assert!(lb.succeed(&["doctor"]).contains("short_cut"));
    assert!(lb.succeed(&["events", "-n", "500"]).contains("demo:0"));
    assert!(lb.succeed(&["logs", "demo:1"]).contains("listening on"));
    let run_dir = lb.run_dir();
    let audit = std::fs::read_to_string(run_dir.join("audit.log")).unwrap();
    assert!(audit.contains("restart") && audit.contains("\"uid\":0"), "{audit}");
    let mode = std::fs::metadata(run_dir.join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    lb.stop();
    let gone = std::process::Command::new(lb_tests::binary::lbctl())
        .arg("--run-dir")
        .arg(&run_dir)
        .arg("status")
        .output();
    assert_eq!(gone.unwrap().status.code(), Some(4));
}

#[test]
fn stopped_program_gets_no_restart_and_its_requests_are_answered_503() {
    let port = port::free();
    let text = config::demo(port, 1, "").replace("[upstream.demo]", "[upstream.demo]\nhold_timeout = \"0s\"");
    let lb = Lb::start(&text);
    lb.succeed(&["stop", "demo"]);
    assert_eq!(get(local(port), "/").unwrap().status, 503);
    assert_eq!(lb.status().instance("demo:0").pid, None);
    lb.succeed(&["start", "demo"]);
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    lb.stop();
}

#[test]
fn rolling_restart_under_load_fails_nothing() {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, 3, ""));
    let load = Load::start(Plan::keep_alive(port, 16));
    let before: Vec<u64> = lb.status().instances.iter().map(|instance| instance.instance).collect();
    lb.succeed(&["restart", "demo"]);
    let after: Vec<u64> = lb.wait_ready().instances.iter().map(|instance| instance.instance).collect();
    assert!(before.iter().zip(&after).all(|(before, after)| before < after), "{before:?} {after:?}");
    load.finish().assert_none_failed();
    lb.stop();
}

#[test]
fn ordinary_user_runs_it_and_is_told_what_is_lost() {
    const NOBODY: u32 = 65_534;
    let (setup, port) = (Setup::default(), port::free());
    let command = format!("{}/lbctl demo-backend --port $PORT", setup.folder().display());
    let text = config::demo(port, 2, "").replace(&config::demo_command(), &command);
    let lb = setup.as_user(NOBODY).start(&text);
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    let status = lb.status();
    let pid = status.instance("demo:0").pid.unwrap();
    let load = Load::start(Plan::keep_alive(port, 8));
    std::thread::sleep(SECOND + SECOND / 2);
    signal(pid, Signal::KILL);
    lb.wait_status(10 * SECOND, "another process", |status| {
        lb_tests::lb::is_ready(status) && status.instance("demo:0").pid != Some(pid)
    });
    load.finish().assert_none_failed();
    let doctor = lb.succeed(&["doctor"]);
    for lost in ["exit_watch", "short_cut", "cgroup"] {
        assert!(doctor.contains(lost), "{doctor}");
    }
    assert!(resident_bytes(lb.pid()) > 0);
    lb.stop();
}

#[test]
fn log_that_nobody_reads_stops_nothing() {
    let setup = Setup::default();
    let (config, run_dir) = (setup.folder().join("lb.toml"), setup.folder().join("run"));
    let port = port::free();
    std::fs::write(&config, config::demo(port, 1, "")).unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let output = writer.try_clone().unwrap();
    let mut up = std::process::Command::new(lb_tests::binary::lbctl());
    up.arg("up").arg("--config").arg(&config).arg("--run-dir").arg(&run_dir).env("LBCTL_LOG", "debug");
    let mut lbctl = Ended(up.stderr(writer).stdout(output).spawn().unwrap());
    until(10 * SECOND, "it is ready", || {
        lb_tests::control::status(&run_dir).ok().filter(lb_tests::lb::is_ready).map(drop)
    });
    // Each is some hundred bytes of log.
    for _ in 0..50 {
        for command in [
            Command::Drain { names: vec!["demo:0".into()] },
            Command::Undrain { names: vec!["demo:0".into()] },
        ] {
            lb_tests::control::ask(&run_dir, command).unwrap();
        }
    }
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    signal(lbctl.0.id(), Signal::TERM);
    let ended = until(10 * SECOND, "it ends", || lbctl.0.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn orphans_are_reaped_where_lbctl_is_the_first_process() {
    let setup = Setup::default();
    let (config, run_dir) = (setup.folder().join("lb.toml"), setup.folder().join("run"));
    // The inner shell's parent ends at once.
    let text = r#"
[metrics]
bind = ""
[program.forks]
command = "sh -c '(sh -c \"sleep 0.5; echo over\" &) ; exec sleep 1000'"
"#;
    std::fs::write(&config, text).unwrap();
    let mut unshare = Ended(
        std::process::Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"])
            .arg(lb_tests::binary::lbctl())
            .args(["up", "--config"])
            .arg(&config)
            .arg("--run-dir")
            .arg(&run_dir)
            .stderr(Stdio::null())
            .spawn()
            .expect("needs root: run `cargo xtask test`"),
    );
    until(10 * SECOND, "it runs", || {
        let status = lb_tests::control::status(&run_dir).ok()?;
        (status.master_pid == 1 && status.instance("forks:0").pid.is_some()).then_some(())
    });
    let master = descendants(unshare.0.id())[0].pid;
    let orphan = until(5 * SECOND, "an orphan has come to us", || {
        let shell = descendants(master).into_iter().find(|each| each.command_line().contains("echo over"))?;
        (lb_tests::process::parent(shell.pid) == Some(master)).then_some(shell)
    });
    until(5 * SECOND, "it has ended", || (!orphan.is_alive()).then_some(()));
    until(5 * SECOND, "it is reaped", || lb_tests::process::zombies(master).is_empty().then_some(()));
    signal(master, Signal::TERM);
    until(10 * SECOND, "lbctl has ended", || unshare.0.try_wait().unwrap());
}

/// A child that does not outlive the test, and what came of it neither (`--kill-child`).
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn worker_that_hangs_is_replaced_without_being_asked_anything() {
    let port = port::free();
    let lb = Lb::start(&config::demo(port, 1, ""));
    let stuck = lb.status().workers[0].pid;
    signal(stuck, Signal::STOP);
    lb.wait_status(20 * SECOND, "another worker serves", |status| {
        status.workers.iter().any(|worker| worker.pid != stuck && worker.serving > 0)
    });
    assert_eq!(get(local(port), "/").unwrap().status, 200);
    lb.stop();
}

#[test]
fn metrics_and_health_are_served_by_the_worker() {
    let (port, metrics) = (port::free(), port::free());
    let text = config::demo(port, 2, "").replace("bind = \"\"", &format!("bind = \"127.0.0.1:{metrics}\""));
    let lb = Lb::start(&text);
    for _ in 0..10 {
        assert_eq!(get(local(port), "/").unwrap().status, 200);
    }
    assert_eq!(get(local(metrics), "/healthz").unwrap().status, 200);
    until(5 * SECOND, "ready", || (get(local(metrics), "/readyz").unwrap().status == 200).then_some(()));
    let page = get(local(metrics), "/metrics").unwrap();
    assert_eq!(page.status, 200);
    let text = page.text();
    let mut samples = 0;
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(
            name.starts_with("lbctl_") || name.starts_with("lb_") || name.starts_with("process_"),
            "{line}"
        );
        samples += 1;
    }
    assert!(samples > 10, "{text}");
    assert!(text.contains("demo"), "{text}");
    lb.stop();
}
