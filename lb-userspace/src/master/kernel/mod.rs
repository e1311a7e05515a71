//! The kernel half: loads, attaches and feeds the BPF programs, and says what of it works here.
//!
//! Everything hangs on descriptors of this process: nothing is pinned, so that programs and maps are gone when it ends,
//! however it ends.

pub mod notices;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use lb_common::exit::Watched;

use crate::config::model::{Kernel, Switch};
use crate::control::protocol::Capability;
use crate::table::{self, BackendTable};

pub use notices::NoticeStream;

/// What the kernel programs counted since they were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Deaths of watched processes that were seen.
    pub exits: u64,
    /// Listening sockets of watched instances that opened.
    pub listens_opened: u64,
    /// Listening sockets of watched instances that closed.
    pub listens_closed: u64,
    /// Notices that found the ring full; the table was written all the same.
    pub notices_lost: u64,
    /// Sockets enrolled in the short-cut.
    pub enrolled: u64,
    /// Sockets that could have been enrolled and were not.
    pub refused: u64,
    /// Messages that took the short-cut.
    pub redirected: u64,
    /// Bytes that took the short-cut.
    pub redirected_bytes: u64,
    /// Messages of enrolled sockets that went by TCP.
    pub passed: u64,
    /// Those of them that did because the reader was behind.
    pub passed_no_credit: u64,
}

/// The loaded programs and the maps shared with them.
pub struct KernelHalf {
    table: Arc<BackendTable>,
    memory: OwnedFd,
    capabilities: Vec<Capability>,
}

impl KernelHalf {
    /// Loads what `switches` and this host allow. What cannot be had is off, with its reason in [`Self::capabilities`].
    ///
    /// # Errors
    /// A switch is `on` and the thing cannot be had, or there is no memory for the table.
    pub fn load(switches: &Kernel, product_cgroup: Option<&Path>) -> anyhow::Result<Self> {
        let _ = product_cgroup;
        let memory = table::shared_memory("lbctl-backends", table::TABLE_BYTES).context("backend table")?;
        let table = Arc::new(BackendTable::map(&memory).context("backend table")?);
        let off = |name: &str, switch: Switch| Capability {
            name: name.into(),
            on: false,
            why: match switch {
                Switch::Off => "switched off in [kernel]".into(),
                _ => "no kernel programs are loaded".into(),
            },
            remedy: String::new(),
        };
        let capabilities = vec![
            off("bpf", Switch::Auto),
            off("exit_watch", switches.exit_watch),
            off("listen_watch", switches.exit_watch),
            off("short_cut", switches.short_cut),
        ];
        Ok(Self { table, memory, capabilities })
    }

    /// The master's view of the backend table: a BPF array, or a memfd where BPF cannot be had.
    pub fn table(&self) -> &Arc<BackendTable> {
        &self.table
    }

    /// A descriptor of the same memory that can only be mapped for reading, to be sent to a worker.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn table_for_worker(&self) -> io::Result<OwnedFd> {
        table::read_only(&self.memory)
    }

    /// Watches a process for its exit: its row goes OUT in the kernel. No-op when the exit watch is off.
    ///
    /// A process that ended before is not seen: check its pidfd after this call.
    ///
    /// # Errors
    /// What the map update says.
    pub fn watch_process(&self, pid: u32, watched: Watched) -> anyhow::Result<()> {
        let _ = (pid, watched);
        Ok(())
    }

    /// Watches what the tasks of a cgroup listen on. May be called before anything runs in it. No-op when off.
    ///
    /// # Errors
    /// What the map update says.
    pub fn watch_cgroup(&self, cgroup_id: u64, watched: Watched) -> anyhow::Result<()> {
        let _ = (cgroup_id, watched);
        Ok(())
    }

    /// [`Self::watch_process`] and, with an id, [`Self::watch_cgroup`].
    ///
    /// # Errors
    /// What the map updates say.
    pub fn watch(&self, pid: u32, cgroup_id: Option<u64>, watched: Watched) -> anyhow::Result<()> {
        if let Some(id) = cgroup_id {
            self.watch_cgroup(id, watched)?;
        }
        self.watch_process(pid, watched)
    }

    /// Ends what [`Self::watch`] began; what is not watched is no error.
    pub fn unwatch(&self, pid: u32, cgroup_id: Option<u64>) {
        let _ = (pid, cgroup_id);
    }

    /// Whether the kernel takes dead instances out.
    pub fn exit_watch_is_on(&self) -> bool {
        false
    }

    /// Whether the kernel takes out instances that stop listening.
    pub fn listen_watch_is_on(&self) -> bool {
        false
    }

    /// Whether bytes between worker and local backends skip TCP.
    pub fn short_cut_is_on(&self) -> bool {
        false
    }

    /// New loopback connections to this port may take the short-cut.
    pub fn enrol_port(&self, port: u16) {
        let _ = port;
    }

    /// New connections to this port keep to TCP; those enrolled stay as they are until they close.
    pub fn withdraw_port(&self, port: u16) {
        let _ = port;
    }

    /// What the kernel tells, as a stream of its own so that the caller can wait on it beside other things. Taken once;
    /// later calls, and all calls when nothing is watched, get a stream that never has anything.
    pub fn take_notices(&mut self) -> NoticeStream {
        NoticeStream::silent()
    }

    /// The rows `bpf`, `exit_watch`, `listen_watch` and `short_cut` of the capability matrix.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// What the programs counted so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// The id under which kernel programs know the cgroup v2 folder `path`: its inode number.
///
/// # Errors
/// What `stat` says.
pub fn cgroup_id(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::stat(path)?.st_ino)
}
