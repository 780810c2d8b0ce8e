//! What Meltemi's kernel programs and its agent must agree on: header layouts, map layouts and the one per-packet decision.
//!
//! Everything here is plain, safe, allocation-free Rust: the same functions run inside the kernel, in the agent's
//! `explain`, and in unit tests. It knows nothing of Istio, YAML, or how maps are created.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod conntrack;
pub mod decide;
pub mod error;
pub mod flow;
pub mod frame;
pub mod icmp;
pub mod packet;
pub mod parse;
pub mod pick;
pub mod process;
pub mod reject;
pub mod rewrite;
pub mod steer;
pub mod table;
pub mod verdict;
pub mod wire;
