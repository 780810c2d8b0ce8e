//! Level 2: which backend of a subset each slot belongs to. Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4) with
//! exact counts per weight imposed on it.

use super::shares::quotas;
use lb_common::flow::mix;
use std::{cmp::Reverse, collections::BinaryHeap};

/// A backend's claim to slots: a hash of its address and port, and its weight inside the subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub seed: u64,
    pub weight: u32,
}

/// Most members and table size, all prime (each permutation must reach every slot). What a member that leaves moves beyond
/// its own share grows with members squared over slots (measured: about 4 times that); these steps keep it under half a
/// share up to 250 members. From one step to the next all of the subset's new flows are placed anew.
const SIZES: [(usize, u32); 5] = [(20, 4_093), (40, 16_381), (85, 65_521), (5_242, 524_287), (usize::MAX, 8_388_593)];

/// Slots for `members`: at least a hundred a member.
pub fn slots(members: usize) -> u32 {
    match members {
        0 => 0,
        1 => 1,
        _ => SIZES.iter().find(|(most, _)| members <= *most).map_or(SIZES[4].1, |(_, slots)| *slots),
    }
}

/// The table: for each slot the position of its backend in `members`, which must hold at most 65,535.
pub fn fill(members: &[Member], slots: u32) -> Vec<u16> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|i| members[*i].seed);
    let weights: Vec<(u64, u64)> = members.iter().map(|member| (member.seed, member.weight.max(1) as u64)).collect();
    let quotas = quotas(&weights, slots);
    let mut filling = Filling {
        walks: members.iter().map(|member| Walk::new(member.seed, slots)).collect(),
        table: vec![FREE; slots as usize],
    };
    if weights.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        in_turn(&mut filling, &order, &quotas);
    } else {
        by_need(&mut filling, &order, &quotas);
    }
    filling.table
}

/// Equal weights: one pick each in turn.
fn in_turn(filling: &mut Filling, order: &[usize], quotas: &[u32]) {
    for round in 0..quotas.iter().copied().max().unwrap_or(0) {
        order.iter().filter(|i| round < quotas[**i]).for_each(|i| filling.pick(*i));
    }
}

/// Whoever is furthest behind its quota picks next.
fn by_need(filling: &mut Filling, order: &[usize], quotas: &[u32]) {
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        order.iter().enumerate().filter(|(_, i)| quotas[**i] > 0).map(|(rank, _)| Reverse((0, rank))).collect();
    let mut taken = vec![0u32; quotas.len()];
    while let Some(Reverse((_, rank))) = turns.pop() {
        let i = order[rank];
        filling.pick(i);
        taken[i] += 1;
        if taken[i] < quotas[i] {
            turns.push(Reverse((((taken[i] as u64) << 32) / quotas[i] as u64, rank)));
        }
    }
}

/// No member's position: there are at most 65,535.
const FREE: u16 = u16::MAX;

struct Filling {
    walks: Vec<Walk>,
    table: Vec<u16>,
}

impl Filling {
    /// Member `i` takes the first free slot of its walk.
    fn pick(&mut self, i: usize) {
        let walk = &mut self.walks[i];
        while self.table[walk.at as usize] != FREE {
            walk.step();
        }
        self.table[walk.at as usize] = i as u16;
        walk.step();
    }
}

/// A member's own permutation of all slots.
struct Walk {
    at: u32,
    skip: u32,
    slots: u32,
}

impl Walk {
    fn new(seed: u64, slots: u32) -> Self {
        let skip = if slots > 1 { mix(seed ^ SEED_SKIP) % (slots as u64 - 1) + 1 } else { 0 };
        Self { at: (mix(seed ^ SEED_OFFSET) % slots.max(1) as u64) as u32, skip: skip as u32, slots }
    }

    fn step(&mut self) {
        let next = self.at + self.skip;
        self.at = if next >= self.slots { next - self.slots } else { next };
    }
}

const SEED_OFFSET: u64 = 0x082e_fa98_ec4e_6c89;
const SEED_SKIP: u64 = 0x4528_21e6_38d0_1377;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: usize) -> Vec<Member> {
        (0..count).map(|i| Member { seed: mix(i as u64 + 77), weight: 1 }).collect()
    }

    fn seeds(members: &[Member]) -> Vec<u64> {
        fill(members, slots(members.len())).into_iter().map(|owner| members[owner as usize].seed).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn counts_differ_by_at_most_one(count in 2usize..60) {
            let members = members(count);
            let table = fill(&members, slots(count));
            let counts: Vec<usize> = (0..count).map(|i| table.iter().filter(|owner| **owner as usize == i).count()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }

        #[test]
        fn a_member_that_leaves_moves_at_most_half_more_than_its_share(count in 4usize..100, gone in 0usize..100) {
            let before = members(count);
            let mut after = before.clone();
            after.remove(gone % count);
            prop_assume!(slots(count) == slots(count - 1));
            let (a, b) = (seeds(&before), seeds(&after));
            let moved = a.iter().zip(&b).filter(|(a, b)| a != b).count();
            prop_assert!(moved as f64 <= 1.5 * a.len() as f64 / count as f64, "{} of {} moved with {} members", moved, a.len(), count);
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(count in 2usize..20) {
            let forward = members(count);
            let backward: Vec<Member> = forward.iter().rev().copied().collect();
            prop_assert_eq!(seeds(&forward), seeds(&backward));
        }

        #[test]
        fn weights_are_kept(heavy in 2u32..50) {
            let members = [Member { seed: 5, weight: heavy }, Member { seed: 9, weight: 1 }];
            let table = fill(&members, 4_093);
            let light = table.iter().filter(|owner| **owner == 1).count() as f64;
            prop_assert!((light - 4_093.0 / (heavy as f64 + 1.0)).abs() < 1.0);
        }
    }

    #[test]
    fn sizes_are_prime() {
        for (_, size) in SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size} is not prime");
        }
    }
}
