//! The commands, one file each. Nothing else in the crate sees this room.

pub mod check;
