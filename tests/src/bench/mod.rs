//! What `cargo xtask bench` measures, one file a measurement. Figures are printed with their ratio to a baseline of the same
//! run: nanoseconds differ from machine to machine and from minute to minute, ratios hold.

pub mod check;
pub mod control;
pub mod endtoend;
pub mod http;
pub mod idle;
pub mod inside;
pub mod packets;
pub mod peers;
pub mod production;
pub mod programs;
pub mod report;
pub mod router;
pub mod scale;
pub mod served;
pub mod veth;
