//! Watching processes for their death.

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output};
use aya_ebpf::programs::RawTracePointContext;
use lb_common::backend::BackendRow;
use lb_common::counter::Counter;
use lb_common::exit::{Notice, NoticeKind, Watched};

use crate::maps::{BACKENDS, NOTICES, WATCHED_PROCESSES};
use crate::{count, kernel};

/// `sched_process_exit(task, group_dead)`: the current task exits. Its files, sockets among them, are still open.
#[inline(always)]
pub fn task_exits(ctx: &RawTracePointContext) {
    let Some(process) = kernel::current_process() else { return };
    // SAFETY: the entry is copied at once; an update in between gives the old or the new value of a word.
    let Some(watched) = unsafe { WATCHED_PROCESSES.get(&process) }.copied() else { return };
    // A kernel whose tracepoint has one argument refuses a program that could read the second.
    let dead = if kernel::exit_says_group_dead() {
        ctx.arg::<u64>(1) & 0xff != 0
    } else {
        kernel::group_is_dead(ctx.arg::<u64>(0))
    };
    if dead {
        take_out(&watched);
    }
}

#[inline(always)]
fn take_out(watched: &Watched) {
    let at_ns = now_ns();
    if let Some(row) = BACKENDS.get_ptr_mut(watched.slot) {
        mark_exited(row, watched.instance, at_ns);
    }
    count::one(Counter::Exits);
    tell(watched, NoticeKind::Exited, at_ns);
}

/// The time first: who sees the instance sees its time too.
#[inline(always)]
fn mark_exited(row: *mut BackendRow, instance: u64, at_ns: u64) {
    // SAFETY: `row` is an entry of the table, valid while the program runs; only the kernel writes these two fields.
    unsafe { core::ptr::write_volatile(&raw mut (*row).exited_at_ns, at_ns) };
    // SAFETY: as above.
    unsafe { core::ptr::write_volatile(&raw mut (*row).exited_instance, instance) };
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Sends a notice to the master; one that finds the ring full is counted, and the table says it all the same.
#[inline(always)]
pub fn tell(watched: &Watched, kind: NoticeKind, at_ns: u64) {
    let mut notice = Notice { instance: watched.instance, at_ns, slot: watched.slot, kind: kind as u32 };
    // SAFETY: the pointer and the size are those of the same local variable.
    let sent = unsafe {
        bpf_ringbuf_output(
            (&raw const NOTICES).cast_mut().cast(),
            (&raw mut notice).cast(),
            size_of::<Notice>() as u64,
            0,
        )
    };
    if sent != 0 {
        count::one(Counter::NoticesLost);
    }
}
