//! What crosses rooms: throw-away worlds of network namespaces, echo servers and clients, the demonstration.
//!
//! Not a part of the product. The tests themselves are in `tests/`, one binary; this library is what they share with
//! the demonstration and the bench.

pub mod agent;
pub mod bench;
pub mod demo;
pub mod echo;
pub mod example;
pub mod packet;
pub mod poll;
pub mod stats;
pub mod web;
pub mod world;
