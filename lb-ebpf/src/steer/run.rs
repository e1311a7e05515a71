//! From a stage's decision to what the kernel is told.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::programs::XdpContext;
use lb_common::forward::{Step, fault};
use lb_common::tables::Tables;
use lb_common::verdict::{Reason, Verdict};

use super::capture;
use super::frame::XdpFrame;
use super::maps::{PORTS, STAGES};
use super::tables::KernelTables;

/// Keeps what may be captured of the packet as it came; see [`capture::keep`].
#[inline(always)]
pub fn capture(ctx: &XdpContext) {
    if KernelTables::open().is_some_and(|tables| tables.settings().captured_vip != 0) {
        capture::keep(ctx.ctx, &XdpFrame::new(ctx.ctx));
    }
}

/// The packet and the maps, as a stage sees them. `None` only for the verifier.
#[inline(always)]
pub fn open(ctx: &XdpContext) -> Option<(XdpFrame, KernelTables)> {
    Some((XdpFrame::new(ctx.ctx), KernelTables::open()?))
}

/// Does what a stage decided, or goes on to the stage that it names.
#[inline(always)]
pub fn finish(ctx: &XdpContext, tables: &KernelTables, step: Step) -> u32 {
    match step {
        Step::Done(verdict) => action(tables, verdict),
        Step::Next(stage) => {
            // SAFETY: the context is this program's own. Returns only when there is no program.
            unsafe { STAGES.tail_call(ctx, stage as u32) };
            action(tables, fault(tables))
        }
    }
}

#[inline(always)]
fn action(tables: &KernelTables, verdict: Verdict) -> u32 {
    if tables.settings().captured_vip != 0 {
        capture::send(tables.settings(), verdict);
    }
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop(_) => XDP_DROP,
        Verdict::Transmit => XDP_TX,
        Verdict::Redirect(interface) => redirect(tables, interface),
    }
}

#[inline(always)]
fn redirect(tables: &KernelTables, interface: u32) -> u32 {
    PORTS.redirect(interface, XDP_DROP as u64).unwrap_or_else(|action| {
        tables.count_reason(None, Reason::NoNextHop);
        action
    })
}
