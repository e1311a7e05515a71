//! Every map of the steering programs. `master::kernel` in userspace knows them by these names.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_COMMON_LRU};
use aya_ebpf::btf_maps::ArrayOfMaps;
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use lb_common::backend::BackendRow;
use lb_common::counter::Traffic;
use lb_common::flow::{
    Flow, FlowKey, FragmentKey, FragmentPorts, HandOver, Kept, NatFlow, QuicServerKey, Source, SourceKey,
    SynWindow,
};
use lb_common::forward::Stage;
use lb_common::hop::HopRow;
use lb_common::limits::{
    BACKENDS_MAX, CAPTURE_RING_BYTES, FLOWS_MAX, FRAGMENTS_MAX, GUARDED_NETWORKS_MAX, INTERFACES_MAX,
    LOOKUP_TABLES_MAX, MARKS_MAX, NAT_ENTRIES_MAX, NAT_HALF_OPEN_MAX, QUIC_SERVERS_MAX, SOURCES_MAX,
    VIPS_MAX,
};
use lb_common::lookup::Line;
use lb_common::verdict::Reason;
use lb_common::vip::{PrefixKey, Settings, Spans, VipIndex, VipKey, VipRow};

use super::capture::KeptFrame;

/// The backend table, shared with the programs of the other object.
#[map]
pub static BACKENDS: Array<BackendRow> = Array::with_max_entries(BACKENDS_MAX, BPF_F_MMAPABLE);

/// Looked up before anything else.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// VIPs by address, port and protocol; each address also as `VipKey::of_address`.
#[map]
pub static VIPS: HashMap<VipKey, VipIndex> = HashMap::with_max_entries(4 * VIPS_MAX, 0);

/// VIPs by prefix.
#[map]
pub static VIP_PREFIXES: LpmTrie<PrefixKey, Spans> = LpmTrie::with_max_entries(2 * VIPS_MAX, 0);

/// What is configured for each VIP.
#[map]
pub static VIP_ROWS: Array<VipRow> = Array::with_max_entries(VIPS_MAX, BPF_F_MMAPABLE);

/// Who is denied and allowed.
#[map]
pub static NETWORKS: LpmTrie<PrefixKey, u32> = LpmTrie::with_max_entries(2 * GUARDED_NETWORKS_MAX, 0);

/// A lookup table for each upstream: element 0 is its head, the others are lines of rows. Their sizes differ.
#[btf_map]
pub static LOOKUP_TABLES: ArrayOfMaps<LookupTable, { LOOKUP_TABLES_MAX as usize }> = ArrayOfMaps::new();

/// What `LOOKUP_TABLES` holds: an array of [`Line`]s, of any length.
///
/// With sizes instead of types. Linux 6.1 takes a map without type information (what others create) for one of another kind
/// than a map with it (what would be created from types here), and refuses it with EINVAL.
#[repr(C)]
pub struct LookupTable {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; size_of::<Line>()],
    max_entries: *const [i32; 2],
    map_flags: *const [i32; (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize],
}

impl LookupTable {
    /// An element of the lookup table `table`.
    #[inline(always)]
    pub fn line(table: u32, index: u32) -> Option<&'static Line> {
        let lines = LOOKUP_TABLES.get(table)?;
        // SAFETY: the helper is given a map and a local variable of the map's key size.
        let line =
            unsafe { bpf_map_lookup_elem((&raw const *lines).cast_mut().cast(), (&raw const index).cast()) };
        // SAFETY: null, or an element, which stays where it is while the program runs: tables that were replaced are kept until no
        // program uses them. Others write single words of it.
        unsafe { line.cast::<Line>().as_ref() }
    }
}

/// How to reach each backend.
#[map]
pub static HOPS: Array<HopRow> = Array::with_max_entries(BACKENDS_MAX, BPF_F_MMAPABLE);

/// Backends by what QUIC connection ids say.
#[map]
pub static QUIC_SERVERS: HashMap<QuicServerKey, u32> = HashMap::with_max_entries(2 * QUIC_SERVERS_MAX, 0);

/// Known flows of VIPs whose backends answer directly. Each CPU evicts what it put in itself.
#[map]
pub static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(FLOWS_MAX, BPF_F_NO_COMMON_LRU);

/// Translated flows, both directions.
#[map]
pub static NAT: HashMap<FlowKey, NatFlow> = HashMap::with_max_entries(NAT_ENTRIES_MAX, 0);

/// Translated flows that both sides have not yet agreed on.
#[map]
pub static NAT_HALF_OPEN: LruHashMap<FlowKey, NatFlow> =
    LruHashMap::with_max_entries(NAT_HALF_OPEN_MAX, BPF_F_NO_COMMON_LRU);

/// The ports of datagrams that came in fragments.
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(FRAGMENTS_MAX, 0);

/// How many flows sources may open now.
#[map]
pub static SOURCES: LruHashMap<SourceKey, Source> = LruHashMap::with_max_entries(SOURCES_MAX, 0);

/// Backends that sources keep.
#[map]
pub static AFFINITY: LruHashMap<SourceKey, Kept> = LruHashMap::with_max_entries(SOURCES_MAX, 0);

/// Marks of flows that began while a lookup table changed.
#[map]
pub static MARKS: Array<u64> = Array::with_max_entries(MARKS_MAX, 0);

/// How fast SYNs come, by VIP.
#[map]
pub static SYN_WINDOWS: Array<SynWindow> = Array::with_max_entries(VIPS_MAX, 0);

/// Interfaces that packets may leave by, by their index.
#[map]
pub static PORTS: DevMapHash = DevMapHash::with_max_entries(INTERFACES_MAX, 0);

/// How many ICMP errors each CPU may send now.
#[map]
pub static ANSWERS: PerCpuArray<Source> = PerCpuArray::with_max_entries(1, 0);

/// The programs that follow the first.
#[map]
pub static STAGES: ProgramArray = ProgramArray::with_max_entries(Stage::COUNT, 0);

/// What one stage leaves for the next.
#[map]
pub static HAND_OVER: PerCpuArray<HandOver> = PerCpuArray::with_max_entries(1, 0);

/// Traffic by VIP.
#[map]
pub static VIP_COUNTS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(VIPS_MAX, 0);

/// Traffic by backend.
#[map]
pub static BACKEND_COUNTS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(BACKENDS_MAX, 0);

/// Packets dropped or answered, by [`Reason`].
#[map]
pub static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// Captured frames.
#[map]
pub static CAPTURE: RingBuf = RingBuf::with_byte_size(CAPTURE_RING_BYTES, 0);

/// The frame that a CPU is working on, where frames are captured.
#[map]
pub static KEPT_FRAME: PerCpuArray<KeptFrame> = PerCpuArray::with_max_entries(1, 0);
