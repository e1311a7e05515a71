//! Real processes: spawned, captured, signalled, killed with all that came of them.

#![expect(clippy::disallowed_methods, reason = "waits for real processes")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::sync::mpsc;

use super::cgroup::Cgroups;
use super::fork::Shim;
use super::order::Surroundings;
use super::output::Outputs;
use super::spawn::{Programs, Start};
use crate::config::model::{AutoRestart, Limits, Program, ProgramLog, Stop};
use crate::master::inbox::Input;
use crate::state::event::{Ending, Event, InstanceId};

/// The test program itself plays the exec shim: `fork` starts it with the name of this test.
#[test]
fn shim_in_a_test_program() {
    if std::env::args().any(|word| word == "--exact") && std::env::vars().next().is_none() {
        let error = super::exec_shim::exec_shim().unwrap_err();
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

fn test_shim() -> Shim {
    let name = "master::program::tests::shim_in_a_test_program";
    Shim::of_test(&["lbctl", "--exact", name, "--nocapture", "--test-threads=1", "--quiet"])
}

fn shell(script: &str) -> Program {
    Program {
        name: "test".into(),
        upstream: None,
        command: vec!["sh".into(), "-c".into(), script.into()],
        address: None,
        instances: 1,
        weight: 1,
        directory: None,
        user: None,
        environment: BTreeMap::new(),
        umask: 0o022,
        autostart: true,
        autorestart: AutoRestart::Never,
        exit_codes: BTreeSet::from([0]),
        start_retries: 0,
        depends_on: Vec::new(),
        startup: None,
        liveness: None,
        stop: Stop { signal: 15, drain_timeout: Duration::ZERO, kill_after: Duration::from_secs(1) },
        limits: Limits::default(),
        log: ProgramLog::default(),
    }
}

struct House {
    programs: Programs,
    cgroups: Cgroups,
    inbox: mpsc::Receiver<Input>,
    _run_dir: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::set_up(run_dir.path());
        Self::with(run_dir, cgroups)
    }

    fn without_cgroups() -> Self {
        Self::with(tempfile::tempdir().unwrap(), Cgroups::none("switched off by the test"))
    }

    fn with(run_dir: tempfile::TempDir, cgroups: Cgroups) -> Self {
        let (sender, inbox) = mpsc::channel(64);
        let surroundings = Surroundings { kept: BTreeMap::new(), open_files: (512, 1024), priority: 0 };
        let programs = Programs::new(test_shim(), surroundings, 1, Outputs::new().unwrap(), sender);
        Self { programs, cgroups, inbox, _run_dir: run_dir }
    }

    fn start(&mut self, program: &Program, instance: u64) -> Result<(), String> {
        let start = Start { instance: InstanceId(instance), slot: None, index: 0, program, address: None };
        self.programs.start(&self.cgroups, &start, None, |_| {})
    }

    async fn event(&mut self) -> Event {
        match tokio::time::timeout(Duration::from_secs(10), self.inbox.recv()).await.unwrap().unwrap() {
            Input::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    /// Runs a program to its end: how it ended and its last error line.
    async fn run(&mut self, program: &Program) -> (Ending, Option<String>) {
        self.start(program, 1).unwrap();
        assert!(matches!(self.event().await, Event::Spawned { .. }));
        match self.event().await {
            Event::Exited { ending, last_line, .. } => (ending, last_line),
            other => panic!("{other:?}"),
        }
    }

    fn output(&self) -> String {
        let lines = self.programs.outputs.last(&|_| true, 1000);
        lines.iter().map(|(_, line)| format!("{}\n", line.text)).collect()
    }

    async fn clean(self) {
        self.cgroups.remove().await.unwrap();
    }
}

#[tokio::test]
async fn exit_code_and_last_error_line_are_reported() {
    let mut house = House::new();
    let (ending, last_line) = house.run(&shell("echo fine; echo broken >&2; exit 3")).await;
    assert_eq!((ending, last_line.as_deref()), (Ending::Code(3), Some("broken")));
    assert!(house.output().contains("fine\n"));
    house.clean().await;
}

#[tokio::test]
async fn missing_command_is_a_sentence() {
    let mut house = House::new();
    let program = Program { command: vec!["/usr/bin/no-such-program".into()], ..shell("") };
    house.start(&program, 1).unwrap();
    match house.event().await {
        Event::SpawnFailed { error, .. } => {
            assert_eq!(error, "exec /usr/bin/no-such-program: No such file or directory");
        }
        other => panic!("{other:?}"),
    }
    house.clean().await;
}

#[tokio::test]
async fn process_gets_session_limits_umask_folder_and_a_clean_environment() {
    let mut house = House::new();
    let program = Program {
        directory: Some("/usr".into()),
        umask: 0o027,
        environment: BTreeMap::from([("NAME".into(), "instance $INSTANCE".into())]),
        ..shell("pwd; umask; ulimit -Sn; ulimit -Hn; env; ls -l /proc/self/fd | wc -l; cat /proc/$$$$/stat")
    };
    let (ending, _) = house.run(&program).await;
    assert_eq!(ending, Ending::Code(0));
    let output = house.output();
    for expected in
        ["/usr\n", "0027\n", "512\n", "1024\n", "NAME=instance 0\n", "INSTANCE=0\n", "PATH=/usr/local/sbin:"]
    {
        assert!(output.contains(expected), "{expected:?} not in {output}");
    }
    assert!(!output.contains("CARGO"), "{output}");
    // 0, 1, 2, the open folder itself, and `total`.
    assert!(output.contains("\n5\n"), "{output}");
    let stat = output.lines().find(|line| line.contains("(sh)")).unwrap();
    let fields = stat.split(' ').collect::<Vec<_>>();
    assert_eq!(fields[0], fields[5], "the process leads its session: {stat}");
    house.clean().await;
}

#[tokio::test]
async fn ambient_capabilities_of_the_master_are_not_handed_on() {
    let mut house = House::new();
    let bind = CapabilitySet::NET_BIND_SERVICE;
    let own = rustix::thread::capabilities(None).unwrap();
    // Of this thread, which forks.
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable: own.inheritable | bind, ..own })
        .expect("needs root: run `cargo xtask test`");
    rustix::thread::configure_capability_in_ambient_set(bind, true).unwrap();
    let (ending, _) = house.run(&shell("grep CapAmb /proc/self/status")).await;
    assert_eq!(ending, Ending::Code(0));
    let output = house.output();
    assert!(output.contains("CapAmb:\t0000000000000000\n"), "{output}");
    house.clean().await;
}

#[tokio::test]
async fn kill_takes_processes_that_left_session_and_group() {
    let mut house = House::new();
    if house.cgroups.product().is_none() {
        return;
    }
    house.start(&shell("setsid sleep 1000 & echo $!; wait"), 1).unwrap();
    assert!(matches!(house.event().await, Event::Spawned { .. }));
    let child = wait_for_line(&house).await;
    house.programs.get(InstanceId(1)).unwrap().process.kill();
    match house.event().await {
        Event::Exited { ending, .. } => assert_eq!(ending, Ending::Signal(9)),
        other => panic!("{other:?}"),
    }
    assert!(!is_running(&child), "{child}");
    house.clean().await;
}

#[tokio::test]
async fn kill_takes_a_process_that_left_its_cgroup() {
    let mut house = House::new();
    let Some(product) = house.cgroups.product() else { return };
    let elsewhere = product.parent().unwrap().join("cgroup.procs");
    let script = format!("echo $$$$ > {}; echo out; exec sleep 1000", elsewhere.display());
    house.start(&shell(&script), 1).unwrap();
    assert!(matches!(house.event().await, Event::Spawned { .. }));
    assert_eq!(wait_for_line(&house).await, "out");
    house.programs.get(InstanceId(1)).unwrap().process.kill();
    assert!(matches!(house.event().await, Event::Exited { ending: Ending::Signal(9), .. }));
    house.clean().await;
}

#[tokio::test]
async fn failed_start_leaves_no_cgroup_and_can_be_taken_out() {
    let mut house = House::new();
    let endless = Program { command: vec!["x".repeat(200 * 1024)], ..shell("") };
    let error = house.start(&endless, 1).unwrap_err();
    assert_eq!(error, "release the exec shim: command and environment are too long");
    let running = house.programs.gone(InstanceId(1)).expect("what the kernel watches is known");
    let leaf = running.process.leaf().map(|leaf| leaf.path().to_owned());
    drop(running);
    let gone = async {
        while leaf.as_ref().is_some_and(|leaf| leaf.exists()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the cgroup is gone");
    if let Some(leaf) = house.cgroups.leaf("never.used").unwrap() {
        let path = leaf.path().to_owned();
        drop(leaf);
        assert!(!path.exists());
    }
    house.clean().await;
}

#[tokio::test]
async fn children_that_a_dead_process_left_are_gone_before_its_exit_is_told() {
    for house in [House::new(), House::without_cgroups()] {
        let mut house = house;
        house.start(&shell("sleep 1000 & echo $!; exit 1"), 1).unwrap();
        assert!(matches!(house.event().await, Event::Spawned { .. }));
        assert!(matches!(house.event().await, Event::Exited { ending: Ending::Code(1), .. }));
        let child = wait_for_line(&house).await;
        let gone = async {
            while is_running(&child) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the child is gone");
        house.clean().await;
    }
}

#[tokio::test]
async fn pipe_that_an_earlier_life_left_to_a_daemon_is_read_until_the_next_life() {
    let mut house = House::without_cgroups();
    let program = shell("setsid sleep 1000 & echo $!; exit 1");
    let pipes = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.starts_with("pipe:"))).count()
    };
    for life in 1..=8 {
        house.start(&program, life).unwrap();
        assert!(matches!(house.event().await, Event::Spawned { .. }));
        assert!(matches!(house.event().await, Event::Exited { .. }));
        house.programs.gone(InstanceId(life));
    }
    let open = async {
        // Other tests of this process have pipes, too: fewer than all eight lives would hold.
        while pipes() > 12 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(5), open).await;
    let written = house.output();
    let daemons =
        written.lines().filter_map(|line| rustix::process::Pid::from_raw(line.trim().parse().ok()?));
    for daemon in daemons {
        let _ = rustix::process::kill_process(daemon, rustix::process::Signal::KILL);
    }
    closed.expect("pipes of earlier lives are closed");
}

#[tokio::test]
async fn flood_of_output_does_not_stop_the_program() {
    let mut house = House::new();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("out.log");
    let program = Program {
        log: ProgramLog { stdout: Some(log.clone()), stderr: None, rotate_bytes: 0, keep: 0 },
        ..shell("head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 100; echo the end")
    };
    let (ending, _) = house.run(&program).await;
    assert_eq!(ending, Ending::Code(0));
    let end = async {
        while !house.output().ends_with("the end\n") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end).await.unwrap();
    house.programs.outputs.finish();
    assert!(log.metadata().unwrap().len() > 0);
    house.clean().await;
}

#[tokio::test]
async fn signal_reaches_the_process() {
    let mut house = House::new();
    house.start(&shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done"), 1).unwrap();
    assert!(matches!(house.event().await, Event::Spawned { .. }));
    wait_for_line(&house).await;
    house.programs.get(InstanceId(1)).unwrap().process.signal(15).unwrap();
    assert!(matches!(house.event().await, Event::Exited { ending: Ending::Code(7), .. }));
    house.clean().await;
}

/// The last line that a program wrote, as soon as there is one that is not the test program's own.
async fn wait_for_line(house: &House) -> String {
    let line = async {
        loop {
            match house
                .output()
                .lines()
                .rfind(|line| !line.trim().is_empty() && !line.contains("running 1 test"))
            {
                Some(line) => return line.to_owned(),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), line).await.unwrap()
}

fn is_running(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
