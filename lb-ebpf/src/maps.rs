//! Every map. `master::kernel` in userspace knows them by these names.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash};
use lb_common::backend::BackendRow;
use lb_common::counter::Counter;
use lb_common::exit::Watched;
use lb_common::limits::{
    BACKENDS_MAX, INSTANCES_MAX, NOTICE_RING_BYTES, SHORT_CUT_ENDS_MAX, SHORT_CUT_PORTS_MAX,
    SHORT_CUT_SEGMENTS_MAX, SOCKETS_MAX,
};
use lb_common::socket::{End, EndKey, Half};

/// The backend table; master and workers map it into their memory.
#[map]
pub static BACKENDS: Array<BackendRow> = Array::with_max_entries(BACKENDS_MAX, BPF_F_MMAPABLE);

/// Processes whose death matters, by thread group id.
#[map]
pub static WATCHED_PROCESSES: HashMap<u32, Watched> = HashMap::with_max_entries(INSTANCES_MAX, 0);

/// Cgroups whose listening sockets matter, by cgroup id.
#[map]
pub static WATCHED_CGROUPS: HashMap<u64, Watched> = HashMap::with_max_entries(INSTANCES_MAX, 0);

/// What the master is told.
#[map]
pub static NOTICES: RingBuf = RingBuf::with_byte_size(NOTICE_RING_BYTES, 0);

/// [`Counter`]s, per CPU.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Ports of local backends whose connections may take the short-cut, host order.
#[map]
pub static SHORT_CUT_PORTS: HashMap<u32, u32> = HashMap::with_max_entries(SHORT_CUT_PORTS_MAX, 0);

/// Enrolled sockets by cookie. Entries go when their socket closes and never before: taking one out by hand would drop
/// the bytes that wait in it.
#[map]
pub static SOCKETS: SockHash<u64> = SockHash::with_max_entries(SOCKETS_MAX, 0);

/// Where the two ends of a connection find each other, once. An entry that is evicted or stale costs the connection its
/// short-cut and nothing else.
#[map]
pub static ENDS: LruHashMap<EndKey, End> = LruHashMap::with_max_entries(SHORT_CUT_ENDS_MAX, 0);

/// What each enrolled socket remembers.
#[btf_map]
pub static HALVES: SkStorage<Half> = SkStorage::new();

/// The sequence number after the last segment that an enrolled socket received by TCP, by cookie.
#[map]
pub static SEGMENTS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(SHORT_CUT_SEGMENTS_MAX, 0);
