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

/// Runs the first stage on the packet; see [`run`].
#[inline(always)]
pub fn begin(ctx: XdpContext, stage: impl FnOnce(&mut XdpFrame, &KernelTables) -> Step) -> u32 {
    let Some(tables) = KernelTables::open() else { return XDP_PASS };
    if tables.settings().captured_vip != 0 {
        capture::keep(ctx.ctx, &XdpFrame::new(ctx.ctx));
    }
    run_with(ctx, &tables, stage)
}

/// Runs a stage on the packet; does what it decides, or goes on to the stage that it names.
#[inline(always)]
pub fn run(ctx: XdpContext, stage: impl FnOnce(&mut XdpFrame, &KernelTables) -> Step) -> u32 {
    let Some(tables) = KernelTables::open() else { return XDP_PASS };
    run_with(ctx, &tables, stage)
}

#[inline(always)]
fn run_with(
    ctx: XdpContext,
    tables: &KernelTables,
    stage: impl FnOnce(&mut XdpFrame, &KernelTables) -> Step,
) -> u32 {
    match stage(&mut XdpFrame::new(ctx.ctx), tables) {
        Step::Done(verdict) => action(tables, verdict),
        Step::Next(stage) => {
            // SAFETY: the context is this program's own. Returns only when there is no program.
            unsafe { STAGES.tail_call(&ctx, stage as u32) };
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
