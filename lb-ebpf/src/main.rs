//! Entry points of the kernel programs.
//!
//! One reads what happened, asks a module of this crate, and returns; the decisions that need no kernel are in `lb-common`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see `listen`")]
#![expect(missing_docs, reason = "the entry point macros put the documentation on an inner function")]

mod count;
mod exit;
mod kernel;
mod listen;
mod maps;
mod sockets;

use aya_ebpf::macros::{raw_tracepoint, sk_msg, sock_ops, stream_verdict};
use aya_ebpf::programs::{RawTracePointContext, SkBuffContext, SkMsgContext, SockOpsContext};

/// A task exits: when it was the last of a watched process, its row goes OUT.
#[raw_tracepoint]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    exit::task_exits(&ctx);
    0
}

/// A socket changes its state: the listening sockets of watched instances are counted.
#[raw_tracepoint]
pub fn socket_state(ctx: RawTracePointContext) -> i32 {
    listen::socket_changes(&ctx);
    0
}

/// A connection of our cgroup is established: loopback connections to enrolled ports enter the short-cut.
#[sock_ops]
pub fn connection_established(ctx: SockOpsContext) -> u32 {
    sockets::established(&ctx);
    1
}

/// An enrolled socket sends: into the reader's queue, or by TCP.
#[sk_msg]
pub fn message_sent(ctx: SkMsgContext) -> u32 {
    sockets::sent(&ctx);
    sockets::PASS
}

/// An enrolled socket receives by TCP: passed on, without the bytes that it has already. The program's presence makes the
/// kernel put such bytes into the same queue as those of the short-cut, where `FIONREAD` counts them.
#[stream_verdict]
pub fn bytes_received(ctx: SkBuffContext) -> u32 {
    if sockets::received(&ctx) { sockets::PASS } else { sockets::DROP }
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
