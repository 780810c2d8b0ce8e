//! All tests that cross rooms, in one binary: linking is the slowest part of building tests.

mod flows;
mod packets;
mod world_check;
