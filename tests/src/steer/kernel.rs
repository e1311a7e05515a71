//! The steering object in the running kernel, on tables that a [`World`] describes; frames by `BPF_PROG_TEST_RUN`.

use std::collections::{BTreeSet, HashMap as Entries};
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMapHash;
use aya::maps::{
    Array, ArrayOfMaps, HashMap, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray, RingBuf,
};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use lb_common::backend::BackendRow;
use lb_common::capture::Captured;
use lb_common::counter::Traffic;
use lb_common::flow::{
    Flow, FlowKey, FragmentKey, Kept, NatFlow, QuicServerKey, Source, SourceKey, SynWindow,
};
use lb_common::forward::{ENTRY_PROGRAM, Stage};
use lb_common::hop::HopRow;
use lb_common::host::{FRAME_BYTES_MAX, World};
use lb_common::lookup::{Head, Line, LookupRow, NOBODY, ROWS_PER_LINE};
use lb_common::verdict::{Reason, Verdict};
use lb_common::vip::{Settings, Spans, VipIndex, VipKey, VipRow};
use lb_userspace::steer::programs;

/// The interface that frames of a test run come from: the loopback.
pub const INGRESS: u32 = 1;
/// `BPF_F_MMAPABLE | BPF_F_INNER_MAP`: tables of different sizes in one array of maps.
const INNER_FLAGS: u32 = 1 << 10 | 1 << 12;
/// Entries of the tables in which packets leave something, where a test does not ask for more.
const LEARNED_MAX: u32 = 16_384;
/// Lines of the smallest lookup table, so that most worlds need no new one.
const LINES_MIN: u32 = 17;
/// Maps that packets write, by name.
const LEARNED: [&str; 6] = ["FLOWS", "NAT", "NAT_HALF_OPEN", "FRAGMENTS", "SOURCES", "AFFINITY"];

/// Bytes of a row, for the library that moves them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
struct Raw<T>(T);

// SAFETY: a transparent wrapper of a type without padding or invalid bit patterns, which is what `aya::Pod` asks for.
unsafe impl<T: bytemuck::Pod> aya::Pod for Raw<T> {}

type LookupTable = Array<MapData, Raw<Line>>;

/// The object, loaded.
pub struct Kernel {
    object: Ebpf,
    tables: Entries<u32, LookupTable>,
    /// Rows that an earlier world wrote.
    vip_rows: usize,
    backends: usize,
    /// How long maps and programs took to load.
    pub load_time: Duration,
    verified: Vec<Verified>,
    output: Vec<u8>,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `enum xdp_action`.
    pub action: u32,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
}

/// A program as the verifier saw it.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Its name.
    pub name: String,
    /// Instructions that the verifier walked; 0 where the kernel does not say (before 5.16).
    pub instructions: u32,
    /// How long it took to load.
    pub load_time: Duration,
}

/// What packets have left behind, without the times.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// `FLOWS`.
    pub flows: Entries<FlowKey, Flow>,
    /// `NAT`.
    pub nat: Entries<FlowKey, NatFlow>,
    /// `NAT_HALF_OPEN`.
    pub half_open: Entries<FlowKey, NatFlow>,
    /// `AFFINITY`.
    pub affinity: Entries<SourceKey, Kept>,
}

/// What was counted: by VIP, by backend, by reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `VIP_COUNTS`, rows that are not zero.
    pub vips: Entries<u32, Traffic>,
    /// `BACKEND_COUNTS`, rows that are not zero.
    pub backends: Entries<u32, Traffic>,
    /// `REASONS` that are not zero.
    pub reasons: Entries<&'static str, u64>,
}

/// Loads every program, as `lbctl` does: one after the other on each core, the longest first.
fn verify(object: &mut Ebpf, parsed: &Object) -> anyhow::Result<Vec<Verified>> {
    let waiting = Mutex::new(programs::longest_last(object, parsed));
    let next = || waiting.lock().expect("no thread panics").pop();
    let load = || -> anyhow::Result<Vec<Verified>> {
        let mut verified = vec![];
        while let Some((name, program)) = next() {
            let begun = Instant::now();
            let program: &mut Xdp =
                program.try_into().with_context(|| format!("{name} is no XDP program"))?;
            program.load().with_context(|| format!("loading {name}"))?;
            let instructions = program.info()?.verified_instruction_count().unwrap_or(0);
            verified.push(Verified { name: name.to_owned(), instructions, load_time: begun.elapsed() });
        }
        Ok(verified)
    };
    let cores = std::thread::available_parallelism()?.get();
    let mut verified = std::thread::scope(|scope| -> anyhow::Result<Vec<Verified>> {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(load)).collect();
        let parts = threads.into_iter().map(|thread| thread.join().expect("loading does not panic"));
        Ok(parts.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    })?;
    verified.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(verified)
}

impl Kernel {
    /// Loads every program of the object.
    ///
    /// # Errors
    /// When the kernel refuses it, or there is no object.
    pub fn load() -> anyhow::Result<Self> {
        Self::load_with(LEARNED_MAX)
    }

    /// Loads it with room for so many flows.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(flows: u32) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(object_path()).with_context(|| format!("reading {}", object_path().display()))?;
        let begun = Instant::now();
        let mut loader = EbpfLoader::new();
        // As `lbctl` does: nothing in the programs depends on the types of this kernel.
        loader.btf(None);
        for name in LEARNED {
            loader.map_max_entries(name, flows);
        }
        loader.map_max_entries("NETWORKS", LEARNED_MAX);
        let mut object = loader.load(&bytes).context("loading the maps of steering")?;
        let verified = verify(&mut object, &Object::parse(&bytes)?)?;
        let load_time = begun.elapsed();
        let mut kernel = Self {
            object,
            tables: Entries::new(),
            vip_rows: 0,
            backends: 0,
            load_time,
            verified,
            output: vec![0; FRAME_BYTES_MAX + 256],
        };
        kernel.set_stages()?;
        Ok(kernel)
    }

    /// Writes the tables of a world, and takes out what an earlier one had.
    ///
    /// # Errors
    /// When the kernel refuses an entry.
    pub fn describe(&mut self, world: &World) -> anyhow::Result<()> {
        self.array::<Settings>("SETTINGS")?.set(0, Raw(world.settings), 0)?;
        self.replace::<VipKey, VipIndex>("VIPS", &world.vips)?;
        self.replace::<QuicServerKey, u32>("QUIC_SERVERS", &world.quic_servers)?;
        let networks: Vec<_> =
            world.networks.iter().map(|(address, bits, guard)| (*address, *bits, *guard as u32)).collect();
        self.replace_trie::<Spans>("VIP_PREFIXES", &world.prefixes)?;
        self.replace_trie::<u32>("NETWORKS", &networks)?;
        for index in 0..world.vip_rows.len().max(self.vip_rows) {
            let row = world.vip_rows.get(index).copied().unwrap_or_default();
            self.array::<VipRow>("VIP_ROWS")?.set(index as u32, Raw(row), 0)?;
        }
        for slot in 0..world.backends.len().max(self.backends) {
            let row = world.backends.get(slot).copied().unwrap_or_default();
            self.array::<BackendRow>("BACKENDS")?.set(slot as u32, Raw(row), 0)?;
            let hop = world.hops.get(slot).copied().unwrap_or_default();
            self.array::<HopRow>("HOPS")?.set(slot as u32, Raw(hop), 0)?;
        }
        for (index, (head, rows)) in world.tables.iter().enumerate() {
            self.set_table(index as u32, head, rows)?;
        }
        (self.vip_rows, self.backends) = (world.vip_rows.len(), world.backends.len());
        let interfaces: BTreeSet<u32> = world.hops.iter().map(|hop| hop.interface).collect();
        let mut ports = DevMapHash::try_from(self.map("PORTS")?)?;
        for interface in interfaces.into_iter().filter(|interface| *interface != 0) {
            // What a test run redirects goes nowhere; that there is a way is what counts.
            ports.insert(interface, INGRESS, None, 0).context("PORTS")?;
        }
        Ok(())
    }

    /// Writes a lookup table. Where the one before has as many rows or more it is overwritten, which no packet may see: replacing
    /// a map within a map waits for every processor.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set_table(&mut self, index: u32, head: &Head, rows: &[LookupRow]) -> anyhow::Result<()> {
        let lines = 1 + rows.len().div_ceil(ROWS_PER_LINE as usize) as u32;
        if self.tables.get(&index).is_none_or(|table| table.len() < lines) {
            let table = LookupTable::create(lines.max(LINES_MIN), INNER_FLAGS)?;
            let mut tables = ArrayOfMaps::<_, LookupTable>::try_from(self.map("LOOKUP_TABLES")?)?;
            tables.set(index, &table, 0).context("LOOKUP_TABLES")?;
            self.tables.insert(index, table);
        }
        let table = self.tables.get_mut(&index).context("the table was just made")?;
        table.set(0, Raw(bytemuck::cast::<Head, Line>(*head)), 0)?;
        for (line, rows) in rows.chunks(ROWS_PER_LINE as usize).enumerate() {
            let nobody = LookupRow { now: NOBODY, before: NOBODY };
            let mut full = Line { rows: [nobody; ROWS_PER_LINE as usize] };
            full.rows[..rows.len()].copy_from_slice(rows);
            table.set(1 + line as u32, Raw(full), 0)?;
        }
        Ok(())
    }

    /// Writes a backend's row.
    ///
    /// # Errors
    /// When there is no such slot.
    pub fn set_backend(&mut self, slot: u32, row: BackendRow) -> anyhow::Result<()> {
        Ok(self.array::<BackendRow>("BACKENDS")?.set(slot, Raw(row), 0)?)
    }

    /// Writes flows, as packets would.
    ///
    /// # Errors
    /// When the table refuses one.
    pub fn add_flows(&mut self, flows: impl Iterator<Item = (FlowKey, Flow)>) -> anyhow::Result<()> {
        let mut map = self.hash::<FlowKey, Flow>("FLOWS")?;
        for (key, flow) in flows {
            map.insert(Raw(key), Raw(flow), 0).context("FLOWS")?;
        }
        Ok(())
    }

    /// One frame through the whole program, once: a frame that grew must not be run again.
    ///
    /// # Errors
    /// When the kernel refuses to run it.
    pub fn run(&mut self, frame: &[u8]) -> anyhow::Result<Outcome> {
        let (action, bytes) = self.time(frame).map(|(outcome, _)| outcome)?;
        Ok(Outcome { action, bytes: self.output[..bytes].to_vec() })
    }

    /// The same, and how long the program ran: action and bytes of the output, nanoseconds.
    ///
    /// # Errors
    /// When the kernel refuses to run it.
    pub fn time(&mut self, frame: &[u8]) -> anyhow::Result<((u32, usize), Duration)> {
        let program: &Xdp =
            self.object.program(ENTRY_PROGRAM).context("there is no entry program")?.try_into()?;
        time(program, frame, &mut self.output)
    }

    /// Every program, by name.
    pub fn verified(&self) -> &[Verified] {
        &self.verified
    }

    /// Forgets what packets have left behind, and counts from zero.
    ///
    /// # Errors
    /// When a map is not as it should be.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        self.clear::<FlowKey, Flow>("FLOWS")?;
        self.clear::<FlowKey, NatFlow>("NAT")?;
        self.clear::<FlowKey, NatFlow>("NAT_HALF_OPEN")?;
        self.clear::<FragmentKey, lb_common::flow::FragmentPorts>("FRAGMENTS")?;
        self.clear::<SourceKey, Source>("SOURCES")?;
        self.clear::<SourceKey, Kept>("AFFINITY")?;
        for row in 0..self.vip_rows as u32 {
            self.array::<SynWindow>("SYN_WINDOWS")?.set(row, Raw(SynWindow::default()), 0)?;
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut answers = PerCpuArray::<_, Raw<Source>>::try_from(self.map("ANSWERS")?)?;
        answers.set(0, PerCpuValues::try_from(vec![Raw(Source::default()); cpus])?, 0)?;
        let zero = |count| PerCpuValues::try_from(vec![Raw(Traffic::default()); count]);
        let count = cpus;
        let (vips, backends) = (self.vip_rows as u32, self.backends as u32);
        for (name, rows) in [("VIP_COUNTS", vips), ("BACKEND_COUNTS", backends)] {
            let mut counts = PerCpuArray::<_, Raw<Traffic>>::try_from(self.map(name)?)?;
            for row in 0..rows {
                counts.set(row, zero(count)?, 0)?;
            }
        }
        let mut reasons = PerCpuArray::<_, u64>::try_from(self.map("REASONS")?)?;
        for reason in 0..Reason::COUNT {
            reasons.set(reason, PerCpuValues::try_from(vec![0; count])?, 0)?;
        }
        Ok(())
    }

    /// What packets have left behind.
    ///
    /// # Errors
    /// When a map is not as it should be.
    pub fn learned(&mut self) -> anyhow::Result<Learned> {
        let mut learned = Learned {
            flows: self.entries("FLOWS")?,
            nat: self.entries("NAT")?,
            half_open: self.entries("NAT_HALF_OPEN")?,
            affinity: self.entries("AFFINITY")?,
        };
        learned.forget_times();
        Ok(learned)
    }

    /// What was counted.
    ///
    /// # Errors
    /// When a map is not as it should be.
    pub fn counts(&mut self) -> anyhow::Result<Counts> {
        let mut counts = Counts::default();
        for row in 0..self.vip_rows as u32 {
            counts.vips.insert(row, self.traffic("VIP_COUNTS", row)?);
        }
        for row in 0..self.backends as u32 {
            counts.backends.insert(row, self.traffic("BACKEND_COUNTS", row)?);
        }
        let reasons = PerCpuArray::<_, u64>::try_from(self.map("REASONS")?)?;
        for reason in Reason::ALL {
            let count = reasons.get(&(reason as u32), 0)?.iter().sum();
            counts.reasons.insert(reason.name(), count);
        }
        counts.drop_zeros();
        Ok(counts)
    }

    /// The frames that were captured since the last call.
    ///
    /// # Errors
    /// When a map is not as it should be.
    pub fn captured(&mut self) -> anyhow::Result<Vec<Captured>> {
        let mut ring = RingBuf::try_from(self.map("CAPTURE")?)?;
        Ok(std::iter::from_fn(|| ring.next().map(|record| bytemuck::pod_read_unaligned(&record))).collect())
    }

    fn set_stages(&mut self) -> anyhow::Result<()> {
        for stage in Stage::ALL {
            let name = stage.program();
            let program = self.object.program(name).with_context(|| format!("there is no program {name}"))?;
            let program = program.fd()?.try_clone()?;
            let mut stages = ProgramArray::try_from(self.map("STAGES")?)?;
            stages.set(stage as u32, &program, 0).context("STAGES")?;
        }
        Ok(())
    }

    fn traffic(&mut self, name: &str, row: u32) -> anyhow::Result<Traffic> {
        let counts = PerCpuArray::<_, Raw<Traffic>>::try_from(self.map(name)?)?;
        let mut sum = Traffic::default();
        for Raw(cpu) in counts.get(&row, 0)?.iter() {
            sum.packets += cpu.packets;
            sum.bytes += cpu.bytes;
            sum.flows += cpu.flows;
            sum.dropped += cpu.dropped;
        }
        Ok(sum)
    }

    fn map(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        self.object.map_mut(name).with_context(|| format!("the object has no map {name}"))
    }

    fn array<V: bytemuck::Pod>(&mut self, name: &str) -> anyhow::Result<Array<&mut MapData, Raw<V>>> {
        Array::try_from(self.map(name)?).with_context(|| name.to_owned())
    }

    fn hash<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<HashMap<&mut MapData, Raw<K>, Raw<V>>> {
        HashMap::try_from(self.map(name)?).with_context(|| name.to_owned())
    }

    fn clear<K: bytemuck::Pod, V: bytemuck::Pod>(&mut self, name: &str) -> anyhow::Result<()> {
        let mut map = self.hash::<K, V>(name)?;
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>().with_context(|| name.to_owned())?;
        for key in keys {
            map.remove(&key)?;
        }
        Ok(())
    }

    fn replace<K: bytemuck::Pod, V: bytemuck::Pod>(
        &mut self,
        name: &str,
        rows: &[(K, V)],
    ) -> anyhow::Result<()> {
        self.clear::<K, V>(name)?;
        let mut map = self.hash::<K, V>(name)?;
        for (key, value) in rows {
            map.insert(Raw(*key), Raw(*value), 0).with_context(|| name.to_owned())?;
        }
        Ok(())
    }

    fn replace_trie<V: bytemuck::Pod>(
        &mut self,
        name: &str,
        rows: &[([u8; 16], u32, V)],
    ) -> anyhow::Result<()> {
        let mut trie = LpmTrie::<_, [u8; 16], Raw<V>>::try_from(self.map(name)?)?;
        let keys: Vec<_> = trie.keys().collect::<Result<_, _>>().with_context(|| name.to_owned())?;
        for key in keys {
            trie.remove(&key)?;
        }
        for (address, bits, value) in rows {
            trie.insert(&Key::new(*bits, *address), Raw(*value), 0).with_context(|| name.to_owned())?;
        }
        Ok(())
    }

    fn entries<K, V>(&mut self, name: &str) -> anyhow::Result<Entries<K, V>>
    where
        K: bytemuck::Pod + Eq + Hash,
        V: bytemuck::Pod,
    {
        let map = self.hash::<K, V>(name)?;
        let entries = map.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)));
        entries.collect::<Result<_, _>>().with_context(|| name.to_owned())
    }
}

impl Learned {
    /// Times of both sides differ by what a test run takes.
    pub fn forget_times(&mut self) {
        self.flows.values_mut().for_each(|flow| flow.seen_at_ns = 0);
        self.nat.values_mut().chain(self.half_open.values_mut()).for_each(|flow| flow.seen_at_ns = 0);
        self.affinity.values_mut().for_each(|kept| kept.seen_at_ns = 0);
    }
}

impl Counts {
    /// Leaves what was counted at all.
    pub fn drop_zeros(&mut self) {
        self.vips.retain(|_, traffic| *traffic != Traffic::default());
        self.backends.retain(|_, traffic| *traffic != Traffic::default());
        self.reasons.retain(|_, count| *count != 0);
    }
}

/// Runs a program once on a frame; the output goes to `output`.
///
/// # Errors
/// When the kernel refuses to run it.
pub fn time(program: &Xdp, frame: &[u8], output: &mut [u8]) -> anyhow::Result<((u32, usize), Duration)> {
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(output), ..TestRunOptions::default() };
    let result = program.test_run(options).context("running a program")?;
    Ok(((result.return_value, result.data_size_out as usize), result.duration))
}

/// What a verdict is to the kernel.
pub fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop(_) => 1,
        Verdict::Pass => 2,
        Verdict::Transmit => 3,
        Verdict::Redirect(_) => 4,
    }
}

/// Where the object is: `LBCTL_STEER_OBJECT`, or the committed one.
pub fn object_path() -> PathBuf {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-ebpf/prebuilt/lb-steer.o");
    std::env::var_os("LBCTL_STEER_OBJECT").map_or(committed, PathBuf::from)
}
