//! The tables a plan is applied to: the kernel's maps, or ordinary memory. Only `kernel`, `load` and `probe` know aya.

pub mod kernel;
pub mod limits;
pub mod load;
pub mod memory;
pub mod pins;
pub mod probe;
pub mod space;
pub mod steer;

use crate::{
    image::Image,
    plan::{Op, Plan},
};
use thiserror::Error;

/// Something a plan can be applied to. Each operation is all or nothing; after a failure the plan stops, and what is in
/// force is one of the legal states between.
pub trait Maps {
    fn apply(&mut self, op: &Op) -> Result<(), MapsError>;
}

#[derive(Debug, Error)]
pub enum MapsError {
    #[error("no room for another {what}: the limit is {limit}; raise it with {option} (needs `meltemi detach` first)")]
    Full { what: &'static str, limit: u32, option: &'static str },
    #[error(
        "the tables need {needed} KiB in one piece and {free} KiB are free; raise --table-memory (needs `meltemi detach` first)"
    )]
    NoSpace { needed: u32, free: u32 },
    #[error("kernel map {map}: {source}")]
    Kernel { map: &'static str, source: aya::maps::MapError },
    #[error("{0} on purpose")]
    Injected(&'static str),
}

/// Applies every operation of `plan` in order. `Ok` holds how many there were.
pub fn apply(maps: &mut impl Maps, plan: &Plan) -> Result<usize, MapsError> {
    for op in plan.ops() {
        maps.apply(op)?;
    }
    Ok(plan.ops().len())
}

/// Applies `plan`, which leads away from `in_force`. After a failure `in_force` is what the tables hold by then, so that the
/// next plan takes back what is not wanted any more; after success it is left for the caller to replace.
pub fn advance(maps: &mut impl Maps, in_force: &mut Image, plan: &Plan) -> Result<usize, MapsError> {
    for (done, op) in plan.ops().iter().enumerate() {
        if let Err(error) = maps.apply(op) {
            plan.ops()[..done].iter().for_each(|op| op.record(in_force));
            return Err(error);
        }
    }
    Ok(plan.ops().len())
}
