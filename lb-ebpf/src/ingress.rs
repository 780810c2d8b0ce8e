//! The ingress programs, a fast and a slow one each for native XDP, generic XDP and TC. They differ only in how a frame is
//! reached and sent. The slow ones are tail-called: a tail call starts with an empty stack. Behind the XDP ones stands `meet`,
//! in TC, which sends what they could not for want of a link address.

use crate::{
    ctx::{self, Generic, Native, TcFrame, XdpFrame},
    maps::{self, Kernel},
};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    process::{fast, slow},
    table::Turn,
    verdict::Action,
};

/// Positions in the slow path's program array; the agent fills it.
const SLOW_NATIVE: u32 = 0;
const SLOW_GENERIC: u32 = 1;

#[xdp(frags)]
pub fn ingress_xdp(ctx: XdpContext) -> u32 {
    match fast(&mut XdpFrame::<Native>::new(&ctx), &Kernel::xdp(&ctx)) {
        Some(action) => xdp_verdict(&ctx, action),
        None => {
            maps::slow_xdp(&ctx, SLOW_NATIVE);
            xdp_action::XDP_PASS
        }
    }
}

#[xdp(frags)]
pub fn ingress_xdp_slow(ctx: XdpContext) -> u32 {
    let action = slow(&mut XdpFrame::<Native>::new(&ctx), &Kernel::xdp(&ctx));
    xdp_verdict(&ctx, action)
}

#[xdp(frags)]
pub fn ingress_generic(ctx: XdpContext) -> u32 {
    match fast(&mut XdpFrame::<Generic>::new(&ctx), &Kernel::xdp(&ctx)) {
        Some(action) => xdp_verdict(&ctx, action),
        None => {
            maps::slow_xdp(&ctx, SLOW_GENERIC);
            xdp_action::XDP_PASS
        }
    }
}

#[xdp(frags)]
pub fn ingress_generic_slow(ctx: XdpContext) -> u32 {
    let action = slow(&mut XdpFrame::<Generic>::new(&ctx), &Kernel::xdp(&ctx));
    xdp_verdict(&ctx, action)
}

#[classifier]
pub fn ingress_tc(ctx: TcContext) -> i32 {
    match fast(&mut TcFrame::new(&ctx), &Kernel::tc(&ctx)) {
        Some(action) => tc_verdict(&ctx, action),
        None => {
            maps::slow_tc(&ctx);
            TC_ACT_UNSPEC
        }
    }
}

#[classifier]
pub fn ingress_tc_slow(ctx: TcContext) -> i32 {
    let mut frame = TcFrame::new(&ctx);
    frame.linearize();
    let action = slow(&mut frame, &Kernel::tc(&ctx));
    tc_verdict(&ctx, action)
}

/// Sends what an XDP program in front has rewritten and handed over; all else goes its way.
#[classifier]
pub fn meet(ctx: TcContext) -> i32 {
    match ctx::handed_over(&ctx) {
        Some(ifindex) => ctx::redirect_by_neighbour(ifindex) as i32,
        None => TC_ACT_UNSPEC,
    }
}

/// Run by the agent to learn what the kernel's clock shows and how fast it ticks; never attached.
#[classifier]
pub fn clock(_ctx: TcContext) -> i32 {
    maps::read_clock();
    TC_ACT_UNSPEC
}

#[inline(always)]
fn xdp_verdict(ctx: &XdpContext, action: Action) -> u32 {
    match action {
        // `meet` takes over what was prepared for it.
        Action::Pass | Action::Meet(_) => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Reflect => back(ctx),
        Action::Send(ifindex) if ifindex as usize == ctx.ingress_ifindex() => back(ctx),
        Action::Send(ifindex) => ctx::redirect(ifindex) as u32,
    }
}

/// Out of the interface that the frame came from.
#[inline(always)]
fn back(ctx: &XdpContext) -> u32 {
    match maps::turn() {
        Turn::REDIRECT => ctx::redirect(ctx.ingress_ifindex() as u32) as u32,
        _ => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn tc_verdict(ctx: &TcContext, action: Action) -> i32 {
    match action {
        // Other programs on the interface still get their turn.
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Reflect => ctx::redirect(ctx::ifindex(ctx)) as i32,
        Action::Send(ifindex) => ctx::redirect(ifindex) as i32,
        Action::Meet(ifindex) => ctx::redirect_by_neighbour(ifindex) as i32,
    }
}
