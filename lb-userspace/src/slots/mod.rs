//! Filled tables: from a described rule or subset to the slots, and to the words that the kernel reads. Pure arithmetic.

pub mod encode;
pub mod maglev;
pub mod shares;
