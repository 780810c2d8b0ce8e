//! Which of the usable endpoints gets a request. Pure but for the turn of round robin; chance is an argument.

use std::cell::{Cell, OnceCell};

use crate::{
    router::Draw,
    snapshot::{Balancer, HashAlgorithm},
};

/// An endpoint that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Position in the cluster.
    pub at: usize,
    pub weight: u32,
    /// [`hash`] of its address: its places in a hash table do not depend on what others there are.
    pub seed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Picker {
    all: Vec<Candidate>,
    total: u64,
    is_even: bool,
    turn: Cell<usize>,
    /// Of smooth weighted round robin: what each is owed.
    credit: Vec<Cell<i64>>,
    /// Of consistent hashing: position in `all` by point or slot.
    table: OnceCell<Table>,
}

#[derive(Debug)]
enum Table {
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl Picker {
    pub fn new(all: Vec<Candidate>) -> Picker {
        let total = all.iter().map(|one| u64::from(one.weight)).sum();
        let is_even = all.iter().all(|one| one.weight == all[0].weight);
        let credit = all.iter().map(|_| Cell::new(0)).collect();
        Picker { all, total, is_even, turn: Cell::new(0), credit, table: OnceCell::new() }
    }

    /// Position in the cluster. `hash`: of the request's key, where the balancer hashes and there is one. `active`: requests
    /// under way to an endpoint.
    pub fn pick(
        &self,
        balancer: &Balancer,
        hash: Option<u64>,
        draw: Draw,
        active: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let at = match (self.all.len(), balancer, hash) {
            (0, ..) => return None,
            (1, ..) => 0,
            (_, Balancer::ConsistentHash { algorithm, .. }, Some(hash)) => self.hashed(*algorithm, hash),
            (_, Balancer::LeastRequest, _) => self.least(draw, active),
            (_, Balancer::RoundRobin, _) => self.next(),
            (_, Balancer::Random | Balancer::Passthrough | Balancer::ConsistentHash { .. }, _) => self.any(draw),
        };
        Some(self.all[at].at)
    }

    fn any(&self, draw: Draw) -> usize {
        if self.is_even {
            return below(draw.0, self.all.len());
        }
        let point = (u128::from(draw.0) * u128::from(self.total)) >> 64;
        let mut rest = point as u64;
        for (at, one) in self.all.iter().enumerate() {
            match rest.checked_sub(u64::from(one.weight)) {
                Some(less) => rest = less,
                None => return at,
            }
        }
        self.all.len() - 1
    }

    /// The less busy of two; with unequal weights a draw by weight / (requests + 1), as Envoy's with an active request bias
    /// of 1.
    fn least(&self, draw: Draw, active: impl Fn(usize) -> u32) -> usize {
        if self.is_even {
            let count = self.all.len();
            let first = below(draw.0 << 32, count);
            // Another one.
            let second = (first + 1 + below(draw.0 & 0xffff_ffff_0000_0000, count - 1)) % count;
            return if active(self.all[second].at) < active(self.all[first].at) { second } else { first };
        }
        let share = |one: &Candidate| f64::from(one.weight) / f64::from(active(one.at) + 1);
        let total: f64 = self.all.iter().map(share).sum();
        let mut rest = total * (draw.0 >> 11) as f64 / (1_u64 << 53) as f64;
        for (at, one) in self.all.iter().enumerate() {
            rest -= share(one);
            if rest < 0.0 {
                return at;
            }
        }
        self.all.len() - 1
    }

    /// Weighted round robin without bursts: the one that is owed most is next, and pays the sum of all weights.
    fn next(&self) -> usize {
        if self.is_even {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            return turn % self.all.len();
        }
        let mut best = 0;
        for (at, one) in self.all.iter().enumerate() {
            self.credit[at].set(self.credit[at].get() + i64::from(one.weight));
            if self.credit[at].get() > self.credit[best].get() {
                best = at;
            }
        }
        self.credit[best].set(self.credit[best].get() - self.total as i64);
        best
    }

    fn hashed(&self, algorithm: HashAlgorithm, hash: u64) -> usize {
        match self.table.get_or_init(|| self.fill(algorithm)) {
            Table::Maglev(slots) => slots[(hash % slots.len() as u64) as usize] as usize,
            Table::Ring(points) => {
                let after = points.partition_point(|(point, _)| *point < hash);
                points[after % points.len()].1 as usize
            }
        }
    }

    fn fill(&self, algorithm: HashAlgorithm) -> Table {
        match algorithm {
            HashAlgorithm::Ring { minimum_size } => {
                /// Envoy's `maximum_ring_size`.
                const MOST: u64 = 8 * 1_024 * 1_024;
                let size = minimum_size.clamp(1, MOST).max(self.all.len() as u64);
                let mut points = Vec::new();
                for (at, one) in self.all.iter().enumerate() {
                    let own = (u128::from(size) * u128::from(one.weight)).div_ceil(u128::from(self.total.max(1)));
                    points.extend((0..own as u64).map(|n| (mix(one.seed, n), at as u32)));
                }
                points.sort_unstable();
                Table::Ring(points)
            }
            HashAlgorithm::Maglev { table_size } => Table::Maglev(self.maglev(table_size.max(2) as usize)),
        }
    }

    /// Eisenbud et al., "Maglev", NSDI 2016, section 3.4: each takes its next preferred free slot, as often as its weight says.
    fn maglev(&self, size: usize) -> Vec<u32> {
        const FREE: u32 = u32::MAX;
        let most = self.all.iter().map(|one| one.weight).max().unwrap_or(1).max(1);
        let mut slots = vec![FREE; size];
        let mut next: Vec<(usize, usize, f64)> = self
            .all
            .iter()
            .map(|one| {
                let hash = mix(one.seed, 0);
                ((hash % size as u64) as usize, (mix(hash, 1) % (size as u64 - 1)) as usize + 1, 0.0)
            })
            .collect();
        let mut filled = 0;
        while filled < size {
            for (at, one) in self.all.iter().enumerate() {
                let (slot, step, owed) = &mut next[at];
                *owed += f64::from(one.weight) / f64::from(most);
                if *owed < 1.0 || filled == size {
                    continue;
                }
                *owed -= 1.0;
                while slots[*slot] != FREE {
                    *slot = (*slot + *step) % size;
                }
                slots[*slot] = at as u32;
                filled += 1;
            }
        }
        slots
    }
}

fn below(draw: u64, count: usize) -> usize {
    ((u128::from(draw) * count as u128) >> 64) as usize
}

/// FNV-1a with a finisher: the same on every host and in every version.
pub(super) fn hash(key: &[u8]) -> u64 {
    let folded = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(folded, 0)
}

/// Stafford's variant 13 of the MurmurHash3 finisher.
fn mix(value: u64, n: u64) -> u64 {
    let mut z = value.wrapping_add((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
