//! The packet that a program was started for: the one file with pointers into it.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use bytemuck::Pod;
use lb_common::packet::Frame;

/// The packet of the program's context.
pub struct XdpFrame {
    ctx: *mut xdp_md,
}

impl XdpFrame {
    /// `ctx` is the context that the program was called with.
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        Self { ctx }
    }

    /// Read anew each time: a pointer that is kept is of another range on each way to where it is used again, and the verifier
    /// follows each.
    #[inline(always)]
    fn begin(&self) -> usize {
        // SAFETY: `ctx` is this program's context.
        unsafe { core::ptr::read_volatile(&raw const (*self.ctx).data) as usize }
    }

    /// The end of what can be reached by pointers; a long frame has more, in fragments.
    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as in `begin`.
        unsafe { core::ptr::read_volatile(&raw const (*self.ctx).data_end) as usize }
    }

    /// A pointer to `bytes` bytes at `at`, compared with the end.
    #[inline(always)]
    fn pointer(&self, at: usize, bytes: usize) -> Option<usize> {
        let mut start = self.begin();
        // What is compared and what is read must come from one register: the verifier knows the range of that register and its
        // copies only. Left to itself the compiler adds `at` and `bytes` first (LLVM 22: "invalid access to packet").
        // SAFETY: arithmetic between registers.
        unsafe {
            asm!("{0} += {1}", inout(reg) start, in(reg) at, options(pure, nomem, nostack));
        }
        (start + bytes <= self.end()).then_some(start)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn bytes(&self) -> usize {
        // SAFETY: a helper of this program type, given this program's context.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    #[inline(always)]
    fn holds(&self, bytes: usize) -> bool {
        self.end() - self.begin() >= bytes || self.bytes() >= bytes
    }

    #[inline(always)]
    fn read<T: Pod>(&self, at: usize) -> Option<T> {
        let start = self.pointer(at, size_of::<T>())?;
        // SAFETY: `start` and the size of a `T` after it lie in the packet, any bytes are a `T`, and no alignment is asked for.
        Some(unsafe { (start as *const T).read_unaligned() })
    }

    #[inline(always)]
    fn write<T: Pod>(&mut self, at: usize, value: T) -> Option<()> {
        let start = self.pointer(at, size_of::<T>())?;
        // SAFETY: as in `read`; nothing else refers to the packet.
        unsafe { (start as *mut T).write_unaligned(value) };
        Some(())
    }

    #[inline(always)]
    fn grow_front(&mut self, bytes: i32) -> Option<()> {
        // SAFETY: a helper of this program type, given this program's context; pointers into the packet are made anew by each access.
        (unsafe { bpf_xdp_adjust_head(self.ctx, -bytes) } == 0).then_some(())
    }

    #[inline(always)]
    fn set_bytes(&mut self, bytes: usize) -> Option<()> {
        let change = bytes as i32 - self.bytes() as i32;
        // SAFETY: as in `grow_front`.
        (unsafe { bpf_xdp_adjust_tail(self.ctx, change) } == 0).then_some(())
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as in `begin`.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn settle(&self, at: usize, mask: usize) -> usize {
        let unknown = self.end() - self.begin();
        let mut at = at;
        // Without `pure`: two of the same value must not become one.
        // SAFETY: arithmetic between registers.
        unsafe {
            asm!(
                "{at} ^= {unknown}",
                "{at} ^= {unknown}",
                "{at} &= {mask}",
                at = inout(reg) at,
                unknown = in(reg) unknown,
                mask = in(reg) mask,
                options(nomem, nostack),
            );
        }
        at
    }
}
