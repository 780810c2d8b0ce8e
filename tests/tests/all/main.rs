//! All tests that cross rooms, in one binary: linking is the slowest part of building tests.

mod clients;
mod config;
mod explains;
mod flows;
mod golden;
mod packets;
mod plans;
mod world_check;
