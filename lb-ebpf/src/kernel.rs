//! What differs between kernels: where fields of its structures lie, filled in by the loader from the running kernel's BTF.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_ns_current_pid_tgid, bpf_probe_read_kernel,
};

/// 1 where the `sched_process_exit` tracepoint says itself whether the whole process is dead (6.16 and later).
#[unsafe(no_mangle)]
static EXIT_SAYS_GROUP_DEAD: Global<u32> = Global::new(0);
/// `task_struct.signal`.
#[unsafe(no_mangle)]
static TASK_SIGNAL: Global<u32> = Global::new(0);
/// `signal_struct.live`: threads alive.
#[unsafe(no_mangle)]
static SIGNAL_LIVE: Global<u32> = Global::new(0);
/// `sock.__sk_common.skc_num`: the local port, host order.
#[unsafe(no_mangle)]
static SOCK_PORT: Global<u32> = Global::new(0);
/// `sock.sk_backlog.rmem_alloc`: bytes charged to the receive queue.
#[unsafe(no_mangle)]
static SOCK_QUEUED: Global<u32> = Global::new(0);
/// `tcp_sock.write_seq`: the sequence number that will be written next.
#[unsafe(no_mangle)]
static TCP_WRITES_NEXT: Global<u32> = Global::new(0);
/// `tcp_sock.copied_seq`: the sequence number that will be read next.
#[unsafe(no_mangle)]
static TCP_READS_NEXT: Global<u32> = Global::new(0);
/// `inet_connection_sock.icsk_ulp_ops`: a protocol on top of TCP (TLS, a subflow of MPTCP).
#[unsafe(no_mangle)]
static SOCK_UPPER_PROTOCOL: Global<u32> = Global::new(0);
/// Device and inode of the master's process namespace where it is not the first one; 0 where it is.
#[unsafe(no_mangle)]
static PROCESS_NAMESPACE_DEVICE: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static PROCESS_NAMESPACE_INODE: Global<u64> = Global::new(0);

/// Whether [`group_is_dead`] may read the tracepoint's second argument.
#[inline(always)]
pub fn exit_says_group_dead() -> bool {
    EXIT_SAYS_GROUP_DEAD.load() == 1
}

/// Whether no thread of the process of `task` is alive any more.
#[inline(always)]
pub fn group_is_dead(task: u64) -> bool {
    let signal: Option<u64> = read(task, TASK_SIGNAL.load());
    let live: Option<u32> = signal.and_then(|signal| read(signal, SIGNAL_LIVE.load()));
    live == Some(0)
}

/// The thread group id of the current task, as the master knows it; `None` for a task that it cannot see.
#[inline(always)]
pub fn current_process() -> Option<u32> {
    let inode = PROCESS_NAMESPACE_INODE.load();
    if inode == 0 {
        // SAFETY: a helper without arguments.
        let both = unsafe { bpf_get_current_pid_tgid() };
        return Some((both >> 32) as u32);
    }
    let mut seen = aya_ebpf::bindings::bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the pointer and the size are those of the same local variable.
    let result = unsafe {
        bpf_get_ns_current_pid_tgid(
            PROCESS_NAMESPACE_DEVICE.load(),
            inode,
            &raw mut seen,
            size_of_val(&seen) as u32,
        )
    };
    (result == 0).then_some(seen.tgid)
}

/// The local port of a socket.
#[inline(always)]
pub fn local_port(socket: u64) -> Option<u32> {
    read::<u16>(socket, SOCK_PORT.load()).map(u32::from)
}

/// The bytes charged to a socket's receive queue.
#[inline(always)]
pub fn queued_bytes(socket: u64) -> Option<u32> {
    read(socket, SOCK_QUEUED.load())
}

/// The sequence number that a TCP socket will write next.
#[inline(always)]
pub fn writes_next(socket: u64) -> Option<u32> {
    read(socket, TCP_WRITES_NEXT.load())
}

/// The sequence number that a TCP socket's reader will read next.
#[inline(always)]
pub fn reads_next(socket: u64) -> Option<u32> {
    read(socket, TCP_READS_NEXT.load())
}

/// Whether a protocol stands on top of this TCP socket; also when that cannot be read.
#[inline(always)]
pub fn has_upper_protocol(socket: u64) -> bool {
    read::<u64>(socket, SOCK_UPPER_PROTOCOL.load()) != Some(0)
}

/// The `T` at `offset` of a kernel structure; `None` where nothing can be read.
#[inline(always)]
fn read<T: Copy + Default>(structure: u64, offset: u32) -> Option<T> {
    let mut value = T::default();
    let from = structure.wrapping_add(offset as u64);
    // SAFETY: the destination is a local variable of the size given; the helper checks the source address itself.
    let result =
        unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from as *const _) };
    (result == 0).then_some(value)
}
