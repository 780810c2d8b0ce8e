//! How large each kernel map is, and what memory that takes before anything is created.

use lb_common::table::{ARENA_LINE, FILTER_WORDS, LAST_ROUTES};
use std::fmt;

/// What the user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Established IPv4 flows; IPv6 gets an eighth of it, and handshakes a sixteenth.
    pub flows: u32,
    pub rules: u32,
    /// Also of clients that are told apart.
    pub backends: u32,
    /// Bytes for the slots of all rules and subsets.
    pub table_memory: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 262_144, rules: 16_384, backends: 16_384, table_memory: 8 << 20 }
    }
}

/// One map: its name in the program and how many entries it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub map: &'static str,
    pub entries: u32,
    pub shape: Shape,
}

/// What decides a map's memory. Key and value in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Preallocated hash with its LRU lists.
    Lru {
        key: u64,
        value: u64,
    },
    /// Only the buckets are there from the start.
    Hash,
    Array {
        value: u64,
    },
    PerCpu {
        value: u64,
    },
}

impl Limits {
    pub fn sizes(&self) -> Vec<Size> {
        let size = |map, entries, shape| Size { map, entries, shape };
        let (flows4, flows6, pending4) = (2 * self.flows, (self.flows / 4).max(2_048), (self.flows / 8).max(2_048));
        let pending6 = (pending4 / 8).max(1_024);
        vec![
            size("FLOWS4", flows4, Shape::Lru { key: 12, value: 48 }),
            size("FLOWS6", flows6, Shape::Lru { key: 36, value: 72 }),
            size("PENDING4", pending4, Shape::Lru { key: 12, value: 56 }),
            size("PENDING6", pending6, Shape::Lru { key: 36, value: 80 }),
            size("FRAGMENTS4", 1_024, Shape::Lru { key: 12, value: 4 }),
            size("FRAGMENTS6", 1_024, Shape::Lru { key: 36, value: 4 }),
            size("VIPS4", 2 * self.rules, Shape::Hash),
            size("VIPS6", 2 * self.rules, Shape::Hash),
            size("CLIENTS4", self.backends, Shape::Hash),
            size("CLIENTS6", self.backends, Shape::Hash),
            size("BACKENDS4", self.backends, Shape::Hash),
            size("BACKENDS6", self.backends, Shape::Hash),
            size("RULES", self.rules, Shape::Array { value: 8 }),
            size("SUBSETS", 2 * self.rules, Shape::Array { value: 8 }),
            size(
                "ARENA",
                self.table_memory.div_ceil(4 * ARENA_LINE as u32),
                Shape::Array { value: 4 * ARENA_LINE as u64 },
            ),
            size("PORTS", FILTER_WORDS, Shape::Array { value: 8 }),
            size("ROUTES4", LAST_ROUTES, Shape::PerCpu { value: 32 }),
            size("ROUTES6", LAST_ROUTES, Shape::PerCpu { value: 56 }),
            size("BACKEND_STATS", self.backends, Shape::PerCpu { value: 40 }),
            size("DESTINATION_STATS", 4 * self.rules, Shape::PerCpu { value: 8 }),
        ]
    }

    /// Bytes of kernel memory that the maps will be charged with, within a tenth.
    pub fn memory(&self, cpus: u64) -> Memory {
        Memory(self.sizes().iter().map(|size| size.memory(cpus)).sum())
    }
}

impl Size {
    /// Sizes of the kernel's own structures as of Linux 6.18 (kernel/bpf/hashtab.c, arraymap.c): 48 bytes of element head, 16
    /// of bucket, 8 of per-CPU pointer; keys and values in units of 8.
    fn memory(&self, cpus: u64) -> u64 {
        let entries = self.entries as u64;
        let buckets = 16 * entries.next_power_of_two();
        match self.shape {
            Shape::Lru { key, value } => entries * (48 + key.next_multiple_of(8) + value.next_multiple_of(8)) + buckets,
            Shape::Hash => buckets,
            Shape::Array { value } => (entries * value.next_multiple_of(8)).next_multiple_of(4_096),
            Shape::PerCpu { value } => entries * (value.next_multiple_of(8) * cpus + 8),
        }
    }
}

/// Bytes, shown in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(pub u64);

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_96_mib_on_two_cpus() {
        assert!(Limits::default().memory(2) < Memory(96 << 20), "{}", Limits::default().memory(2));
    }

    #[test]
    fn the_largest_table_does_not_overflow() {
        let limits = Limits { flows: 16_000_000, ..Limits::default() };
        assert!(limits.memory(2) > Memory(3 << 30));
    }
}
