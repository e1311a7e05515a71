//! The tables of a node in ordinary collections.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::vec;
use std::vec::Vec;

use crate::backend::BackendRow;
use crate::counter::Traffic;
use crate::flow::{
    FlagChange, Flow, FlowKey, FragmentKey, FragmentPorts, HandOver, Kept, NatFlow, QuicServerKey, Source,
    SourceKey, SynWindow,
};
use crate::hop::HopRow;
use crate::host::memory::Memory;
use crate::host::world::World;
use crate::limits::{
    BACKENDS_MAX, FLOWS_MAX, FRAGMENTS_MAX, MARKS_MAX, NAT_ENTRIES_MAX, NAT_HALF_OPEN_MAX, SOURCES_MAX,
    TOUCH_NS, VIPS_MAX,
};
use crate::lookup::{Head, LookupRow};
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::vip::{Settings, Spans, VipIndex, VipKey, VipRow};

/// A cookie is valid in the minute in which it was made and the next.
const COOKIE_PERIOD_NS: u64 = 60_000_000_000;

/// A cookie is the sum of a secret, the client's sequence number and a note of two bits, which in ours is zero. The kernel takes one with another
/// note as well, and so a sequence number that is a little too low (`check_tcp_syn_cookie`).
const COOKIE_NOTES: u32 = 4;

/// What is configured, and what packets have left behind.
#[derive(Debug)]
pub struct HostTables {
    /// Change it between frames as the master would.
    pub world: World,
    /// The coarse clock.
    pub now_ns: u64,
    /// `FLOWS`.
    pub flows: Memory<FlowKey, Flow>,
    /// `NAT`.
    pub nat: Memory<FlowKey, NatFlow>,
    /// `NAT_HALF_OPEN`.
    pub half_open: Memory<FlowKey, NatFlow>,
    /// `FRAGMENTS`.
    pub fragments: Memory<FragmentKey, FragmentPorts>,
    /// `SOURCES`.
    pub sources: Memory<SourceKey, Source>,
    /// `AFFINITY`.
    pub affinity: Memory<SourceKey, Kept>,
    marks: RefCell<Vec<u64>>,
    syn_windows: Vec<Cell<SynWindow>>,
    told_cookies: Option<RefCell<ToldCookies>>,
    answers: Cell<Source>,
    hand_over: Cell<HandOver>,
    vip_counts: Vec<Cell<Traffic>>,
    backend_counts: Vec<Cell<Traffic>>,
    reasons: Vec<Cell<u64>>,
}

/// Cookies that another side has made.
#[derive(Debug, Default)]
struct ToldCookies {
    next: Option<u32>,
    /// Whom for, which class, and the cookie without the sequence number.
    given: HashSet<(FlowKey, u8, u32)>,
}

impl HostTables {
    /// Tables with the default bounds, empty but for what is configured.
    pub fn new(world: World) -> Self {
        Self {
            world,
            now_ns: 0,
            flows: Memory::evicting(FLOWS_MAX),
            nat: Memory::refusing(NAT_ENTRIES_MAX),
            half_open: Memory::evicting(NAT_HALF_OPEN_MAX),
            fragments: Memory::evicting(FRAGMENTS_MAX),
            sources: Memory::evicting(SOURCES_MAX),
            affinity: Memory::evicting(SOURCES_MAX),
            marks: RefCell::new(vec![0; MARKS_MAX as usize]),
            answers: Cell::default(),
            hand_over: Cell::default(),
            told_cookies: None,
            syn_windows: vec![Cell::default(); VIPS_MAX as usize],
            vip_counts: vec![Cell::default(); VIPS_MAX as usize],
            backend_counts: vec![Cell::default(); BACKENDS_MAX as usize],
            reasons: vec![Cell::default(); Reason::COUNT as usize],
        }
    }

    /// To be called between frames: frees what the one before replaced.
    pub fn settle(&mut self) {
        self.flows.settle();
        self.nat.settle();
        self.half_open.settle();
        self.fragments.settle();
        self.sources.settle();
        self.affinity.settle();
    }

    /// From now on cookies are those of the kernel, which nobody else can compute: the next that is asked for is this one, and
    /// those that were told before hold.
    pub fn tell_cookie(&mut self, next: Option<u32>) {
        self.told_cookies.get_or_insert_default().get_mut().next = next;
    }

    /// What was counted for a VIP.
    pub fn vip_count(&self, vip: u32) -> Traffic {
        self.vip_counts[vip as usize].get()
    }

    /// What was counted for a backend.
    pub fn backend_count(&self, slot: u32) -> Traffic {
        self.backend_counts[slot as usize].get()
    }

    /// How many packets were dropped or answered for this reason.
    pub fn reason_count(&self, reason: Reason) -> u64 {
        self.reasons[reason as usize].get()
    }
}

impl Tables for HostTables {
    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn settings(&self) -> &Settings {
        &self.world.settings
    }

    fn vip(&self, key: &VipKey) -> Option<VipIndex> {
        self.world.vips.iter().find(|(vip, _)| vip == key).map(|(_, row)| *row)
    }

    fn spans(&self, address: &[u8; 16]) -> Option<&Spans> {
        longest(&self.world.prefixes, address)
    }

    fn vip_row(&self, vip: u32) -> Option<&VipRow> {
        self.world.vip_rows.get(vip as usize)
    }

    fn guard(&self, address: &[u8; 16]) -> Option<u32> {
        longest(&self.world.networks, address).map(|guard| *guard as u32)
    }

    fn lookup_head(&self, table: u32) -> Option<Head> {
        self.world.tables.get(table as usize).map(|(head, _)| *head)
    }

    fn lookup_row(&self, table: u32, row: u32) -> Option<LookupRow> {
        self.world.tables.get(table as usize)?.1.get(row as usize).copied()
    }

    fn backend(&self, slot: u32) -> Option<&BackendRow> {
        self.world.backends.get(slot as usize)
    }

    fn hop(&self, slot: u32) -> Option<&HopRow> {
        self.world.hops.get(slot as usize)
    }

    fn quic_server(&self, key: &QuicServerKey) -> Option<u32> {
        self.world.quic_servers.iter().find(|(server, _)| server == key).map(|(_, slot)| *slot)
    }

    fn flow(&self, key: &FlowKey) -> Option<&Flow> {
        self.flows.get(key)
    }

    fn set_flow(&self, key: &FlowKey, flow: &Flow) {
        self.flows.set(key, *flow);
    }

    fn touch_flow(&self, key: &FlowKey, flow: &Flow, flags: u16) {
        let flags = flow.flags | flags;
        if flow.flags != flags || self.now_ns.saturating_sub(flow.seen_at_ns) >= TOUCH_NS {
            self.flows.set(key, Flow { seen_at_ns: self.now_ns, flags, ..*flow });
        }
    }

    fn forget_flow(&self, key: &FlowKey) {
        self.flows.remove(key);
    }

    fn nat(&self, key: &FlowKey) -> Option<&NatFlow> {
        self.nat.get(key)
    }

    fn nat_half_open(&self, key: &FlowKey) -> Option<&NatFlow> {
        self.half_open.get(key)
    }

    fn add_nat(&self, key: &FlowKey, flow: &NatFlow) -> bool {
        self.nat.add(key, *flow)
    }

    fn add_nat_half_open(&self, key: &FlowKey, flow: &NatFlow) -> bool {
        self.half_open.add(key, *flow)
    }

    fn touch_nat(&self, key: &FlowKey, flow: &NatFlow, flags: FlagChange) {
        let flags = flags.of(flow.flags);
        if flow.flags == flags && self.now_ns.saturating_sub(flow.seen_at_ns) < TOUCH_NS {
            return;
        }
        let touched = NatFlow { seen_at_ns: self.now_ns, flags, ..*flow };
        let table = if self.nat.get(key).is_some() { &self.nat } else { &self.half_open };
        if table.get(key).is_some() {
            table.set(key, touched);
        }
    }

    fn note_answer(&self, key: &FlowKey, sequence: u32) {
        if let Some(flow) = self.half_open.get(key) {
            let flags = flow.flags | NatFlow::ANSWERED;
            let noted = NatFlow { sequence_delta: sequence, flags, seen_at_ns: self.now_ns, ..*flow };
            self.half_open.set(key, noted);
        }
    }

    fn replace_nat(&self, key: &FlowKey, flow: &NatFlow) {
        if self.nat.get(key).is_some() {
            self.nat.set(key, *flow);
        }
    }

    fn forget_nat(&self, key: &FlowKey) {
        self.nat.remove(key);
    }

    fn forget_nat_half_open(&self, key: &FlowKey) {
        self.half_open.remove(key);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        self.fragments.set(key, *ports);
    }

    fn source(&self, key: &SourceKey) -> Option<Source> {
        self.sources.get(key).copied()
    }

    fn set_source(&self, key: &SourceKey, source: &Source) {
        self.sources.set(key, *source);
    }

    fn kept(&self, key: &SourceKey) -> Option<Kept> {
        self.affinity.get(key).copied()
    }

    fn set_kept(&self, key: &SourceKey, kept: &Kept) {
        self.affinity.set(key, *kept);
    }

    fn mark(&self, index: u32) -> u64 {
        self.marks.borrow().get(index as usize).copied().unwrap_or(0)
    }

    fn set_mark(&self, index: u32, mark: u64) {
        if let Some(place) = self.marks.borrow_mut().get_mut(index as usize) {
            *place = mark;
        }
    }

    fn answers(&self) -> Source {
        self.answers.get()
    }

    fn set_answers(&self, answers: &Source) {
        self.answers.set(*answers);
    }

    fn hand_over(&self, note: HandOver) {
        self.hand_over.set(note);
    }

    fn handed_over(&self) -> HandOver {
        self.hand_over.get()
    }

    fn syn_window(&self, vip: u32) -> Option<SynWindow> {
        self.syn_windows.get(vip as usize).map(Cell::get)
    }

    fn set_syn_window(&self, vip: u32, window: &SynWindow) {
        if let Some(cell) = self.syn_windows.get(vip as usize) {
            cell.set(*window);
        }
    }

    fn cookie(&self, key: &FlowKey, sequence: u32, class: u8) -> Option<u32> {
        let Some(told) = &self.told_cookies else {
            return Some(secret(key, class, self.now_ns / COOKIE_PERIOD_NS).wrapping_add(sequence));
        };
        let mut told = told.borrow_mut();
        let next = told.next.take()?;
        told.given.insert((*key, class, next.wrapping_sub(sequence)));
        Some(next)
    }

    fn cookie_holds(&self, key: &FlowKey, sequence: u32, class: u8, given: u32) -> bool {
        let mut without = (0..COOKIE_NOTES).map(|note| given.wrapping_sub(sequence).wrapping_sub(note));
        if let Some(told) = &self.told_cookies {
            return without.any(|rest| told.borrow().given.contains(&(*key, class, rest)));
        }
        let period = self.now_ns / COOKIE_PERIOD_NS;
        let secrets = [period, period.saturating_sub(1)].map(|period| secret(key, class, period));
        without.any(|rest| secrets.contains(&rest))
    }

    fn count(&self, vip: u32, slot: Option<u32>, bytes: u64, is_new_flow: bool) {
        let slot = slot.and_then(|slot| self.backend_counts.get(slot as usize));
        for cell in self.vip_counts.get(vip as usize).into_iter().chain(slot) {
            let mut traffic = cell.get();
            traffic.packets += 1;
            traffic.bytes += bytes;
            traffic.flows += u64::from(is_new_flow);
            cell.set(traffic);
        }
    }

    fn count_reason(&self, vip: Option<u32>, reason: Reason) {
        let cell = &self.reasons[reason as usize];
        cell.set(cell.get() + 1);
        if let Some(cell) = vip.and_then(|vip| self.vip_counts.get(vip as usize)) {
            let mut traffic = cell.get();
            traffic.dropped += 1;
            cell.set(traffic);
        }
    }
}

/// A number that depends on all arguments. Anybody can compute it, unlike the kernel's.
fn secret(key: &FlowKey, class: u8, period: u64) -> u32 {
    let mut hasher = std::hash::DefaultHasher::new();
    (key, class, period).hash(&mut hasher);
    hasher.finish() as u32
}

/// The value of the longest prefix that holds the address.
fn longest<'a, V>(prefixes: &'a [([u8; 16], u32, V)], address: &[u8; 16]) -> Option<&'a V> {
    let number = u128::from_be_bytes(*address);
    let holds = |prefix: &[u8; 16], bits: u32| {
        let differ = number ^ u128::from_be_bytes(*prefix);
        differ.checked_shr(128 - bits).unwrap_or(0) == 0
    };
    let holding = prefixes.iter().filter(|(prefix, bits, _)| holds(prefix, *bits));
    holding.max_by_key(|(_, bits, _)| *bits).map(|(_, _, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::address_bytes;
    use crate::vip::Guard;

    #[test]
    fn longest_prefix_decides() {
        let address = |text: &str| address_bytes(text.parse().expect("an address"));
        let mut world = World::default();
        world.add_network("0.0.0.0".parse().expect("an address"), 0, Guard::Deny);
        world.add_network("10.0.0.0".parse().expect("an address"), 8, Guard::Allow);
        world.add_network("2001:db8::1".parse().expect("an address"), 128, Guard::Deny);
        let tables = HostTables::new(world);
        assert_eq!(tables.guard(&address("10.1.2.3")), Some(Guard::Allow as u32));
        assert_eq!(tables.guard(&address("11.1.2.3")), Some(Guard::Deny as u32));
        assert_eq!(tables.guard(&address("2001:db8::1")), Some(Guard::Deny as u32));
        assert_eq!(tables.guard(&address("2001:db8::2")), None);
    }

    #[test]
    fn told_cookie_is_given_once_and_holds() {
        let mut tables = HostTables::new(World::default());
        let key = FlowKey::default();
        let made = tables.cookie(&key, 1, 2).expect("the host makes them itself");
        assert!(tables.cookie_holds(&key, 1, 2, made) && !tables.cookie_holds(&key, 1, 3, made));
        assert!(
            tables.cookie_holds(&key, u32::MAX - 1, 2, made)
                && !tables.cookie_holds(&key, u32::MAX - 2, 2, made)
        );
        assert!(!tables.cookie_holds(&key, 2, 2, made));
        tables.tell_cookie(Some(77));
        assert_eq!((tables.cookie(&key, 1, 2), tables.cookie(&key, 1, 2)), (Some(77), None));
        assert!(tables.cookie_holds(&key, 1, 2, 77) && !tables.cookie_holds(&key, 1, 2, made));
    }

    #[test]
    fn entry_is_touched_where_it_is_and_ten_times_a_second() {
        let mut tables = HostTables::new(World::default());
        let (key, flow) = (FlowKey::default(), NatFlow::default());
        tables.touch_nat(&key, &flow, FlagChange::set(NatFlow::RESET));
        assert!(tables.nat.is_empty() && tables.half_open.is_empty(), "what is not there is not made");
        assert!(tables.add_nat_half_open(&key, &flow));
        tables.now_ns = TOUCH_NS - 1;
        tables.touch_nat(&key, &flow, FlagChange::NONE);
        assert_eq!(tables.nat_half_open(&key).map(|flow| flow.seen_at_ns), Some(0));
        tables.now_ns = TOUCH_NS;
        tables.touch_nat(&key, &flow, FlagChange::set(NatFlow::ANSWERED));
        let touched = tables.nat_half_open(&key).map(|flow| (flow.seen_at_ns, flow.flags));
        assert_eq!(touched, Some((TOUCH_NS, NatFlow::ANSWERED)));
    }
}
