//! The maps as `lb_common::forward` sees them.

use core::borrow::Borrow;

use aya_ebpf::bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use lb_common::backend::BackendRow;
use lb_common::counter::Traffic;
use lb_common::flow::{
    FlagChange, Flow, FlowKey, FragmentKey, FragmentPorts, HandOver, Kept, NatFlow, QuicServerKey, Source,
    SourceKey, SynWindow,
};
use lb_common::hop::HopRow;
use lb_common::limits::TOUCH_NS;
use lb_common::lookup::{Head, LookupRow, ROWS_PER_LINE};
use lb_common::tables::Tables;
use lb_common::verdict::Reason;
use lb_common::vip::{PrefixKey, Settings, Spans, VipIndex, VipKey, VipRow};

use super::{capture, cookie, maps};

/// The maps; each has been created with the program.
pub struct KernelTables {
    settings: &'static Settings,
}

impl KernelTables {
    /// `None` only for the verifier.
    #[inline(always)]
    pub fn open() -> Option<Self> {
        Some(Self { settings: row(&maps::SETTINGS, 0)? })
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn settings(&self) -> &Settings {
        self.settings
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<VipIndex> {
        entry(&maps::VIPS, key).copied()
    }

    #[inline(always)]
    fn spans(&self, address: &[u8; 16]) -> Option<&Spans> {
        maps::VIP_PREFIXES.get(&OnStack::new(address))
    }

    #[inline(always)]
    fn vip_row(&self, vip: u32) -> Option<&VipRow> {
        row(&maps::VIP_ROWS, vip)
    }

    #[inline(always)]
    fn guard(&self, address: &[u8; 16]) -> Option<u32> {
        maps::NETWORKS.get(&OnStack::new(address)).copied()
    }

    #[inline(always)]
    fn lookup_head(&self, table: u32) -> Option<Head> {
        maps::LookupTable::line(table, 0).map(|line| bytemuck::must_cast(*line))
    }

    #[inline(always)]
    fn lookup_row(&self, table: u32, row: u32) -> Option<LookupRow> {
        let line = maps::LookupTable::line(table, 1 + row / ROWS_PER_LINE)?;
        Some(line.rows[(row % ROWS_PER_LINE) as usize])
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<&BackendRow> {
        row(&maps::BACKENDS, slot)
    }

    #[inline(always)]
    fn hop(&self, slot: u32) -> Option<&HopRow> {
        row(&maps::HOPS, slot)
    }

    #[inline(always)]
    fn quic_server(&self, key: &QuicServerKey) -> Option<u32> {
        entry(&maps::QUIC_SERVERS, key).copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        lru_entry(&maps::FLOWS, key)
    }

    #[inline(always)]
    fn set_flow(&self, key: &FlowKey, flow: &Flow) {
        // There is always room in a map that forgets; a failure under memory pressure costs this flow its memory only.
        let _ = maps::FLOWS.insert(key, flow, BPF_ANY as u64);
    }

    #[inline(always)]
    fn touch_flow(&self, key: &FlowKey, flow: &Flow, flags: u16) {
        let now_ns = self.now_ns();
        if flow.flags | flags == flow.flags && now_ns.wrapping_sub(flow.seen_at_ns) < TOUCH_NS {
            return;
        }
        let Some(flow) = maps::FLOWS.get_ptr_mut(key) else { return };
        // SAFETY: an entry of the map, valid while the program runs; another CPU may write the same words, and either is right.
        unsafe { core::ptr::write_volatile(&raw mut (*flow).seen_at_ns, now_ns) };
        // SAFETY: as above.
        unsafe { (*flow).flags |= flags };
    }

    #[inline(always)]
    fn forget_flow(&self, key: &FlowKey) {
        let _ = maps::FLOWS.remove(key);
    }

    #[inline(always)]
    fn nat(&self, key: &FlowKey) -> Option<&NatFlow> {
        entry(&maps::NAT, key)
    }

    #[inline(always)]
    fn nat_half_open(&self, key: &FlowKey) -> Option<&NatFlow> {
        lru_entry(&maps::NAT_HALF_OPEN, key)
    }

    #[inline(always)]
    fn add_nat(&self, key: &FlowKey, flow: &NatFlow) -> bool {
        maps::NAT.insert(key, flow, BPF_NOEXIST as u64).is_ok()
    }

    #[inline(always)]
    fn add_nat_half_open(&self, key: &FlowKey, flow: &NatFlow) -> bool {
        maps::NAT_HALF_OPEN.insert(key, flow, BPF_NOEXIST as u64).is_ok()
    }

    #[inline(always)]
    fn touch_nat(&self, key: &FlowKey, flow: &NatFlow, flags: FlagChange) {
        let now_ns = self.now_ns();
        if flags.of(flow.flags) == flow.flags && now_ns.wrapping_sub(flow.seen_at_ns) < TOUCH_NS {
            return;
        }
        let established = maps::NAT.get_ptr_mut(key);
        let Some(flow) = established.or_else(|| maps::NAT_HALF_OPEN.get_ptr_mut(key)) else { return };
        // SAFETY: as in `touch_flow`.
        unsafe { core::ptr::write_volatile(&raw mut (*flow).seen_at_ns, now_ns) };
        // SAFETY: as above.
        unsafe { (*flow).flags = flags.of((*flow).flags) };
    }

    #[inline(always)]
    fn note_answer(&self, key: &FlowKey, sequence: u32) {
        let Some(flow) = maps::NAT_HALF_OPEN.get_ptr_mut(key) else { return };
        // SAFETY: as in `touch_flow`.
        unsafe { (*flow).sequence_delta = sequence };
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*flow).seen_at_ns, self.now_ns()) };
        // SAFETY: as above.
        unsafe { (*flow).flags |= NatFlow::ANSWERED };
    }

    #[inline(always)]
    fn forget_nat(&self, key: &FlowKey) {
        let _ = maps::NAT.remove(key);
    }

    #[inline(always)]
    fn forget_nat_half_open(&self, key: &FlowKey) {
        let _ = maps::NAT_HALF_OPEN.remove(key);
    }

    #[inline(always)]
    fn replace_nat(&self, key: &FlowKey, flow: &NatFlow) {
        let _ = maps::NAT.insert(key, flow, BPF_EXIST as u64);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        lru_entry(&maps::FRAGMENTS, key).copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        let _ = maps::FRAGMENTS.insert(key, ports, BPF_ANY as u64);
    }

    #[inline(always)]
    fn source(&self, key: &SourceKey) -> Option<Source> {
        lru_entry(&maps::SOURCES, key).copied()
    }

    #[inline(always)]
    fn set_source(&self, key: &SourceKey, source: &Source) {
        let _ = maps::SOURCES.insert(key, source, BPF_ANY as u64);
    }

    #[inline(always)]
    fn kept(&self, key: &SourceKey) -> Option<Kept> {
        lru_entry(&maps::AFFINITY, key).copied()
    }

    #[inline(always)]
    fn set_kept(&self, key: &SourceKey, kept: &Kept) {
        let _ = maps::AFFINITY.insert(key, kept, BPF_ANY as u64);
    }

    #[inline(always)]
    fn mark(&self, index: u32) -> u64 {
        row(&maps::MARKS, index).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn set_mark(&self, index: u32, mark: u64) {
        if let Some(place) = maps::MARKS.get_ptr_mut(index) {
            // SAFETY: an entry of the array; one word, so that another CPU sees the old or the new mark.
            unsafe { core::ptr::write_volatile(place, mark) };
        }
    }

    #[inline(always)]
    fn syn_window(&self, vip: u32) -> Option<SynWindow> {
        row(&maps::SYN_WINDOWS, vip).copied()
    }

    #[inline(always)]
    fn set_syn_window(&self, vip: u32, window: &SynWindow) {
        if let Some(place) = maps::SYN_WINDOWS.get_ptr_mut(vip) {
            // SAFETY: an entry of the array, valid while the program runs.
            unsafe { *place = *window };
        }
    }

    #[inline(always)]
    fn cookie(&self, key: &FlowKey, sequence: u32, class: u8) -> Option<u32> {
        cookie::make(key, sequence, class)
    }

    #[inline(always)]
    fn cookie_holds(&self, key: &FlowKey, sequence: u32, class: u8, value: u32) -> bool {
        cookie::holds(key, sequence, class, value)
    }

    #[inline(always)]
    fn answers(&self) -> Source {
        maps::ANSWERS.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn set_answers(&self, answers: &Source) {
        if let Some(place) = maps::ANSWERS.get_ptr_mut(0) {
            // SAFETY: this CPU's own entry, valid while the program runs.
            unsafe { *place = *answers };
        }
    }

    #[inline(always)]
    fn hand_over(&self, note: HandOver) {
        if let Some(place) = maps::HAND_OVER.get_ptr_mut(0) {
            // SAFETY: this CPU's own entry; no other program uses it until the packet is done.
            unsafe { *place = note };
        }
    }

    #[inline(always)]
    fn handed_over(&self) -> HandOver {
        maps::HAND_OVER.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn count(&self, vip: u32, slot: Option<u32>, bytes: u64, is_new_flow: bool) {
        if self.settings.captured_vip != 0 {
            capture::note(vip, slot, None);
        }
        add(&maps::VIP_COUNTS, vip, bytes, is_new_flow);
        if let Some(slot) = slot {
            add(&maps::BACKEND_COUNTS, slot, bytes, is_new_flow);
        }
    }

    #[inline(always)]
    fn count_reason(&self, vip: Option<u32>, reason: Reason) {
        if self.settings.captured_vip != 0
            && let Some(vip) = vip
        {
            capture::note(vip, None, Some(reason));
        }
        if let Some(count) = maps::REASONS.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own entry, valid while the program runs.
            unsafe { *count += 1 };
        }
        if let Some(traffic) = vip.and_then(|vip| maps::VIP_COUNTS.get_ptr_mut(vip)) {
            // SAFETY: as above.
            unsafe { (*traffic).dropped += 1 };
        }
    }
}

#[inline(always)]
fn add(counts: &PerCpuArray<Traffic>, index: u32, bytes: u64, is_new_flow: bool) {
    let Some(traffic) = counts.get_ptr_mut(index) else { return };
    // SAFETY: this CPU's own entry, valid while the program runs; nothing else refers to it.
    let traffic = unsafe { &mut *traffic };
    traffic.packets += 1;
    traffic.bytes += bytes;
    traffic.flows += is_new_flow as u64;
}

/// An entry of an array, valid while the program runs. Others write single words of it, which are read once each.
#[inline(always)]
fn row<T>(array: &Array<T>, index: u32) -> Option<&'static T> {
    let pointer = array.get_ptr(index)?;
    // SAFETY: entries of an array stay where they are as long as the map, which lives as long as the program.
    Some(unsafe { &*pointer })
}

#[inline(always)]
fn entry<'a, K, V>(map: &'a HashMap<K, V>, key: &K) -> Option<&'a V> {
    // SAFETY: an entry that is removed meanwhile may be another's at once: the packet then goes where that one leads, as it might had
    // it come a moment later or sooner.
    unsafe { map.get(key) }
}

#[inline(always)]
fn lru_entry<'a, K, V>(map: &'a LruHashMap<K, V>, key: &K) -> Option<&'a V> {
    // SAFETY: as in `entry`.
    unsafe { map.get(key) }
}

/// A key of a trie, placed so that the two words of its address are aligned: what the verifier asks of the stack.
#[repr(C, align(8))]
struct OnStack {
    before: u32,
    key: Key<PrefixKey>,
}

impl OnStack {
    #[inline(always)]
    fn new(address: &[u8; 16]) -> Self {
        Self { before: 0, key: Key::new(128, *address) }
    }
}

impl Borrow<Key<PrefixKey>> for &OnStack {
    #[inline(always)]
    fn borrow(&self) -> &Key<PrefixKey> {
        &self.key
    }
}
