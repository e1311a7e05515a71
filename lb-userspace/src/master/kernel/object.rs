//! The committed kernel object: its maps by name, loaded with this kernel's offsets filled in.
//!
//! Effectful: loads BPF.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use bytemuck::NoUninit;
use lb_common::counter::Counter;

use super::layout::{ExitLayout, Layout};

static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-ebpf.o"));

/// Inode of the first process namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const FIRST_PROCESS_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The object, its maps created, no program loaded yet.
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Creates the maps and fills in the offsets. `backends`: where a backend table is pinned that is to be used.
    ///
    /// # Errors
    /// What the kernel says; as an ordinary user that BPF is not allowed.
    pub fn load(layout: &Layout, backends: Option<&Path>) -> anyhow::Result<Self> {
        let exit = layout.exit.clone().unwrap_or(ExitLayout::Said);
        let (said, task_signal, signal_live) = match exit {
            ExitLayout::Said => (1u32, 0, 0),
            ExitLayout::Counted { task_signal, signal_live } => (0, task_signal, signal_live),
        };
        let port = layout.listen.clone().unwrap_or_default();
        let sockets = layout.short_cut.clone().unwrap_or_default();
        let namespace = std::fs::metadata("/proc/self/ns/pid").context("stat /proc/self/ns/pid")?;
        let (device, inode) = match namespace.ino() {
            FIRST_PROCESS_NAMESPACE => (0, 0),
            inode => (namespace.dev(), inode),
        };
        let mut loader = EbpfLoader::new();
        if let Some(pin) = backends {
            loader.map_pin_path("BACKENDS", pin);
        }
        let ebpf = loader
            // The programs need no relocation by type: what differs between kernels comes in by the globals below.
            .btf(None)
            .override_global("EXIT_SAYS_GROUP_DEAD", &said, true)
            .override_global("TASK_SIGNAL", &task_signal, true)
            .override_global("SIGNAL_LIVE", &signal_live, true)
            .override_global("SOCK_PORT", &port, true)
            .override_global("SOCK_QUEUED", &sockets.queued, true)
            .override_global("TCP_WRITES_NEXT", &sockets.writes_next, true)
            .override_global("TCP_READS_NEXT", &sockets.reads_next, true)
            .override_global("SOCK_UPPER_PROTOCOL", &sockets.upper_protocol, true)
            .override_global("PROCESS_NAMESPACE_DEVICE", &device, true)
            .override_global("PROCESS_NAMESPACE_INODE", &inode, true)
            .load(OBJECT)
            .map_err(reason)?;
        Ok(Self { ebpf })
    }

    /// Takes the descriptor of a map out of the object.
    ///
    /// # Errors
    /// The committed object has no such map.
    pub fn take(&mut self, name: &str) -> anyhow::Result<Map> {
        self.ebpf.take_map(name).with_context(|| format!("the kernel object has no map {name}"))
    }

    /// Loads a raw tracepoint program and attaches it for as long as this object lives.
    ///
    /// # Errors
    /// The verifier refuses the program, or the kernel has no such tracepoint.
    pub fn attach_tracepoint(&mut self, program: &str, tracepoint: &str) -> anyhow::Result<()> {
        let program: &mut RawTracePoint = self.program(program)?;
        program.load().map_err(reason)?;
        program.attach(tracepoint).map_err(reason).with_context(|| format!("tracepoint {tracepoint}"))?;
        Ok(())
    }

    /// The kernel's ids of the programs that are loaded.
    pub fn program_ids(&self) -> Vec<u32> {
        self.ebpf.programs().filter_map(|(_, program)| program.info().ok()).map(|info| info.id()).collect()
    }

    /// A program of the object.
    ///
    /// # Errors
    /// The committed object has no such program.
    pub fn program<'a, P>(&'a mut self, name: &str) -> anyhow::Result<&'a mut P>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name);
        Ok(program.with_context(|| format!("the kernel object has no program {name}"))?.try_into()?)
    }
}

/// The error in one line: of a verifier's log, the sentence it ends with.
pub fn reason(error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    let full = told(&anyhow!(error));
    let mut lines = full.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.take_while(|line| !line.starts_with("processed ")).last() {
        Some(verdict) => anyhow!("{first} … {verdict}"),
        None => anyhow!(first),
    }
}

/// The error with its causes, each once: some libraries repeat the beginning of a cause in their own text.
pub(super) fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let repeated =
            text.match_indices(": ").map(|(at, _)| at + 2).find(|at| cause.starts_with(&text[*at..]));
        match repeated {
            Some(at) => text.replace_range(at.., &cause),
            None if text.is_empty() => text = cause,
            None => text = format!("{text}: {cause}"),
        }
    }
    text
}

/// A map as the bytes of `lb_common` types: aya's own trait cannot be given to them.
pub struct Table<const KEY: usize, const VALUE: usize>(HashMap<MapData, [u8; KEY], [u8; VALUE]>);

impl<const KEY: usize, const VALUE: usize> Table<KEY, VALUE> {
    /// The map as one of these sizes.
    ///
    /// # Errors
    /// It has others.
    pub fn new(map: Map) -> anyhow::Result<Self> {
        Ok(Self(HashMap::try_from(map)?))
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// What the kernel says; the map may be full.
    pub fn insert(&mut self, key: &impl NoUninit, value: &impl NoUninit) -> anyhow::Result<()> {
        let (key, value) = (bytes(key)?, bytes(value)?);
        self.0.insert(key, value, 0).map_err(reason)
    }

    /// Removes an entry; what is not there is no error.
    pub fn remove(&mut self, key: &impl NoUninit) {
        if let Ok(key) = bytes(key) {
            let _ = self.0.remove(&key);
        }
    }
}

fn bytes<const N: usize>(value: &impl NoUninit) -> anyhow::Result<[u8; N]> {
    bytemuck::bytes_of(value).try_into().context("a map entry of another size")
}

/// The counters, summed over all CPUs.
pub struct CounterTable(PerCpuArray<MapData, u64>);

impl CounterTable {
    /// The map of counters.
    ///
    /// # Errors
    /// It is none.
    pub fn new(map: Map) -> anyhow::Result<Self> {
        Ok(Self(PerCpuArray::try_from(map)?))
    }

    /// One of them now.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(&(counter as u32), 0).map_or(0, |values| values.iter().sum())
    }
}
