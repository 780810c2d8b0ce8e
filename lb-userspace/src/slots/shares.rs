//! Level 1: which destination each slot of a rule belongs to.
//!
//! The counts are exact (largest remainder). Which slots a destination gets follows weighted rendezvous hashing: every slot
//! has a fixed, exponentially distributed cost for every destination, and the smallest cost per weight wins. So a change of
//! weights moves few slots: with two destinations exactly the difference, with more at most the sum of all differences
//! (no table that depends on the weights alone can do better than twice the ideal there).
//! All arithmetic is on integers, so every node computes the same table.

use lb_common::flow::mix;

/// One destination's claim to slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Hash of the destination's identity; independent of its position in the list.
    pub seed: u64,
    pub weight: u32,
}

/// Slots of a rule: 1 where there is nothing to choose, else enough that hundredths of a percent are exact, and a
/// hundred times more where the weights ask for finer steps.
pub fn slots(shares: &[Share]) -> u32 {
    let divisor = shares.iter().fold(0, |a, share| gcd(a, share.weight as u64)).max(1);
    let total: u64 = shares.iter().map(|share| share.weight as u64 / divisor).sum();
    match shares.iter().filter(|share| share.weight > 0).count() {
        0 | 1 => 1,
        _ if total <= COARSE as u64 => COARSE,
        _ => FINE,
    }
}

const COARSE: u32 = 10_000;
const FINE: u32 = 1_000_000;

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many of `slots` each weight gets: within one of `slots * weight / sum`, zero for zero, `slots` in all. With all
/// weights zero nobody gets any.
pub fn quotas(weights: &[(u64, u64)], slots: u32) -> Vec<u32> {
    let total: u128 = weights.iter().map(|(_, weight)| *weight as u128).sum();
    if total == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: u64| slots as u128 * weight as u128;
    let mut quotas: Vec<u32> = weights.iter().map(|(_, weight)| (exact(*weight) / total) as u32).collect();
    let mut order: Vec<usize> = (0..weights.len()).filter(|i| weights[*i].1 > 0).collect();
    // Ties go by identity, so that the order of the list does not matter.
    order.sort_by_key(|i| (std::cmp::Reverse(exact(weights[*i].1) % total), weights[*i].0));
    let missing = slots - quotas.iter().sum::<u32>();
    for i in order.into_iter().take(missing as usize) {
        quotas[i] += 1;
    }
    quotas
}

/// The table: for each slot the position of its destination in `shares`.
///
/// `shares` must hold at most 255 entries, one of them with a weight above zero.
pub fn fill(shares: &[Share], slots: u32) -> Vec<u8> {
    let weights: Vec<(u64, u64)> = shares.iter().map(|share| (share.seed, share.weight as u64)).collect();
    let quotas = quotas(&weights, slots);
    let live: Vec<usize> = (0..shares.len()).filter(|i| shares[*i].weight > 0).collect();
    match live[..] {
        [only] => vec![only as u8; slots as usize],
        [a, b] if shares[a].seed <= shares[b].seed => pair(shares, &quotas, [a, b], slots),
        [a, b] => pair(shares, &quotas, [b, a], slots),
        _ => many(shares, &quotas, &live, slots),
    }
}

/// What slot `slot` costs for a destination, before its weight.
fn cost(slot: u32, share: &Share) -> u64 {
    exponential(mix(share.seed ^ mix(slot as u64)))
}

/// Two destinations: the slots in an order that does not depend on weights; the first one gets its quota from the front. A
/// change of weights moves exactly the difference.
fn pair(shares: &[Share], quotas: &[u32], [first, second]: [usize; 2], slots: u32) -> Vec<u8> {
    // A cost has at most 27 bits.
    let ratio = |slot| (cost(slot, &shares[first]) << 32) / cost(slot, &shares[second]);
    let mut order: Vec<(u64, u32)> = (0..slots).map(|slot| (ratio(slot), slot)).collect();
    let quota = quotas[first] as usize;
    if quota < order.len() {
        order.select_nth_unstable(quota);
    }
    let mut table = vec![second as u8; slots as usize];
    for (_, slot) in &order[..quota] {
        table[*slot as usize] = first as u8;
    }
    table
}

/// Three destinations or more: weighted rendezvous, then the counts are made exact.
fn many(shares: &[Share], quotas: &[u32], live: &[usize], slots: u32) -> Vec<u8> {
    // Who is compared in the order of identities wins ties by it.
    let mut order = live.to_vec();
    order.sort_by_key(|i| shares[*i].seed);
    let mut counts = vec![0u32; shares.len()];
    let mut table = Vec::with_capacity(slots as usize);
    for slot in 0..slots {
        let mixed = mix(slot as u64);
        let (mut best, mut least) = (order[0], u64::MAX);
        for i in order.iter().copied() {
            let cost = exponential(mix(shares[i].seed ^ mixed));
            // 27 bits times 32: `least / weight of best` against `cost / weight`, without dividing.
            if least == u64::MAX || cost * (shares[best].weight as u64) < least * (shares[i].weight as u64) {
                (best, least) = (i, cost);
            }
        }
        counts[best] += 1;
        table.push(best as u8);
    }
    level(shares, quotas, &mut counts, &mut table);
    table
}

/// Moves slots from destinations above their quota to those below it, cheapest first.
fn level(shares: &[Share], quotas: &[u32], counts: &mut [u32], table: &mut [u8]) {
    let short: Vec<usize> = (0..shares.len()).filter(|i| counts[*i] < quotas[*i]).collect();
    let mut moves: Vec<Move> = Vec::new();
    for (slot, owner) in table.iter().enumerate() {
        let owner = *owner as usize;
        if counts[owner] > quotas[owner] {
            let slot = slot as u32;
            let here = cost(slot, &shares[owner]);
            moves.extend(short.iter().map(|to| {
                let dearer = cost(slot, &shares[*to]) as u128 * shares[owner].weight as u128;
                let cheaper = here as u128 * shares[*to].weight as u128;
                Move { dearness: ratio(dearer, cheaper), slot, seed: shares[*to].seed, to: *to as u8 }
            }));
        }
    }
    let mut missing: u32 = short.iter().map(|i| quotas[*i] - counts[*i]).sum();
    // Few of the moves are made: only as many are put in order as it takes.
    let (mut done, mut portion) = (0, 4 * missing as usize);
    while missing > 0 && done < moves.len() {
        let rest = &mut moves[done..];
        let end = portion.min(rest.len());
        if end < rest.len() {
            rest.select_nth_unstable(end);
        }
        rest[..end].sort_unstable();
        for Move { slot, to, .. } in &rest[..end] {
            let (owner, to) = (table[*slot as usize] as usize, *to as usize);
            if counts[owner] > quotas[owner] && counts[to] < quotas[to] {
                counts[owner] -= 1;
                counts[to] += 1;
                table[*slot as usize] = to as u8;
                missing -= 1;
            }
        }
        (done, portion) = (done + end, portion * 2);
    }
}

/// A slot that could go to another destination; the least one goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Move {
    dearness: u64,
    slot: u32,
    seed: u64,
    to: u8,
}

/// `a / b` with [`FRACTION`] fractional bits. Both have at most 59 bits; the quotient stops at 64.
fn ratio(a: u128, b: u128) -> u64 {
    // Most products are short: a division of 64 bits costs a third of one of 128.
    match (u64::try_from(a << FRACTION), u64::try_from(b)) {
        (Ok(a), Ok(b)) => a / b,
        _ => u64::try_from((a << FRACTION) / b).unwrap_or(u64::MAX),
    }
}

/// Fractional bits of a cost.
const FRACTION: u32 = 20;

/// Minus the binary logarithm of `hash / 2^64`, with [`FRACTION`] fractional bits: an exponentially distributed number above
/// zero, of 27 bits.
fn exponential(hash: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    // What follows the leading one: the first bits choose a step of the table, the next ones a place within it.
    let mantissa = (hash << zeros) << 1;
    let step = (mantissa >> (64 - STEPS)) as usize;
    let within = mantissa << STEPS >> (64 - FRACTION);
    let (low, high) = (LOGARITHMS[step] as u64, LOGARITHMS[step + 1] as u64);
    let log = low + (((high - low) * within) >> FRACTION);
    ((zeros as u64 + 1) << FRACTION) - log
}

/// Bits that choose a step of [`LOGARITHMS`].
const STEPS: u32 = 9;

/// `log2(1 + step / 2^STEPS)`, with [`FRACTION`] fractional bits.
static LOGARITHMS: [u32; (1 << STEPS) + 1] = {
    let mut table = [0; (1 << STEPS) + 1];
    let mut step = 0;
    while step < 1 << STEPS {
        // A number in [1, 2) with 31 fractional bits; each squaring yields one bit of its logarithm.
        let mut number: u64 = (1 << 31) + ((step as u64) << (31 - STEPS));
        let (mut log, mut bits) = (0u32, 0);
        while bits < FRACTION {
            number = (number * number) >> 31;
            let bit = number >> 32;
            number >>= bit;
            log = log << 1 | bit as u32;
            bits += 1;
        }
        table[step] = log;
        step += 1;
    }
    table[1 << STEPS] = 1 << FRACTION;
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(weights: &[u32]) -> Vec<Share> {
        weights.iter().enumerate().map(|(i, weight)| Share { seed: mix(i as u64 + 1), weight: *weight }).collect()
    }

    fn counts(table: &[u8], of: usize) -> Vec<u32> {
        (0..of).map(|i| table.iter().filter(|owner| **owner as usize == i).count() as u32).collect()
    }

    fn moved(a: &[u8], b: &[u8]) -> u32 {
        a.iter().zip(b).filter(|(a, b)| a != b).count() as u32
    }

    /// The cases in which other balancers' weights go wrong: a leading zero, one against one, one against many, more than
    /// 16 bits, and sums that are not 100.
    #[test]
    fn well_known_cases_are_exact() {
        for (weights, expected) in [
            (&[1, 1][..], &[5_000, 5_000][..]),
            (&[2, 1], &[6_667, 3_333]),
            (&[0, 100], &[0, 1]),
            (&[1, 0], &[1, 0]),
            (&[99, 1], &[9_900, 100]),
            (&[90, 10], &[9_000, 1_000]),
            (&[5, 5, 90], &[500, 500, 9_000]),
            (&[20, 80, 0], &[2_000, 8_000, 0]),
            (&[1_000_000, 1], &[999_999, 1]),
        ] {
            let shares = shares(weights);
            let table = fill(&shares, slots(&shares));
            assert_eq!(counts(&table, weights.len()), expected, "weights {weights:?}");
        }
    }

    #[test]
    fn costs_are_exponential() {
        // The mean of -log2(u) is 1/ln 2 = 1.4427.
        let mean =
            (0..100_000u64).map(|i| exponential(mix(i)) as f64 / f64::from(1 << FRACTION)).sum::<f64>() / 100_000.0;
        assert!((mean - std::f64::consts::LOG2_E).abs() < 0.02, "mean {mean}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_share_is_within_one_slot(weights in proptest::collection::vec(0u32..1_000_000, 1..12)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let shares = shares(&weights);
            let slots = 10_000;
            let counts = counts(&fill(&shares, slots), weights.len());
            let sum: u64 = weights.iter().map(|weight| *weight as u64).sum();
            for (weight, count) in weights.iter().zip(counts) {
                let exact = slots as f64 * *weight as f64 / sum as f64;
                prop_assert!((count as f64 - exact).abs() < 1.0, "{count} slots for {exact}");
                prop_assert!(*weight > 0 || count == 0);
            }
        }

        #[test]
        fn two_destinations_move_exactly_the_difference(a in 0u32..=100, b in 0u32..=100) {
            let (before, after) = (fill(&shares(&[a, 100 - a]), 10_000), fill(&shares(&[b, 100 - b]), 10_000));
            prop_assert_eq!(moved(&before, &after), a.abs_diff(b) * 100);
        }

        #[test]
        fn more_destinations_move_no_more_than_the_sum_of_differences(
            before in proptest::collection::vec(1u32..100, 2..8), at in 0usize..8, weight in 0u32..100,
        ) {
            let mut after = before.clone();
            after[at % before.len()] = weight;
            prop_assume!(after.iter().any(|weight| *weight > 0));
            let quota = |weights: &[u32]| counts(&fill(&shares(weights), 10_000), weights.len());
            let difference: u32 = quota(&before).iter().zip(quota(&after)).map(|(a, b)| a.abs_diff(b)).sum();
            let moved = moved(&fill(&shares(&before), 10_000), &fill(&shares(&after), 10_000));
            prop_assert!(moved <= difference + before.len() as u32, "{moved} moved for a difference of {difference}");
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(weights in proptest::collection::vec(1u32..100, 2..6)) {
            let forward = shares(&weights);
            let backward: Vec<Share> = forward.iter().rev().copied().collect();
            let last = weights.len() as u8 - 1;
            let turned: Vec<u8> = fill(&backward, 10_000).into_iter().map(|owner| last - owner).collect();
            prop_assert_eq!(fill(&forward, 10_000), turned);
        }
    }
}
