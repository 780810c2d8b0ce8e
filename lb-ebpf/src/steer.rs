//! The program that the host asks which socket a new connection is for. Adapters only; `lb_common::steer` decides.

use crate::{
    ctx,
    maps::{self, Kernel},
};
use aya_ebpf::{bindings::sk_action::SK_PASS, macros::sk_lookup, programs::SkLookupContext};
use lb_common::{
    flow::{V4, V6},
    steer::listening,
};

/// Leaves to the host what no socket of ours is for.
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let (tables, workers) = (Kernel::lookup(&ctx), maps::workers());
    let position = match (ctx::asked::<V4>(&ctx), ctx::asked::<V6>(&ctx)) {
        (Some(flow), _) => listening(&tables, &flow, workers),
        (None, Some(flow)) => listening(&tables, &flow, workers),
        (None, None) => None,
    };
    if let Some(position) = position {
        maps::assign(&ctx, position);
    }
    SK_PASS
}
