//! What becomes of a packet, and why.

/// The end of a packet's way through us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Up the stack, untouched: not for a VIP, or for one whose upstream is local.
    Pass,
    /// Gone, and counted.
    Drop(Reason),
    /// Rewritten; back out of the interface that it came from.
    Transmit,
    /// Rewritten; out of this interface.
    Redirect(u32),
}

/// Why a packet was dropped, or answered by ourselves. Index of the per-CPU array `REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "`text` says it")]
pub enum Reason {
    Truncated = 0,
    BadIpHeader = 1,
    BadTransportHeader = 2,
    BadTcpFlags = 3,
    LandAttack = 4,
    Denied = 5,
    SourceRate = 6,
    NoBackend = 7,
    NoNextHop = 8,
    NatPortsExhausted = 9,
    NatTableFull = 10,
    FragmentUnknown = 11,
    TooBig = 12,
    TimeExceeded = 13,
    IcmpUnknown = 14,
    NoHeadroom = 15,
    CookieInvalid = 16,
    UnknownFlow = 17,
    CookieSent = 18,
    EchoAnswered = 19,
    TooBigAnswered = 20,
    TimeExceededAnswered = 21,
    ProgramFault = 22,
}

impl Reason {
    /// Entries of the array.
    pub const COUNT: u32 = 23;

    /// Every reason in order of its number.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Truncated,
        Self::BadIpHeader,
        Self::BadTransportHeader,
        Self::BadTcpFlags,
        Self::LandAttack,
        Self::Denied,
        Self::SourceRate,
        Self::NoBackend,
        Self::NoNextHop,
        Self::NatPortsExhausted,
        Self::NatTableFull,
        Self::FragmentUnknown,
        Self::TooBig,
        Self::TimeExceeded,
        Self::IcmpUnknown,
        Self::NoHeadroom,
        Self::CookieInvalid,
        Self::UnknownFlow,
        Self::CookieSent,
        Self::EchoAnswered,
        Self::TooBigAnswered,
        Self::TimeExceededAnswered,
        Self::ProgramFault,
    ];

    /// The word in metrics and captures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::BadIpHeader => "bad_ip_header",
            Self::BadTransportHeader => "bad_transport_header",
            Self::BadTcpFlags => "bad_tcp_flags",
            Self::LandAttack => "land_attack",
            Self::Denied => "denied",
            Self::SourceRate => "source_rate",
            Self::NoBackend => "no_backend",
            Self::NoNextHop => "no_next_hop",
            Self::NatPortsExhausted => "nat_ports_exhausted",
            Self::NatTableFull => "nat_table_full",
            Self::FragmentUnknown => "fragment_unknown",
            Self::TooBig => "too_big",
            Self::TimeExceeded => "time_exceeded",
            Self::IcmpUnknown => "icmp_unknown",
            Self::NoHeadroom => "no_headroom",
            Self::CookieInvalid => "cookie_invalid",
            Self::UnknownFlow => "unknown_flow",
            Self::CookieSent => "cookie_sent",
            Self::EchoAnswered => "echo_answered",
            Self::TooBigAnswered => "too_big_answered",
            Self::TimeExceededAnswered => "time_exceeded_answered",
            Self::ProgramFault => "program_fault",
        }
    }

    /// Whether the packet was answered by ourselves rather than dropped.
    pub const fn is_answer(self) -> bool {
        matches!(
            self,
            Self::CookieSent | Self::EchoAnswered | Self::TooBigAnswered | Self::TimeExceededAnswered
        )
    }

    /// One sentence for the operator.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Truncated => "the frame ends inside a header",
            Self::BadIpHeader => "version, header length or total length of the IP header cannot be",
            Self::BadTransportHeader => "data offset or length of the TCP or UDP header cannot be",
            Self::BadTcpFlags => "TCP flags that no connection has",
            Self::LandAttack => "source and destination are the same",
            Self::Denied => "the source is in the deny list, or not in the allow list",
            Self::SourceRate => "the source opens flows faster than the VIP allows",
            Self::NoBackend => "no backend of the VIP may get new flows",
            Self::NoNextHop => "no way to the backend is known",
            Self::NatPortsExhausted => "no free port of ours towards the backend",
            Self::NatTableFull => "the table of translated flows is full",
            Self::FragmentUnknown => "a later fragment whose first was not seen",
            Self::TooBig => "too big for the way to the backend, and not to be answered",
            Self::TimeExceeded => "the time to live has ended, and nothing may be answered",
            Self::IcmpUnknown => "an ICMP error about a flow that is not ours",
            Self::NoHeadroom => "the driver leaves no room for an outer header",
            Self::CookieInvalid => "an acknowledgement of a handshake that did not begin",
            Self::UnknownFlow => "a TCP packet of a translated flow that is not known",
            Self::CookieSent => "SYN answered with a cookie",
            Self::EchoAnswered => "echo request to a VIP answered",
            Self::TooBigAnswered => "too big for the way to the backend; the sender was told",
            Self::TimeExceededAnswered => "the time to live has ended; the sender was told",
            Self::ProgramFault => "a program that should follow was not there",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
    }
}
