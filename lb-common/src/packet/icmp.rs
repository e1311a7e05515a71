//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.

/// Bytes of a message before what it quotes or echoes: type, code, checksum, and four bytes whose meaning the type gives.
pub const HEADER_BYTES: usize = 8;
/// Where the checksum is.
pub const CHECKSUM_AT: usize = 2;

/// Type of ICMP: echo request.
pub const ECHO: u8 = 8;
/// Type of ICMP: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of ICMP: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type and code of ICMP: fragmentation needed, but forbidden.
pub const TOO_BIG: [u8; 2] = [UNREACHABLE, 4];
/// Type and code of ICMP: time to live exceeded in transit.
pub const TIME_EXCEEDED: [u8; 2] = [11, 0];
/// Type of ICMP: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Type of ICMPv6: echo request.
pub const V6_ECHO: u8 = 128;
/// Type of ICMPv6: echo reply.
pub const V6_ECHO_REPLY: u8 = 129;
/// Type of ICMPv6: packet too big.
pub const V6_TOO_BIG: u8 = 2;
/// Type of ICMPv6: time exceeded; code 0 is the hop limit.
pub const V6_TIME_EXCEEDED: u8 = 3;
/// The last type of ICMPv6's errors about a packet: unreachable, too big, time exceeded, parameter problem.
pub const V6_ERRORS_LAST: u8 = 4;

/// Whether a message of this type quotes a packet that its receiver sent.
#[inline(always)]
pub const fn is_error(kind: u8, is_ipv6: bool) -> bool {
    if is_ipv6 {
        kind >= 1 && kind <= V6_ERRORS_LAST
    } else {
        matches!(kind, UNREACHABLE | 11 | PARAMETER_PROBLEM)
    }
}
