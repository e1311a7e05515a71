//! Kernel programs of the tests' laboratory: what stands in for a network card, a tunnel's far end and a packet generator.
//!
//! No part of `lbctl`. They exist because the machines that tests run on have neither IPIP nor VLAN devices nor pktgen, and
//! because frames that are sent into a veth need an XDP program at its other end.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the entry point macros put the documentation on an inner function")]

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action};
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_skb_vlan_push, bpf_xdp_adjust_head, bpf_xdp_get_buff_len,
};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_ebpf::{EbpfContext, Global};

/// IPv4 packets with datagrams, in tunnels or not, that a sink took.
#[map]
static SUNK: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Frames that came out of a tunnel.
#[map]
static DECAPSULATED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Frames whose outer header no kernel would accept.
#[map]
static BAD_OUTER: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Frames that came with the tag of [`VLAN`].
#[map]
static TAGGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// IP frames to the client alone that came without a tag.
#[map]
static UNTAGGED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Frames generated so far.
#[map]
static GENERATED: Array<u64> = Array::with_max_entries(1, 0);

/// The frame that the generators begin from: what comes back to them for the next one was rewritten on its way.
#[map]
static TEMPLATE: Array<[u8; TEMPLATE_BYTES]> = Array::with_max_entries(1, 0);

/// How many flows the generated datagrams belong to.
#[unsafe(no_mangle)]
static FLOWS: Global<u32> = Global::new(1);

/// The VLAN of the tagged link.
const VLAN: u16 = 7;
/// IANA's port for generic UDP encapsulation.
const GUE_PORT: u16 = 6080;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
const TAG: u16 = 0x8100;
const UDP: u8 = 17;
const IN_IPV4: u8 = 4;
const IN_IPV6: u8 = 41;
const LINK_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
/// Up to the end of a TCP SYN with one option.
const TEMPLATE_BYTES: usize = 58;

/// Lets everything pass: a veth takes frames from `XDP_TX` and `XDP_REDIRECT` only when its other end runs a program.
#[xdp]
pub fn lab_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// A backend's network card: takes packets out of IPIP and GUE, everything else passes.
#[xdp]
pub fn lab_decapsulate(ctx: XdpContext) -> u32 {
    decapsulate(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

/// A backend that counts datagrams and drops them.
#[xdp]
pub fn lab_sink(ctx: XdpContext) -> u32 {
    if is_datagram(&ctx) != Some(true) {
        return xdp_action::XDP_PASS;
    }
    count(&SUNK);
    xdp_action::XDP_DROP
}

/// The same where frames come as socket buffers: cheaper there than turning them into frames for XDP.
#[classifier]
pub fn lab_sink_buffers(ctx: TcContext) -> i32 {
    let is_datagram = ctx.load::<[u8; 2]>(12).is_ok_and(|kind| u16::from_be_bytes(kind) == IPV4)
        && ctx.load::<u8>(LINK_BYTES + 9).is_ok_and(|protocol| protocol == UDP);
    if !is_datagram {
        return TC_ACT_OK;
    }
    count(&SUNK);
    TC_ACT_SHOT
}

/// The client's end of a tagged link, on the way out.
#[classifier]
pub fn lab_tag(ctx: TcContext) -> i32 {
    // SAFETY: a helper of this program type, given this program's context.
    let result = unsafe { bpf_skb_vlan_push(ctx.as_ptr().cast(), TAG.to_be(), VLAN) };
    if result == 0 { TC_ACT_OK } else { TC_ACT_SHOT }
}

/// The client's end of a tagged link, on the way in: takes the tag off, and counts what came with and without.
#[xdp]
pub fn lab_untag(ctx: XdpContext) -> u32 {
    untag(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

/// Sends an IPv4 UDP frame back out, as one of `FLOWS` flows in turn.
#[xdp]
pub fn lab_generate_datagrams(ctx: XdpContext) -> u32 {
    generate_datagram(&ctx).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
}

/// Sends an IPv4 TCP frame back out, from a random address and port.
#[xdp]
pub fn lab_generate_syns(ctx: XdpContext) -> u32 {
    generate_syn(&ctx).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
}

#[inline(always)]
fn decapsulate(ctx: &XdpContext) -> Option<u32> {
    let (network_bytes, protocol) = match read_u16(ctx, 12)? {
        IPV4 if read::<u8>(ctx, LINK_BYTES)? == 0x45 => (IPV4_BYTES, read::<u8>(ctx, LINK_BYTES + 9)?),
        IPV6 => (IPV6_BYTES, read::<u8>(ctx, LINK_BYTES + 6)?),
        _ => return None,
    };
    let transport = LINK_BYTES + network_bytes;
    let outer_bytes = match protocol {
        IN_IPV4 | IN_IPV6 => network_bytes,
        UDP if read_u16(ctx, transport + 2)? == GUE_PORT => network_bytes + UDP_BYTES,
        _ => return None,
    };
    if !is_good_outer(ctx, network_bytes, outer_bytes)? {
        count(&BAD_OUTER);
        return Some(xdp_action::XDP_DROP);
    }
    let kind = match (read::<u8>(ctx, LINK_BYTES + outer_bytes)? >> 4, protocol) {
        (4, IN_IPV4 | UDP) => IPV4,
        (6, IN_IPV6 | UDP) => IPV6,
        _ => {
            count(&BAD_OUTER);
            return Some(xdp_action::XDP_DROP);
        }
    };
    strip(ctx, outer_bytes, kind)?;
    count(&DECAPSULATED);
    Some(xdp_action::XDP_PASS)
}

/// Whether lengths and checksums of the outer headers are what a kernel asks for.
#[inline(always)]
fn is_good_outer(ctx: &XdpContext, network_bytes: usize, outer_bytes: usize) -> Option<bool> {
    // SAFETY: a helper of this program type, given this program's context. The difference of the two pointers would do, but the compiler
    // moves terms to the side of the end, where 6.18 allows none ("pointer arithmetic on pkt_end prohibited", rustc 1.96).
    let frame_bytes = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as usize;
    let network = if network_bytes == IPV4_BYTES {
        // In one piece: of a loop of reads the compiler makes arithmetic on the end, see above.
        let header: [[u8; 2]; IPV4_BYTES / 2] = read(ctx, LINK_BYTES)?;
        let sum = header.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        fold(sum) == 0xFFFF && usize::from(read_u16(ctx, LINK_BYTES + 2)?) + LINK_BYTES == frame_bytes
    } else {
        usize::from(read_u16(ctx, LINK_BYTES + 4)?) + IPV6_BYTES + LINK_BYTES == frame_bytes
    };
    if outer_bytes == network_bytes {
        return Some(network);
    }
    let udp = LINK_BYTES + network_bytes;
    let udp_bytes = frame_bytes - udp;
    // Without a checksum, which RFC 6935 allows tunnels over IPv6 too: nothing here would compute one.
    Some(network && usize::from(read_u16(ctx, udp + 4)?) == udp_bytes && read_u16(ctx, udp + 6)? == 0)
}

#[inline(always)]
fn untag(ctx: &XdpContext) -> Option<u32> {
    match read_u16(ctx, 12)? {
        TAG if read_u16(ctx, 14)? & 0xFFF == VLAN => {
            let kind = read_u16(ctx, 16)?;
            strip(ctx, 4, kind)?;
            count(&TAGGED);
        }
        // What a host says to all its neighbours is nobody's answer.
        IPV4 | IPV6 if read::<u8>(ctx, 0)? & 1 == 0 => count(&UNTAGGED),
        _ => {}
    }
    Some(xdp_action::XDP_PASS)
}

/// Takes `bytes` out from behind the link-layer addresses and writes the type of what is now there.
#[inline(always)]
fn strip(ctx: &XdpContext, bytes: usize, kind: u16) -> Option<()> {
    let addresses: [u8; 12] = read(ctx, 0)?;
    // SAFETY: a helper of this program type, given this program's context.
    let result = unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes as i32) };
    if result != 0 {
        return None;
    }
    write(ctx, 0, addresses)?;
    write(ctx, 12, kind.to_be_bytes())
}

#[inline(always)]
fn is_datagram(ctx: &XdpContext) -> Option<bool> {
    let protocol: u8 = read(ctx, LINK_BYTES + 9)?;
    Some(read_u16(ctx, 12)? == IPV4 && (protocol == UDP || protocol == IN_IPV4))
}

/// Flows differ in the source port's lower 14 bits, then in the address's lower 16. Without a UDP checksum.
#[inline(always)]
fn generate_datagram(ctx: &XdpContext) -> Option<()> {
    write(ctx, 0, *TEMPLATE.get(0)?)?;
    let flow = next() as u32 % FLOWS.load().max(1);
    write(ctx, LINK_BYTES + IPV4_BYTES, (0x4000 | (flow & 0x3FFF) as u16).to_be_bytes())?;
    let at = LINK_BYTES + 14;
    let (old, new) = (read_u16(ctx, at)?, (flow >> 14) as u16 + 2);
    write(ctx, at, new.to_be_bytes())?;
    replace_sum(ctx, LINK_BYTES + 10, old, new)
}

/// The source becomes a random address of 11.0.0.0/8 and a random port; both checksums follow.
#[inline(always)]
fn generate_syn(ctx: &XdpContext) -> Option<()> {
    write(ctx, 0, *TEMPLATE.get(0)?)?;
    next();
    // SAFETY: a helper without arguments.
    let (address, port) = unsafe { (bpf_get_prandom_u32(), bpf_get_prandom_u32()) };
    let transport = LINK_BYTES + IPV4_BYTES;
    let replaced = [
        (LINK_BYTES + 12, 11 << 8 | (address >> 16) as u16 & 0xFF),
        (LINK_BYTES + 14, address as u16),
        (transport, 1024 | port as u16),
    ];
    for (at, new) in replaced {
        let old = read_u16(ctx, at)?;
        write(ctx, at, new.to_be_bytes())?;
        if at < transport {
            replace_sum(ctx, LINK_BYTES + 10, old, new)?;
        }
        replace_sum(ctx, transport + 16, old, new)?;
    }
    Some(())
}

/// RFC 1624: the checksum at `at` after a word it covers has changed.
#[inline(always)]
fn replace_sum(ctx: &XdpContext, at: usize, old: u16, new: u16) -> Option<()> {
    let sum = u32::from(!read_u16(ctx, at)?) + u32::from(!old) + u32::from(new);
    write(ctx, at, (!fold(sum)).to_be_bytes())
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xFFFF) + (sum >> 16);
    ((once & 0xFFFF) + (once >> 16)) as u16
}

/// Counts a generated frame; returns how many there were before.
#[inline(always)]
fn next() -> u64 {
    let Some(count) = GENERATED.get_ptr_mut(0) else { return 0 };
    // SAFETY: the entry lives as long as the map. One generator runs at a time; two would only mix their flows.
    let before = unsafe { *count };
    // SAFETY: as above.
    unsafe { *count = before + 1 };
    before
}

#[inline(always)]
fn count(counter: &PerCpuArray<u64>) {
    if let Some(value) = counter.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, valid while the program runs.
        unsafe { *value += 1 };
    }
}

#[inline(always)]
fn read_u16(ctx: &XdpContext, at: usize) -> Option<u16> {
    read(ctx, at).map(u16::from_be_bytes)
}

#[inline(always)]
fn read<T: Copy>(ctx: &XdpContext, at: usize) -> Option<T> {
    let from = ctx.data() + at;
    if from + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie before the end of the frame, as was just compared; no alignment is assumed.
    Some(unsafe { core::ptr::read_unaligned(from as *const T) })
}

#[inline(always)]
fn write<T: Copy>(ctx: &XdpContext, at: usize, value: T) -> Option<()> {
    let to = ctx.data() + at;
    if to + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: as in `read`.
    unsafe { core::ptr::write_unaligned(to as *mut T, value) };
    Some(())
}

/// The licence that the kernel asks for.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
