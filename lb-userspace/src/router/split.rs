//! Which of several weighted destinations: the table of the kernel's level 1, with the same identities.

use std::sync::OnceLock;

use lb_common::flow::FlowHash;

use crate::{
    image::name_hash,
    slots::shares::{self, Share},
    snapshot::Split,
};

/// A number of which the upper bits decide; uniform over all of `u64` for exact shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(pub u64);

/// Shares of the destinations of one [`Split`].
#[derive(Debug)]
pub struct Shares {
    shares: Vec<Share>,
    slots: u32,
    /// Filled when it is first needed: most rules have one destination, and many have no traffic.
    table: OnceLock<Box<[u8]>>,
}

/// Positions are bytes.
const MOST: usize = 255;

impl Shares {
    pub fn new(split: &Split) -> Shares {
        let share = |one: &crate::snapshot::Destination| Share {
            seed: name_hash(&one.cluster.to_string()),
            weight: one.weight,
        };
        let shares: Vec<Share> = split.destinations.iter().map(share).collect();
        let slots = if shares.iter().any(|share| share.weight > 0) { shares::slots(&shares) } else { 0 };
        Shares { shares, slots, table: OnceLock::new() }
    }

    /// Position of a destination; `None`: all weights are zero.
    pub fn draw(&self, draw: Draw) -> Option<usize> {
        self.at(|slots| ((u128::from(draw.0) * u128::from(slots)) >> 64) as u32)
    }

    /// The destination that the kernel would choose for this flow.
    pub fn of_flow(&self, hash: FlowHash) -> Option<usize> {
        self.at(|slots| hash.subset_slot(slots))
    }

    fn at(&self, slot: impl FnOnce(u32) -> u32) -> Option<usize> {
        match self.slots {
            0 => None,
            1 => self.shares.iter().position(|share| share.weight > 0),
            _ if self.shares.len() > MOST => self.cumulative(slot(u32::MAX)),
            slots => {
                let table = self.table.get_or_init(|| shares::fill(&self.shares, slots).into());
                Some(usize::from(table[slot(slots) as usize]))
            }
        }
    }

    /// For lists too long for a table.
    fn cumulative(&self, point: u32) -> Option<usize> {
        let sum: u64 = self.shares.iter().map(|share| u64::from(share.weight)).sum();
        let mut rest = ((u128::from(point) * u128::from(sum)) >> 32) as u64;
        self.shares.iter().position(|share| {
            let taken = rest < u64::from(share.weight);
            rest = rest.saturating_sub(u64::from(share.weight));
            taken
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ClusterName, Destination, Place};

    fn split(weights: &[u32]) -> Split {
        let destination = |(at, weight): (usize, &u32)| Destination {
            cluster: ClusterName { host: format!("h{at}").into(), subset: None, port: 80 },
            weight: *weight,
            broken: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            place: Place::default(),
        };
        Split { destinations: weights.iter().enumerate().map(destination).collect() }
    }

    /// Counts over draws at equal distances, one in the middle of each slot.
    fn counts(weights: &[u32], draws: u64) -> Vec<u64> {
        let shares = Shares::new(&split(weights));
        let mut counts = vec![0; weights.len()];
        for at in 0..draws {
            counts[shares.draw(Draw(u64::MAX / draws * at + u64::MAX / draws / 2)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_exact() {
        assert_eq!(counts(&[90, 10], 10_000), [9_000, 1_000]);
        assert_eq!(counts(&[5, 5, 90], 10_000), [500, 500, 9_000]);
        assert_eq!(counts(&[1, 0, 1], 10_000), [5_000, 0, 5_000]);
        assert_eq!(counts(&[0, 7], 10), [0, 10]);
        assert_eq!(counts(&[1], 10), [10]);
    }

    #[test]
    fn without_any_weight_nothing_is_taken() {
        assert_eq!(Shares::new(&split(&[0, 0])).draw(Draw(5)), None);
    }

    #[test]
    fn more_destinations_than_a_byte_counts() {
        let counts = counts(&[1; 300], 30_000);
        assert!(counts.iter().all(|count| (99..=101).contains(count)), "{counts:?}");
    }
}
