//! Entry points of the XDP programs that steer packets: one for each stage of `lb_common::forward`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the entry point macros put the documentation on an inner function")]

mod steer {
    //! How the decisions of `lb_common::forward` reach packets and maps in the kernel.

    pub mod capture;
    pub mod cookie;
    pub mod frame;
    pub mod maps;
    pub mod run;
    pub mod tables;
}

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::forward;
use steer::run::{capture, finish, open};

/// Runs a stage on the packet. No function that takes a stage: the compiler does not inline what it is given there.
macro_rules! run {
    ($ctx:expr, $stage:path) => {{
        let Some((mut frame, tables)) = open(&$ctx) else { return XDP_PASS };
        let step = $stage(&mut frame, &tables);
        finish(&$ctx, &tables, step)
    }};
}

/// Attached to interfaces: what belongs to a flow that is known is sent on, the rest goes to the stage that knows more.
#[xdp(frags)]
pub fn steer(ctx: XdpContext) -> u32 {
    capture(&ctx);
    run!(ctx, forward::known)
}

/// `Stage::New`.
#[xdp(frags)]
pub fn steer_new(ctx: XdpContext) -> u32 {
    run!(ctx, forward::new_flow)
}

/// `Stage::Nat`.
#[xdp(frags)]
pub fn steer_nat(ctx: XdpContext) -> u32 {
    run!(ctx, forward::nat::nat)
}

/// `Stage::Icmp`.
#[xdp(frags)]
pub fn steer_icmp(ctx: XdpContext) -> u32 {
    run!(ctx, forward::icmp::icmp)
}

/// `Stage::Fragment`.
#[xdp(frags)]
pub fn steer_fragment(ctx: XdpContext) -> u32 {
    run!(ctx, forward::fragment::fragment)
}

/// `Stage::Cookie`.
#[xdp(frags)]
pub fn steer_cookie(ctx: XdpContext) -> u32 {
    run!(ctx, forward::cookie::cookie)
}

/// `Stage::Answer`.
#[xdp(frags)]
pub fn steer_answer(ctx: XdpContext) -> u32 {
    run!(ctx, forward::answer::answer)
}

/// `Stage::Open`.
#[xdp(frags)]
pub fn steer_open(ctx: XdpContext) -> u32 {
    run!(ctx, forward::nat::open)
}

/// `Stage::IcmpDirect`.
#[xdp(frags)]
pub fn steer_icmp_direct(ctx: XdpContext) -> u32 {
    run!(ctx, forward::icmp::icmp_direct)
}

/// `Stage::Beginning`.
#[xdp(frags)]
pub fn steer_beginning(ctx: XdpContext) -> u32 {
    run!(ctx, forward::known::beginning)
}

/// `Stage::IcmpNat`.
#[xdp(frags)]
pub fn steer_icmp_nat(ctx: XdpContext) -> u32 {
    run!(ctx, forward::icmp::icmp_nat)
}

/// `Stage::FragmentDirect`.
#[xdp(frags)]
pub fn steer_fragment_direct(ctx: XdpContext) -> u32 {
    run!(ctx, forward::fragment::fragment_direct)
}

/// `Stage::Proof`.
#[xdp(frags)]
pub fn steer_proof(ctx: XdpContext) -> u32 {
    run!(ctx, forward::cookie::proof)
}

/// `Stage::CookieOpen`.
#[xdp(frags)]
pub fn steer_cookie_open(ctx: XdpContext) -> u32 {
    run!(ctx, forward::cookie::open)
}

/// `Stage::Handshake`.
#[xdp(frags)]
pub fn steer_handshake(ctx: XdpContext) -> u32 {
    run!(ctx, forward::cookie::handshake)
}

/// `Stage::Malformed`.
#[xdp(frags)]
pub fn steer_malformed(ctx: XdpContext) -> u32 {
    run!(ctx, forward::malformed::malformed)
}

/// `Stage::Reset`.
#[xdp(frags)]
pub fn steer_reset(ctx: XdpContext) -> u32 {
    run!(ctx, forward::answer::reset)
}

/// `Stage::Reclaim`.
#[xdp(frags)]
pub fn steer_reclaim(ctx: XdpContext) -> u32 {
    run!(ctx, forward::nat::reclaim)
}

/// Passes everything: what a veth's peer needs to have before frames can be sent back into it, and what the other programs'
/// cost is measured against.
#[xdp(frags)]
pub fn steer_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
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
