//! One running lbctl with a configuration, a run folder and a temporary folder of its own; nothing of it may be left after it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use lb_userspace::control::protocol::{EventRecord, StatusReport};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::binary::lbctl;
use crate::control;
use crate::leftovers::{self, Holdings};
use crate::process::{signal, try_signal};
use crate::wait::{until, until_or};

/// How long everything may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long a stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Events that a test asks for: all that are kept.
const EVENTS: usize = 4_096;

/// What an lbctl is started with.
pub struct Setup {
    folder: TempDir,
    user: Option<u32>,
    network: Option<PathBuf>,
    open_files: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        let folder =
            tempfile::Builder::new().prefix("lb-test-").tempdir().expect("a temporary folder can be made");
        // Workers and programs run as other users.
        open_to_all(folder.path());
        Self { folder, user: None, network: None, open_files: None }
    }
}

impl Setup {
    /// The folder of this lbctl, for logs, sockets and whatever programs write.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs as this user, who owns the folder.
    ///
    /// # Panics
    /// When the folder cannot be given to the user: this needs root.
    pub fn as_user(mut self, uid: u32) -> Self {
        std::os::unix::fs::chown(self.folder(), Some(uid), Some(uid))
            .expect("needs root: run `cargo xtask test`");
        self.user = Some(uid);
        self
    }

    /// May open so many files.
    pub fn open_files(mut self, count: u32) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Runs inside this network namespace.
    pub fn inside(mut self, network: &Path) -> Self {
        self.network = Some(network.to_owned());
        self
    }

    /// Starts and waits until everything is ready.
    ///
    /// # Panics
    /// When it is not ready in time.
    pub fn start(self, config: &str) -> Lb {
        let lb = self.start_unready(config);
        lb.wait_ready();
        lb
    }

    /// Starts and waits only until the master answers.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn start_unready(self, config: &str) -> Lb {
        let mut lb = self.spawn(config);
        lb.wait_answering();
        lb
    }

    /// Starts and waits for nothing.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(self, config: &str) -> Lb {
        std::fs::write(self.folder().join("lb.toml"), config).expect("the temporary folder is writable");
        let child = spawn(&self);
        Lb { setup: self, child, stopped: false, started: Instant::now(), held: Holdings::default() }
    }
}

/// One running lbctl.
pub struct Lb {
    setup: Setup,
    child: Child,
    stopped: bool,
    started: Instant,
    held: Holdings,
}

impl Lb {
    /// With the configuration text, ready.
    pub fn start(config: &str) -> Self {
        Setup::default().start(config)
    }

    /// Process id of the master.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When the process was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The run folder.
    pub fn run_dir(&self) -> PathBuf {
        run_dir(self.folder())
    }

    /// The folder of this lbctl.
    pub fn folder(&self) -> &Path {
        self.setup.folder()
    }

    /// What is.
    ///
    /// # Panics
    /// When the master does not answer.
    pub fn status(&self) -> StatusReport {
        control::status(&self.run_dir()).unwrap_or_else(|error| panic!("status: {error:#}"))
    }

    /// What happened.
    ///
    /// # Panics
    /// When the master does not answer.
    pub fn events(&self) -> Vec<EventRecord> {
        control::events(&self.run_dir(), EVENTS).unwrap_or_else(|error| panic!("events: {error:#}"))
    }

    /// Runs an `lbctl` command against this master to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn lbctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("lbctl can be started")
    }

    /// An `lbctl` command against this master.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(lbctl());
        command.arg("--run-dir").arg(self.run_dir()).arg("--config").arg(self.config_path()).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs an `lbctl` command that must succeed; returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.lbctl(arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lbctl {arguments:?}: {}\n{printed}{complaint}", output.status);
        printed
    }

    /// Where the configuration lies.
    pub fn config_path(&self) -> PathBuf {
        self.folder().join("lb.toml")
    }

    /// Writes another configuration; a reload reads it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_config(&self, config: &str) {
        std::fs::write(self.config_path(), config).expect("the temporary folder is writable");
    }

    /// Waits until a condition of the status holds.
    ///
    /// # Panics
    /// When it does not within `within`; the message holds the last status.
    pub fn wait_status(
        &self,
        within: Duration,
        what: &str,
        holds: impl Fn(&StatusReport) -> bool,
    ) -> StatusReport {
        let mut last = StatusReport::default();
        let found = until_or(within, || {
            last = self.status();
            holds(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("waited {within:?} in vain: {what}; status is {last:#?}"))
    }

    /// Waits until every instance takes requests and a worker serves.
    ///
    /// # Panics
    /// When they do not in time.
    pub fn wait_ready(&self) -> StatusReport {
        self.wait_status(READY_WITHIN, "everything ready", is_ready)
    }

    /// What the master printed on standard error.
    pub fn complaints(&self) -> String {
        std::fs::read_to_string(self.folder().join("lbctl.err")).unwrap_or_default()
    }

    /// What the master printed on standard output.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.folder().join("lbctl.out")).unwrap_or_default()
    }

    /// Notes what is held now, so that it is looked for after the end.
    pub fn note_holdings(&mut self) {
        self.held.join(Holdings::of(self.pid(), &self.run_dir()));
    }

    /// What was noted.
    pub fn holdings(&self) -> &Holdings {
        &self.held
    }

    /// Waits for the end of the master.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let status = until(within, "the master ends", || self.child.try_wait().expect("it is our child"));
        self.stopped = true;
        status
    }

    /// SIGTERM, then waits for the end; nothing may be left.
    ///
    /// # Panics
    /// When it does not end well or something is left.
    pub fn stop(mut self) {
        self.end_well();
    }

    /// `kill -9` of the master only.
    pub fn kill_master(&mut self) {
        self.note_holdings();
        signal(self.pid(), Signal::KILL);
        self.wait_end(Duration::from_secs(5));
    }

    /// Starts the master again in the same folders, after it has ended.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn start_again(&mut self) {
        assert!(self.stopped, "the master still runs");
        self.child = spawn(&self.setup);
        self.started = Instant::now();
        self.stopped = false;
        self.wait_answering();
    }

    /// Waits until the master answers.
    ///
    /// # Panics
    /// When it does not in time, or has ended.
    pub fn wait_answering(&mut self) {
        let run_dir = self.run_dir();
        let answer = until_or(READY_WITHIN, || {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                self.stopped = true;
                panic!("lbctl up ended: {status}\n{}", self.complaints());
            }
            control::status(&run_dir).ok()
        });
        assert!(answer.is_some(), "lbctl up does not answer");
    }

    fn end_well(&mut self) {
        self.note_holdings();
        signal(self.pid(), Signal::TERM);
        let status = self.wait_end(STOP_WITHIN);
        assert!(status.success(), "lbctl up ended: {status}");
        let left = self.held.left();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Ends everything without asserting, and shows what there is to see.
    fn end_after_failure(&mut self) {
        eprintln!("configuration:\n{}", std::fs::read_to_string(self.config_path()).unwrap_or_default());
        eprintln!("lbctl up printed:\n{}", last_lines(&self.complaints(), 60));
        if !self.stopped {
            if let Ok(events) = control::events(&self.run_dir(), 30) {
                events.iter().for_each(|event| eprintln!("{event:?}"));
            }
            self.note_holdings();
            let _ = try_signal(self.pid(), Signal::TERM);
            let _ = until_or(Duration::from_secs(5), || self.child.try_wait().ok().flatten());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        leftovers::end(&self.held);
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end_after_failure();
        } else if !self.stopped {
            self.end_well();
        }
    }
}

/// Whether every instance that should takes requests, and a worker serves.
pub fn is_ready(status: &StatusReport) -> bool {
    let serves = status.workers.iter().any(|worker| worker.serving > 0 && worker.serving == status.snapshot);
    let is_in = |state: &Option<String>| state.as_deref().is_none_or(|state| state == "IN");
    let runs = status.instances.iter().all(|instance| {
        instance.process_state == lb_userspace::control::protocol::ProcessState::Running
            && is_in(&instance.traffic_state)
    });
    serves && runs && status.backends.iter().all(|backend| backend.traffic_state == "IN")
}

/// The last lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn run_dir(folder: &Path) -> PathBuf {
    folder.join("run")
}

fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}

fn spawn(setup: &Setup) -> Child {
    let folder = setup.folder();
    let file = |name| {
        File::options().create(true).append(true).open(folder.join(name)).expect("the folder is writable")
    };
    let program = match setup.user {
        None => lbctl().to_owned(),
        Some(uid) => copied(folder, uid),
    };
    let mut command = match (setup.user, &setup.network) {
        (None, None) => match setup.open_files {
            Some(count) => limited(count, &program),
            None => Command::new(program),
        },
        (None, Some(network)) => inside(network, &program),
        (Some(uid), _) => as_user(uid, &program),
    };
    command.arg("up").arg("--config").arg(folder.join("lb.toml")).arg("--run-dir").arg(run_dir(folder));
    command.env_remove("LBCTL_RUN_DIR").stdin(Stdio::null()).current_dir(folder);
    command.stdout(file("lbctl.out")).stderr(file("lbctl.err")).spawn().expect("lbctl can be started")
}

fn limited(open_files: u32, program: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={open_files}:{open_files}")).arg("--").arg(program);
    command
}

/// The program in a network namespace and nothing else of it: `ip netns exec` would hide cgroups and BPF's file system.
fn inside(network: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", network.display())).arg("--").arg(program);
    command
}

/// The program where another user reaches it: the checkout may lie in a private folder.
fn copied(folder: &Path, uid: u32) -> PathBuf {
    let copy = folder.join("lbctl");
    if !copy.exists() {
        std::fs::copy(lbctl(), &copy).expect("lbctl can be copied");
        std::os::unix::fs::chown(&copy, Some(uid), Some(uid)).expect("needs root: run `cargo xtask test`");
    }
    copy
}

fn as_user(uid: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}")).args([
        "--clear-groups",
        "--inh-caps=-all",
        "--",
    ]);
    command.arg(program).env_remove("XDG_RUNTIME_DIR");
    command
}
