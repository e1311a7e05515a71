//! The short-cut: enrolling the two ends of a local connection, and sending messages from one to the other.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_INGRESS, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock_ops, sk_action,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_msg_redirect_hash, bpf_sk_storage_delete,
    bpf_sk_storage_get, bpf_skb_adjust_room, bpf_sock_hash_update,
};
use aya_ebpf::programs::{SkBuffContext, SkMsgContext, SockOpsContext};
use lb_common::counter::Counter;
use lb_common::socket::{Address, End, EndKey, Half, Way, repeated, way};

use crate::maps::{ENDS, HALVES, SEGMENTS, SHORT_CUT_PORTS, SOCKETS};
use crate::{count, kernel};

/// The message or segment goes on its way: the one that was chosen, or TCP.
pub const PASS: u32 = sk_action::SK_PASS;
/// The segment goes nowhere.
pub const DROP: u32 = sk_action::SK_DROP;

/// The most that one call of the kernel takes off a segment's beginning.
const TAKEN_OFF_MAX: u32 = 0xfff;
/// Calls for one segment, which is at most 64 KiB as it is sent. The verifier goes through each: with 137 it took 100 ms.
const TAKEN_OFF_CALLS: u32 = 64 * 1024 / TAKEN_OFF_MAX + 1;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// A word of the context, read where it is written.
macro_rules! field {
    ($ops:expr, $($field:tt)+) => {
        // SAFETY: `ops` is the program's context, whose fields are readable; those of the other family without meaning.
        unsafe { core::ptr::read_volatile(&raw const (*$ops).$($field)+) }
    };
}

/// Enrols a socket that has just been established when both its ends are loopback and its server's port is enrolled.
#[inline(always)]
pub fn established(ctx: &SockOpsContext) {
    let active = match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => true,
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => false,
        _ => return,
    };
    let local_port = ctx.local_port();
    // The remote port is big-endian in a u32, the local one is not.
    let remote_port = u32::from_be(ctx.remote_port());
    let server_port = if active { remote_port } else { local_port };
    // SAFETY: only whether there is an entry matters.
    if unsafe { SHORT_CUT_PORTS.get(&server_port) }.is_none() {
        return;
    }
    let Some((local, remote)) = addresses(ctx.ops) else { return };
    // SAFETY: a helper of this program type, given this program's context.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let key = EndKey { namespace, local, remote, local_port, remote_port };
    if !key.is_loopback() {
        return;
    }
    count::one(if enrol(ctx.ops, key) { Counter::Enrolled } else { Counter::Refused });
}

/// Both ends' addresses. All fields are read before the family is looked at: the compiler would else join the two reads
/// through a pointer into the context, which the verifier refuses ("dereference of modified ctx ptr", 6.18, rustc 1.96).
#[inline(always)]
fn addresses(ops: *const bpf_sock_ops) -> Option<(Address, Address)> {
    let (local_v4, remote_v4) = (field!(ops, local_ip4), field!(ops, remote_ip4));
    let local_v6 = [0, 1, 2, 3].map(|at| field!(ops, local_ip6[at]));
    let remote_v6 = [0, 1, 2, 3].map(|at| field!(ops, remote_ip6[at]));
    match field!(ops, family) {
        AF_INET => Some((Address::from_v4(local_v4), Address::from_v4(remote_v4))),
        AF_INET6 => Some((Address(local_v6), Address(remote_v6))),
        _ => None,
    }
}

/// Whether the socket was enrolled. The map of sockets comes last: who is found there has everything else.
#[inline(always)]
fn enrol(ops: *mut bpf_sock_ops, key: EndKey) -> bool {
    // SAFETY: `ops` is this program's context.
    let sock = unsafe { (*ops).__bindgen_anon_2.sk };
    if sock.is_null() {
        return false;
    }
    let half = half_of(sock.cast(), BPF_SK_STORAGE_GET_F_CREATE as u64);
    if half.is_null() {
        return false;
    }
    // Through the storage and back: what lay in a map is a number to the verifier, and numbers can be calculated with.
    // SAFETY: `half` is this socket's storage, valid while the program runs.
    unsafe { core::ptr::write_volatile(&raw mut (*half).socket, sock as u64) };
    // SAFETY: as above.
    let socket = unsafe { core::ptr::read_volatile(&raw const (*half).socket) };
    // SAFETY: as above.
    unsafe { (*half).key = key };
    // SAFETY: a helper of this program type, given this program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let enrolled = !kernel::has_upper_protocol(socket)
        && ENDS.insert(&key, &End { cookie, socket }, BPF_ANY as u64).is_ok()
        && insert_socket(ops, cookie);
    if !enrolled {
        let halves = (&raw const HALVES).cast_mut().cast();
        // SAFETY: `sock` is this program's own socket and not null.
        unsafe { bpf_sk_storage_delete(halves, sock.cast()) };
    }
    enrolled
}

#[inline(always)]
fn insert_socket(ops: *mut bpf_sock_ops, mut cookie: u64) -> bool {
    let sockets = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: `ops` is this program's context and the key is a local variable of the map's key size.
    unsafe { bpf_sock_hash_update(ops, sockets, (&raw mut cookie).cast(), BPF_NOEXIST as u64) == 0 }
}

#[inline(always)]
fn half_of(sock: *mut core::ffi::c_void, flags: u64) -> *mut Half {
    let halves = (&raw const HALVES).cast_mut().cast();
    // SAFETY: `sock` is the context's socket and not null; without a value given the storage begins as zeros.
    unsafe { bpf_sk_storage_get(halves, sock, core::ptr::null_mut(), flags) }.cast()
}

/// Sends a message of an enrolled socket the way that keeps order and bounds (see [`way`]).
#[inline(always)]
pub fn sent(ctx: &SkMsgContext) {
    // SAFETY: `msg` is this program's context.
    let sock = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    let half = half_of(sock.cast(), 0);
    if half.is_null() {
        return;
    }
    // SAFETY: `half` is this socket's storage, valid while the program runs, and the sender holds the socket's lock.
    let half = unsafe { &mut *half };
    match way_now(half, ctx.size()) {
        Some(Way::ShortCut) => redirect(ctx, half),
        Some(Way::TcpUnread) => count::one(Counter::PassedUnread),
        Some(Way::TcpNoCredit) => count::one(Counter::PassedNoCredit),
        None => count::one(Counter::PassedNoPeer),
    }
}

#[inline(always)]
fn way_now(half: &mut Half, bytes: u32) -> Option<Way> {
    if half.peer.cookie == 0 {
        // SAFETY: the entry is copied at once; a stale or torn one names no socket of the map of sockets.
        half.peer = *unsafe { ENDS.get(&half.key.of_peer()) }?;
    }
    let reads_next = kernel::reads_next(half.peer.socket)?;
    let queued = kernel::queued_bytes(half.peer.socket)?;
    Some(way(kernel::writes_next(half.socket)?, reads_next, queued, bytes))
}

#[inline(always)]
fn redirect(ctx: &SkMsgContext, half: &mut Half) {
    let mut cookie = half.peer.cookie;
    let sockets = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: `msg` is this program's context and the key is a local variable of the map's key size.
    let verdict =
        unsafe { bpf_msg_redirect_hash(ctx.msg, sockets, (&raw mut cookie).cast(), BPF_F_INGRESS as u64) };
    if verdict == PASS as i64 {
        count::one(Counter::Redirected);
        count::many(Counter::RedirectedBytes, ctx.size() as u64);
    } else {
        // Not in the map: closed, or not enrolled yet. The message goes by TCP, the next one looks again.
        half.peer = End { cookie: 0, socket: 0 };
        count::one(Counter::PassedNoPeer);
    }
}

/// Takes off a segment what its socket received before (see [`repeated`]). False when it could not be taken off.
#[inline(always)]
pub fn received(ctx: &SkBuffContext) -> bool {
    let skb = ctx.skb.skb;
    // What TCP keeps with a segment (`tcp_skb_cb`): where it begins and where it ends. The self-probe sees whether it does.
    // SAFETY: `skb` is this program's context, whose `cb` is readable.
    let (begins, ends) = unsafe {
        (core::ptr::read_volatile(&raw const (*skb).cb[0]), core::ptr::read_volatile(&raw const (*skb).cb[1]))
    };
    // SAFETY: a helper of this program type, given this program's context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let Some(expected) = SEGMENTS.get_ptr_mut(&cookie) else {
        // The first. Without an entry the next one counts as the first, which costs nothing while nothing is sent twice.
        let _ = SEGMENTS.insert(&cookie, &ends, BPF_ANY as u64);
        return true;
    };
    // SAFETY: a value of the map, valid while the program runs; the receiving socket's lock is held.
    let surplus = repeated(unsafe { *expected }, begins, ctx.len());
    // SAFETY: as above.
    unsafe { *expected = ends };
    surplus == 0 || take_off(ctx, surplus)
}

/// Takes the first `bytes` bytes off a segment.
#[inline(never)]
fn take_off(ctx: &SkBuffContext, bytes: u32) -> bool {
    let mut left = bytes;
    for _ in 0..TAKEN_OFF_CALLS {
        let now = left.min(TAKEN_OFF_MAX);
        // SAFETY: a helper of this program type, given this program's context.
        if unsafe { bpf_skb_adjust_room(ctx.skb.skb, -(now as i32), 0, 0) } != 0 {
            break;
        }
        left -= now;
        if left == 0 {
            count::many(Counter::RepeatedBytes, bytes as u64);
            return true;
        }
    }
    count::one(Counter::RepeatedLost);
    false
}
