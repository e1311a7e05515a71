//! Network namespaces for tests: each is held by a thread, and gone with it.
#![expect(clippy::disallowed_methods, reason = "tools set up the interfaces of a test")]

use std::net::IpAddr;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Moves this thread into a network namespace of its own, with the loopback up.
pub fn enter_new_namespace() {
    // SAFETY: only `FILES` is a matter of memory safety; descriptors stay shared.
    let entered = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    entered.expect("a network namespace of its own needs root: run the tests as root");
    ip("link set lo up");
}

/// Runs `test` in a namespace of its own, within a runtime.
pub fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        enter_new_namespace();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a tool in this thread's namespace and returns what it prints.
pub fn run(tool: &str, arguments: &str) -> String {
    let output = Command::new(tool).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}: install iproute2 and ethtool"));
    assert!(output.status.success(), "{tool} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Another namespace, in which a thread does what it is told.
pub struct Neighbourhood {
    work: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
    /// The thread, as `ip link set … netns` names its namespace.
    pub thread_id: i32,
}

impl Neighbourhood {
    /// A new one.
    pub fn new() -> Self {
        let (work, tasks) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (told, id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter_new_namespace();
            told.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            tasks.into_iter().for_each(|task| task());
        });
        let thread_id = id.recv().expect("the namespace's thread has started");
        Self { work: Some(work), thread: Some(thread), thread_id }
    }

    /// Does something there, to its end.
    pub fn within<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (told, outcome) = mpsc::channel();
        let task = move || told.send(task()).unwrap();
        self.work.as_ref().unwrap().send(Box::new(task)).unwrap();
        outcome.recv().expect("the task in the other namespace panicked")
    }

    /// A pair of interfaces: `ours` here with `our` address, `theirs` there with `their` address, both up.
    pub fn join(&self, (ours, our): (&str, &str), (theirs, their): (&'static str, &'static str)) {
        ip(&format!("link add {ours} type veth peer name {theirs} netns {}", self.thread_id));
        let address = |name: &str, address: &str| {
            let no_dad = if address.contains(':') { "nodad" } else { "" };
            ip(&format!("address add {address} dev {name} {no_dad}"));
            ip(&format!("link set {name} up"));
        };
        address(ours, our);
        self.within(move || address(theirs, their));
    }
}

impl Drop for Neighbourhood {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The address in `text`.
pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
