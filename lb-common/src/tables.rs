//! The tables as the decisions see them: maps in the kernel, ordinary collections in a test.

use crate::backend::BackendRow;
use crate::flow::{
    FlagChange, Flow, FlowKey, FragmentKey, FragmentPorts, HandOver, Kept, NatFlow, QuicServerKey, Source,
    SourceKey, SynWindow,
};
use crate::hop::HopRow;
use crate::lookup::{Head, LookupRow};
use crate::verdict::Reason;
use crate::vip::{Settings, Spans, VipIndex, VipKey, VipRow};

/// Everything that [`crate::packet::Frame`]s are decided by. What is written is visible to the next packet.
///
/// References point into the table: another CPU may write them at the same time, and each field is read once.
pub trait Tables {
    /// Coarse time: nanoseconds of `CLOCK_MONOTONIC`.
    fn now_ns(&self) -> u64;
    /// The one entry of `SETTINGS`.
    fn settings(&self) -> &Settings;

    /// `VIPS`.
    fn vip(&self, key: &VipKey) -> Option<VipIndex>;
    /// `VIP_PREFIXES`: the longest prefix that holds the address.
    fn spans(&self, address: &[u8; 16]) -> Option<&Spans>;
    /// `VIP_ROWS`.
    fn vip_row(&self, vip: u32) -> Option<&VipRow>;
    /// `NETWORKS`: a [`crate::vip::Guard`] for the longest prefix that holds the address.
    fn guard(&self, address: &[u8; 16]) -> Option<u32>;

    /// The head of a lookup table.
    fn lookup_head(&self, table: u32) -> Option<Head>;
    /// A row of a lookup table.
    fn lookup_row(&self, table: u32, row: u32) -> Option<LookupRow>;
    /// `BACKENDS`.
    fn backend(&self, slot: u32) -> Option<&BackendRow>;
    /// `HOPS`.
    fn hop(&self, slot: u32) -> Option<&HopRow>;
    /// `QUIC_SERVERS`: a slot.
    fn quic_server(&self, key: &QuicServerKey) -> Option<u32>;

    /// `FLOWS`.
    fn flow(&self, key: &FlowKey) -> Option<&Flow>;
    /// Remembers a flow, or changes it; the least recently used one may go.
    fn set_flow(&self, key: &FlowKey, flow: &Flow);
    /// A flow that was used: its time, at most ten times a second.
    fn touch_flow(&self, key: &FlowKey, flow: &Flow, flags: u16);
    /// Forgets a flow.
    fn forget_flow(&self, key: &FlowKey);

    /// `NAT`.
    fn nat(&self, key: &FlowKey) -> Option<&NatFlow>;
    /// `NAT_HALF_OPEN`.
    fn nat_half_open(&self, key: &FlowKey) -> Option<&NatFlow>;
    /// Puts an entry into `NAT`; false when there is one, or no room.
    fn add_nat(&self, key: &FlowKey, flow: &NatFlow) -> bool;
    /// Puts an entry into `NAT_HALF_OPEN`; false when there is one. The least recently used one may go.
    fn add_nat_half_open(&self, key: &FlowKey, flow: &NatFlow) -> bool;
    /// Changes an entry of `NAT` or `NAT_HALF_OPEN`, wherever it is: its flags, and its time, where it is older than [`crate::limits::TOUCH_NS`]
    /// or the flags change.
    fn touch_nat(&self, key: &FlowKey, flow: &NatFlow, flags: FlagChange);
    /// Notes in an entry of `NAT_HALF_OPEN` what the backend's answer to a SYN begins with.
    fn note_answer(&self, key: &FlowKey, sequence: u32);
    /// Puts other content into an entry of `NAT` that is there, in one step; nothing happens where there is none.
    fn replace_nat(&self, key: &FlowKey, flow: &NatFlow);
    /// Forgets an entry of `NAT`.
    fn forget_nat(&self, key: &FlowKey);
    /// Forgets an entry of `NAT_HALF_OPEN`.
    fn forget_nat_half_open(&self, key: &FlowKey);

    /// `FRAGMENTS`.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Remembers the ports of a datagram.
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts);

    /// `SOURCES`.
    fn source(&self, key: &SourceKey) -> Option<Source>;
    /// See [`Self::source`].
    fn set_source(&self, key: &SourceKey, source: &Source);
    /// `AFFINITY`.
    fn kept(&self, key: &SourceKey) -> Option<Kept>;
    /// See [`Self::kept`].
    fn set_kept(&self, key: &SourceKey, kept: &Kept);

    /// `MARKS`, an array of [`crate::limits::MARKS_MAX`]: what is at `index`.
    fn mark(&self, index: u32) -> u64;
    /// See [`Self::mark`].
    fn set_mark(&self, index: u32, mark: u64);

    /// `SYN_WINDOWS`, by row in `VIP_ROWS`: how many SYNs came lately.
    fn syn_window(&self, vip: u32) -> Option<SynWindow>;
    /// See [`Self::syn_window`]. CPUs that write at once lose counts, which an estimate may.
    fn set_syn_window(&self, vip: u32, window: &SynWindow);
    /// A SYN cookie: a sequence number that only we could have chosen for this client, VIP, `sequence` (the client's first) and
    /// `class` (0–3, what the cookie has to remember), and that expires. `None`: this kernel cannot make one.
    fn cookie(&self, key: &FlowKey, sequence: u32, class: u8) -> Option<u32>;
    /// Whether `cookie` is one that [`Self::cookie`] gave for the same arguments, or for a `sequence` up to three higher, and has not expired.
    fn cookie_holds(&self, key: &FlowKey, sequence: u32, class: u8, cookie: u32) -> bool;

    /// How many ICMP errors this CPU may send now; zero before the first.
    fn answers(&self) -> Source;
    /// See [`Self::answers`].
    fn set_answers(&self, answers: &Source);

    /// Leaves a note for the stage that follows, of the same packet on the same CPU.
    fn hand_over(&self, note: HandOver);
    /// The note that the stage before left.
    fn handed_over(&self) -> HandOver;

    /// Counts for a VIP and, where one was chosen, a backend.
    fn count(&self, vip: u32, slot: Option<u32>, bytes: u64, is_new_flow: bool);
    /// Counts a packet that was dropped or answered, and the VIP that it was for.
    fn count_reason(&self, vip: Option<u32>, reason: Reason);
}
