//! What a running lbctl holds, noted while it runs, so that a test can say what is left after it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Process, cgroup, descendants};
use crate::wait::until_or;

/// Removal of BPF objects waits for a grace period of the kernel; a killed process for its parent.
const SETTLE: Duration = Duration::from_secs(5);

/// What one lbctl holds.
#[derive(Debug, Default)]
pub struct Holdings {
    processes: Vec<Process>,
    cgroups: Vec<PathBuf>,
    bpf_programs: Vec<u32>,
    sockets: Vec<PathBuf>,
}

impl Holdings {
    /// Everything of the master with this pid and run folder, now.
    pub fn of(master: u32, run_dir: &Path) -> Self {
        let processes = descendants(master);
        let mut cgroups: Vec<PathBuf> =
            processes.iter().filter_map(|process| product_cgroup(process.pid)).collect();
        cgroups.dedup();
        Self {
            processes,
            cgroups,
            bpf_programs: bpf_programs(master),
            sockets: vec![run_dir.join("control.sock")],
        }
    }

    /// The processes.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// The cgroup folders of the product.
    pub fn cgroups(&self) -> &[PathBuf] {
        &self.cgroups
    }

    /// Adds what was held at another time.
    pub fn join(&mut self, other: Self) {
        self.processes.extend(other.processes);
        self.cgroups.extend(other.cgroups);
        self.bpf_programs.extend(other.bpf_programs);
        self.sockets.extend(other.sockets);
    }

    /// What is still there, one line each, after waiting a moment for it to go.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        until_or(SETTLE, || {
            left = self.left_now();
            left.is_empty().then_some(())
        });
        left
    }

    fn left_now(&self) -> Vec<String> {
        let processes = self.processes.iter().filter(|process| process.is_alive());
        let mut left: Vec<String> =
            processes.map(|process| format!("process {}: {}", process.pid, process.command_line())).collect();
        let folders = self.cgroups.iter().chain(&self.sockets).filter(|path| path.exists());
        left.extend(folders.map(|path| path.display().to_string()));
        if !self.bpf_programs.is_empty() {
            let loaded: Vec<u32> =
                aya::programs::loaded_programs().flatten().map(|program| program.id()).collect();
            let still = self.bpf_programs.iter().filter(|id| loaded.contains(id));
            left.extend(still.map(|id| format!("BPF program {id}")));
        }
        left
    }
}

/// Ends what a failed test left, so that it does not disturb the others.
pub fn end(holdings: &Holdings) {
    for process in holdings.processes.iter().filter(|process| process.is_alive()) {
        // It may end by itself meanwhile.
        let _ = crate::process::try_signal(process.pid, rustix::process::Signal::KILL);
    }
}

/// The folder `lbctl-…` above the process's cgroup leaf.
fn product_cgroup(pid: u32) -> Option<PathBuf> {
    let leaf = cgroup(pid)?;
    let is_product =
        |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lbctl-"));
    leaf.ancestors().find(is_product).map(Path::to_owned)
}

/// Ids of the BPF programs that the process holds, directly or by a link.
fn bpf_programs(pid: u32) -> Vec<u32> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = descriptors.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let mut ids: Vec<u32> = texts
        .flat_map(|text| {
            let lines = text.lines().filter_map(|line| line.strip_prefix("prog_id:"));
            lines.filter_map(|id| id.trim().parse().ok()).collect::<Vec<u32>>()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
