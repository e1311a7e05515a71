//! The kernel half: loads, attaches and feeds the BPF programs, and says what of it works here.
//!
//! Everything hangs on descriptors of this process: nothing is pinned, so that programs and maps are gone when it ends,
//! however it ends; but for the backend table, where steering (`master::steer`) shares it. Connections in the short-cut go on until they close; the kernel keeps for them what they need.
//!
//! Effectful: loads BPF, reads `/sys` and `/proc`.

mod btf;
mod layout;
pub mod notices;
mod object;
mod resent;
mod self_probe;
mod short_cut;
#[cfg(test)]
mod tests;
mod watch;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use aya::maps::{Array, IterableMap, Map, MapData};
use lb_common::backend::BackendRow;
use lb_common::counter::Counter;
use lb_common::exit::Watched;
use lb_common::limits::BACKENDS_MAX;

use crate::config::model::{Kernel, Switch};
use crate::control::protocol::Capability;
use crate::table::{self, BackendTable};
use layout::Layout;
use object::{CounterTable, Object};
use short_cut::ShortCut;
use watch::Watch;

pub use notices::NoticeStream;
pub use object::reason;

/// `BPF_F_MMAPABLE`.
const FLAG_MMAPABLE: u32 = 1 << 10;

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
    /// Bytes that TCP sent enrolled sockets again, taken off.
    pub repeated_bytes: u64,
    /// Segments dropped because such bytes could not be taken off.
    pub repeated_lost: u64,
}

/// The loaded programs and the maps shared with them.
pub struct KernelHalf {
    table: Arc<BackendTable>,
    memory: Memory,
    loaded: Option<Loaded>,
    capabilities: Vec<Capability>,
}

/// What the backend table lies in.
enum Memory {
    Bpf(MapData),
    Memfd(OwnedFd),
}

impl Memory {
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Bpf(map) => map.fd().as_fd(),
            Self::Memfd(memory) => memory.as_fd(),
        }
    }
}

/// Who needs the backend table beside this process and its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TablePlace {
    /// Nobody.
    #[default]
    Anywhere,
    /// The steering programs: it has to be a BPF map, whatever else is switched off.
    Steering {
        /// The table that an earlier master left.
        pin: Option<PathBuf>,
    },
}

impl TablePlace {
    fn pin(&self) -> Option<&Path> {
        match self {
            Self::Anywhere => None,
            Self::Steering { pin } => pin.as_deref(),
        }
    }

    /// The map that is pinned, or a new one; `None` where none is needed or can be had.
    fn map(&self) -> Option<MapData> {
        let Self::Steering { pin } = self else { return None };
        if let Some(map) = pin.as_ref().and_then(|pin| MapData::from_pin(pin).ok()) {
            return Some(map);
        }
        let made = Array::<MapData, [u8; size_of::<BackendRow>()]>::create(BACKENDS_MAX, FLAG_MMAPABLE);
        let descriptor = made.ok()?.map().fd().as_fd().try_clone_to_owned().ok()?;
        MapData::from_fd(descriptor).ok()
    }
}

/// What exists where BPF is allowed. Programs are detached when the object goes.
struct Loaded {
    counters: CounterTable,
    watch: Option<Watch>,
    short_cut: Option<ShortCut>,
    /// Held for what hangs on it.
    object: Object,
}

impl KernelHalf {
    /// Loads what `switches` and this host allow. What cannot be had is off, with its reason in [`Self::capabilities`].
    /// Takes up to 150 ms, most of it for the self-probe of the short-cut.
    ///
    /// # Errors
    /// A switch is `on` and the thing cannot be had, or there is no memory for the table.
    pub fn load(
        switches: &Kernel,
        product_cgroup: Option<&Path>,
        place: &TablePlace,
    ) -> anyhow::Result<Self> {
        if switches.exit_watch == Switch::Off && switches.short_cut == Switch::Off {
            return Self::without_bpf(
                switches,
                place,
                "the kernel programs are switched off in [kernel]",
                "",
            );
        }
        let started = crate::time::Time::now();
        let (layout, mut object) = match prepare(place) {
            Ok(prepared) => prepared,
            Err(error) => {
                let why = format!("{error:#}");
                for (key, switch) in [("exit_watch", switches.exit_watch), ("short_cut", switches.short_cut)]
                {
                    if switch == Switch::On {
                        bail!("[kernel] {key} = \"on\": {why}");
                    }
                }
                return Self::without_bpf(
                    switches,
                    place,
                    &why,
                    "run as root, with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
                );
            }
        };
        let Map::Array(memory) = object.take("BACKENDS")? else { bail!("BACKENDS is no array") };
        let table = Arc::new(BackendTable::map(memory.fd()).context("backend table")?);
        let counters = CounterTable::new(object.take("COUNTERS")?)?;
        let mut capabilities = Vec::new();
        let watch = Watch::load(switches.exit_watch, &layout, &mut object, &mut capabilities)?;
        let short_cut = ShortCut::load(
            switches.short_cut,
            &layout,
            product_cgroup,
            &mut object,
            &counters,
            &mut capabilities,
        )?;
        let took = crate::time::Time::now().since(started);
        capabilities.insert(0, on("bpf", format!("kernel programs loaded in {} ms", took.as_millis())));
        let loaded = Loaded { counters, watch, short_cut, object };
        Ok(Self { table, memory: Memory::Bpf(memory), loaded: Some(loaded), capabilities })
    }

    fn without_bpf(switches: &Kernel, place: &TablePlace, why: &str, remedy: &str) -> anyhow::Result<Self> {
        let memory = match place.map() {
            Some(map) => Memory::Bpf(map),
            None => {
                let memory = table::shared_memory("lbctl-backends", table::TABLE_BYTES);
                Memory::Memfd(memory.context("backend table")?)
            }
        };
        let table = Arc::new(BackendTable::map(memory.descriptor()).context("backend table")?);
        let row = |name, switch| match switch {
            Switch::Off => switched_off(name),
            _ => off(name, "it needs bpf", ""),
        };
        let capabilities = vec![
            off("bpf", why, remedy),
            row("exit_watch", switches.exit_watch),
            row("listen_watch", switches.exit_watch),
            row("short_cut", switches.short_cut),
        ];
        Ok(Self { table, memory, loaded: None, capabilities })
    }

    /// The master's view of the backend table: a BPF array, or a memfd where BPF cannot be had.
    pub fn table(&self) -> &Arc<BackendTable> {
        &self.table
    }

    /// The map that the backend table lies in; `None` where it is no BPF map.
    pub fn backends_map(&self) -> Option<&MapData> {
        match &self.memory {
            Memory::Bpf(map) => Some(map),
            Memory::Memfd(_) => None,
        }
    }

    /// A descriptor of the same memory, to be sent to a worker, which maps it for reading and closes it.
    ///
    /// A memfd's can only be mapped for reading. A BPF map's cannot be restricted so: the kernel maps a map only through a
    /// descriptor that may write. Once mapped for reading and closed it cannot be made writable any more.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn table_for_worker(&self) -> io::Result<OwnedFd> {
        match &self.memory {
            Memory::Bpf(map) => map.fd().as_fd().try_clone_to_owned(),
            Memory::Memfd(memory) => table::read_only(memory),
        }
    }

    /// Watches a process for its exit: its row goes OUT in the kernel. No-op when the exit watch is off.
    ///
    /// A process that ended before is not seen: look at its pidfd after this call.
    ///
    /// # Errors
    /// What the map update says.
    pub fn watch_process(&self, pid: u32, watched: Watched) -> anyhow::Result<()> {
        self.watcher().map_or(Ok(()), |watch| watch.process(pid, watched))
    }

    /// Watches what the tasks of a cgroup listen on. May be called before anything runs in it, and should: a listening
    /// socket that was there before is not counted. No-op when off.
    ///
    /// # Errors
    /// What the map update says.
    pub fn watch_cgroup(&self, cgroup_id: u64, watched: Watched) -> anyhow::Result<()> {
        self.watcher().map_or(Ok(()), |watch| watch.cgroup(cgroup_id, watched))
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
        if let Some(watch) = self.watcher() {
            watch.end(pid, cgroup_id);
        }
    }

    /// Whether the kernel takes dead instances out.
    pub fn exit_watch_is_on(&self) -> bool {
        self.is_on("exit_watch")
    }

    /// Whether the kernel takes out instances that stop listening.
    pub fn listen_watch_is_on(&self) -> bool {
        self.is_on("listen_watch")
    }

    /// Whether bytes between worker and local backends skip TCP.
    pub fn short_cut_is_on(&self) -> bool {
        self.is_on("short_cut")
    }

    /// New loopback connections to this port may take the short-cut.
    pub fn enrol_port(&self, port: u16) {
        if let Some(short_cut) = self.loaded.as_ref().and_then(|loaded| loaded.short_cut.as_ref()) {
            short_cut.enrol_port(port);
        }
    }

    /// New connections to this port keep to TCP; those enrolled stay as they are until they close.
    pub fn withdraw_port(&self, port: u16) {
        if let Some(short_cut) = self.loaded.as_ref().and_then(|loaded| loaded.short_cut.as_ref()) {
            short_cut.withdraw_port(port);
        }
    }

    /// What the kernel tells, as a stream of its own so that the caller can wait on it beside other things. Taken once;
    /// later calls, and all calls when nothing is watched, get a stream that never has anything.
    pub fn take_notices(&mut self) -> NoticeStream {
        let watch = self.loaded.as_mut().and_then(|loaded| loaded.watch.as_mut());
        watch.and_then(Watch::take_ring).map_or_else(NoticeStream::silent, NoticeStream::of)
    }

    /// The rows `bpf`, `exit_watch`, `listen_watch` and `short_cut` of the capability matrix.
    pub fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    /// What the programs counted so far.
    pub fn counters(&self) -> Counters {
        self.loaded.as_ref().map_or_else(Counters::default, |loaded| Counters::read(&loaded.counters))
    }

    /// The kernel's ids of the loaded programs, to see that none stays behind.
    pub fn program_ids(&self) -> Vec<u32> {
        self.loaded.as_ref().map_or_else(Vec::new, |loaded| loaded.object.program_ids())
    }

    fn watcher(&self) -> Option<&Watch> {
        self.loaded.as_ref()?.watch.as_ref()
    }

    fn is_on(&self, name: &str) -> bool {
        self.capabilities.iter().any(|capability| capability.name == name && capability.on)
    }
}

impl Counters {
    fn read(table: &CounterTable) -> Self {
        let no_credit = table.get(Counter::PassedNoCredit);
        Self {
            exits: table.get(Counter::Exits),
            listens_opened: table.get(Counter::ListensOpened),
            listens_closed: table.get(Counter::ListensClosed),
            notices_lost: table.get(Counter::NoticesLost),
            enrolled: table.get(Counter::Enrolled),
            refused: table.get(Counter::Refused),
            redirected: table.get(Counter::Redirected),
            redirected_bytes: table.get(Counter::RedirectedBytes),
            passed: table.get(Counter::PassedNoPeer) + table.get(Counter::PassedUnread) + no_credit,
            passed_no_credit: no_credit,
            repeated_bytes: table.get(Counter::RepeatedBytes),
            repeated_lost: table.get(Counter::RepeatedLost),
        }
    }
}

/// The id under which kernel programs know the cgroup v2 folder `path`: its inode number.
///
/// # Errors
/// What `stat` says.
pub fn cgroup_id(path: &Path) -> io::Result<u64> {
    Ok(rustix::fs::stat(path)?.st_ino)
}

#[expect(clippy::disallowed_methods, reason = "reads the running kernel's type information")]
fn prepare(place: &TablePlace) -> anyhow::Result<(Layout, Object)> {
    const BTF: &str = "/sys/kernel/btf/vmlinux";
    let btf = std::fs::read(BTF).with_context(|| format!("{BTF} (CONFIG_DEBUG_INFO_BTF)"))?;
    let layout = Layout::from_btf(&btf)?;
    let object = Object::load(&layout, place.pin())?;
    Ok((layout, object))
}

fn on(name: &str, why: String) -> Capability {
    Capability { name: name.into(), on: true, why, remedy: String::new() }
}

fn off(name: &str, why: &str, remedy: &str) -> Capability {
    Capability { name: name.into(), on: false, why: why.into(), remedy: remedy.into() }
}

fn switched_off(name: &str) -> Capability {
    off(name, "switched off in [kernel]", "")
}
