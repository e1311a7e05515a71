//! Capturing frames: kept when they come, since they are written into; sent when it is decided what becomes of them.
//!
//! All of it only where `Settings::captured_vip` is not zero.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output, bpf_xdp_load_bytes};
use lb_common::capture::{Captured, Outcome};
use lb_common::flow::HandOver;
use lb_common::limits::CAPTURE_BYTES_MAX;
use lb_common::packet::Frame;
use lb_common::verdict::{Reason, Verdict};
use lb_common::vip::Settings;

use super::frame::XdpFrame;
use super::maps::{CAPTURE, KEPT_FRAME};

/// What is kept of the frame that this CPU is working on.
#[repr(C)]
pub struct KeptFrame {
    captured: Captured,
    /// Frames for the VIP so far.
    frames: u64,
}

/// `Captured::vip` of a frame of which no VIP is known yet.
const NO_VIP: u32 = u32::MAX;

/// Keeps the frame's beginning.
#[inline(always)]
pub fn keep(ctx: *mut xdp_md, frame: &XdpFrame) {
    let Some(kept) = KEPT_FRAME.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own entry, valid while the program runs; nothing else refers to it.
    let captured = unsafe { &mut (*kept).captured };
    let bytes = frame.bytes();
    // SAFETY: a helper without arguments.
    captured.at_ns = unsafe { bpf_ktime_get_ns() };
    captured.vip = NO_VIP;
    captured.slot = HandOver::NO_SLOT;
    captured.reason = Captured::NO_REASON;
    captured.ingress = frame.ingress();
    captured.frame_bytes = bytes as u32;
    // Never 0, which the helper refuses, and never more than there is room for.
    let kept_bytes =
        if bytes > CAPTURE_BYTES_MAX { CAPTURE_BYTES_MAX } else { 1 + (bytes.wrapping_sub(1) & 0xff) };
    captured.kept_bytes = kept_bytes as u32;
    // SAFETY: the buffer is `CAPTURE_BYTES_MAX` long, and no more is asked for.
    unsafe { bpf_xdp_load_bytes(ctx, 0, captured.frame.as_mut_ptr().cast(), kept_bytes as u32) };
}

/// Which VIP and backend the frame is for.
#[inline(always)]
pub fn note(vip: u32, slot: Option<u32>, reason: Option<Reason>) {
    let Some(kept) = KEPT_FRAME.get_ptr_mut(0) else { return };
    // SAFETY: as in `keep`.
    let captured = unsafe { &mut (*kept).captured };
    captured.vip = vip;
    captured.slot = slot.unwrap_or(HandOver::NO_SLOT);
    captured.reason = reason.map_or(Captured::NO_REASON, |reason| reason as u32);
}

/// Sends the frame, if it was for the VIP that is captured and its turn has come. A ring that is full loses it.
#[inline(always)]
pub fn send(settings: &Settings, verdict: Verdict) {
    let Some(kept) = KEPT_FRAME.get_ptr_mut(0) else { return };
    // SAFETY: as in `keep`.
    let kept = unsafe { &mut *kept };
    if kept.captured.vip.wrapping_add(1) != settings.captured_vip {
        return;
    }
    kept.frames = kept.frames.wrapping_add(1);
    if kept.frames as u32 & settings.capture_mask != 0 {
        return;
    }
    kept.captured.outcome = Outcome::from(verdict) as u32;
    kept.captured.egress = match verdict {
        Verdict::Pass | Verdict::Drop(_) => 0,
        Verdict::Transmit => kept.captured.ingress,
        Verdict::Redirect(interface) => interface,
    };
    // SAFETY: the pointer and the size are those of the same value.
    unsafe {
        bpf_ringbuf_output(
            (&raw const CAPTURE).cast_mut().cast(),
            (&raw mut kept.captured).cast(),
            size_of::<Captured>() as u64,
            0,
        )
    };
}
