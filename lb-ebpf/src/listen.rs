//! Watching what the instances listen on.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::offset_of;

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::programs::RawTracePointContext;
use lb_common::backend::BackendRow;
use lb_common::counter::Counter;
use lb_common::exit::{NoticeKind, Watched};

use crate::exit::{now_ns, tell};
use crate::maps::{BACKENDS, WATCHED_CGROUPS, WATCHED_PROCESSES};
use crate::{count, kernel};

const TCP_CLOSE: i32 = 7;
const TCP_LISTEN: i32 = 10;

/// `inet_sock_set_state(sk, old, new)`. A listening socket opens and closes in the task that does it, so the current
/// task tells whose it is.
#[inline(always)]
pub fn socket_changes(ctx: &RawTracePointContext) {
    let opened = match (ctx.arg::<i32>(1), ctx.arg::<i32>(2)) {
        (TCP_CLOSE, TCP_LISTEN) => true,
        (TCP_LISTEN, TCP_CLOSE) => false,
        _ => return,
    };
    let Some(watched) = current_instance() else { return };
    if watched.port == 0 || kernel::local_port(ctx.arg::<u64>(0)) != Some(watched.port) {
        return;
    }
    let Some(row) = BACKENDS.get_ptr_mut(watched.slot) else { return };
    // SAFETY: `row` is an entry of the table, valid while the program runs.
    let instance = unsafe { core::ptr::read_volatile(&raw const (*row).instance) };
    // The row may speak of a successor already; its counts are not ours to change.
    if instance == watched.instance {
        if opened { listen_opened(row, &watched) } else { listen_closed(row, &watched) }
    }
}

#[inline(always)]
fn current_instance() -> Option<Watched> {
    // SAFETY: a helper without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the entry is copied at once; an update in between gives the old or the new value of a word.
    if let Some(watched) = unsafe { WATCHED_CGROUPS.get(&cgroup) } {
        return Some(*watched);
    }
    let process = kernel::current_process()?;
    // SAFETY: as above.
    unsafe { WATCHED_PROCESSES.get(&process) }.copied()
}

#[inline(always)]
fn listen_opened(row: *mut BackendRow, watched: &Watched) {
    let at_ns = stamp(row);
    add_to_listens(row, OPENED_ONE);
    count::one(Counter::ListensOpened);
    tell(watched, NoticeKind::ListenOpened, at_ns);
}

#[inline(always)]
fn listen_closed(row: *mut BackendRow, watched: &Watched) {
    let at_ns = stamp(row);
    let listens = add_to_listens(row, CLOSED_ONE);
    count::one(Counter::ListensClosed);
    if listens as u32 == (listens >> 32) as u32 {
        tell(watched, NoticeKind::ListenClosed, at_ns);
    }
}

/// The two counts lie in one word, so that both change and are read at once. (`core::sync::atomic` has no
/// addition for BPF: it asks for compare-and-swap; the intrinsic does not.)
const OPENED_ONE: u64 = 1;
const CLOSED_ONE: u64 = 1 << 32;
const _: () = assert!(offset_of!(BackendRow, listens_opened) % 8 == 0);
const _: () = assert!(offset_of!(BackendRow, listens_closed) == offset_of!(BackendRow, listens_opened) + 4);
const _: () = assert!(cfg!(target_endian = "little"));

/// Returns the word after the addition.
#[inline(always)]
fn add_to_listens(row: *mut BackendRow, amount: u64) -> u64 {
    // SAFETY: a projection within the row; nothing is read.
    let word = unsafe { &raw mut (*row).listens_opened };
    // SAFETY: the word is 8-byte-aligned, lies within the row, lives while the program runs, and is only accessed in
    // single words or atomically.
    let before = unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word.cast(), amount) };
    before.wrapping_add(amount)
}

#[inline(always)]
fn stamp(row: *mut BackendRow) -> u64 {
    let at_ns = now_ns();
    // SAFETY: `row` is an entry of the table, valid while the program runs; only the kernel writes this field.
    unsafe { core::ptr::write_volatile(&raw mut (*row).listen_changed_at_ns, at_ns) };
    at_ns
}
