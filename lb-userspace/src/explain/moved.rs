//! The exact share of new flows that a change of tables sends elsewhere, by comparing slot with slot.

use crate::{
    image::{Image, RuleDestination, RuleTable, SubsetTable},
    slots::encode,
};
use lb_common::table::{rule, subset};
use std::{collections::BTreeMap, net::SocketAddr};

/// `None`: the tables are the same. A change of what is hashed places every flow anew, independently of where it was.
pub(super) fn moved((old, before): (&Image, &RuleTable), (new, after): (&Image, &RuleTable)) -> Option<f64> {
    if described(old, before) == described(new, after) {
        return None;
    }
    if before.hash != after.hash {
        let (was, is) = (spread(old, before), spread(new, after));
        let stays: f64 = was.iter().filter_map(|(place, share)| Some(share * is.get(place)?)).sum();
        return Some(1.0 - stays);
    }
    let mut known: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    let pairs = overlap(&owners(before), &owners(after));
    let share = pairs.into_iter().map(|((from, to), share)| {
        let differs = known.entry((from, to)).or_insert_with(|| {
            match (before.destinations.get(from as usize), after.destinations.get(to as usize)) {
                (Some(from), Some(to)) if from.name == to.name => differ(members(old, from), members(new, to)),
                (None, None) => 0.0,
                _ => 1.0,
            }
        });
        share * *differs
    });
    Some(share.sum())
}

/// A destination's name, weight and members' addresses and weights.
type Described<'a> = (&'a str, u32, Vec<(SocketAddr, u32)>);

/// All that a rule's tables depend on, without numbers.
fn described<'a>(image: &Image, table: &'a RuleTable) -> (lb_common::flow::HashKey, Vec<Described<'a>>) {
    let one = |destination: &'a RuleDestination| {
        let members = members(image, destination).into_iter().flat_map(|table| &table.members);
        (&*destination.name, destination.weight, members.map(|member| (member.address, member.weight)).collect())
    };
    (table.hash, table.destinations.iter().map(one).collect())
}

/// `None`: it does not exist.
fn members<'a>(image: &'a Image, destination: &RuleDestination) -> Option<&'a SubsetTable> {
    image.subsets.get(&destination.subset?).map(|table| &**table)
}

/// Position of the destination by slot, as the kernel reads it; one slot of nobody where there are none.
fn owners(table: &RuleTable) -> Vec<u32> {
    let words = encode::rule(table);
    let (slots, first) = (
        words[rule::SLOTS as usize],
        rule::DESTINATIONS + rule::DESTINATION_WORDS * (words[rule::SHAPE as usize] >> 8),
    );
    let owner = |slot: u32| words[(first + slot / 4) as usize] >> (8 * (slot % 4)) & 0xff;
    if slots == 0 { vec![NOBODY] } else { (0..slots).map(owner).collect() }
}

const NOBODY: u32 = u32::MAX;

/// Backend by slot, as the kernel reads it; one slot without one where there are none.
fn backends(table: Option<&SubsetTable>) -> Vec<Option<SocketAddr>> {
    let Some(table) = table.filter(|table| !table.members.is_empty()) else {
        return vec![None];
    };
    let words = encode::subset(table);
    let first = subset::BACKENDS + words[subset::COUNT as usize];
    let position = |slot: u32| words[(first + slot / 2) as usize] >> (16 * (slot % 2)) & 0xffff;
    (0..words[subset::SLOTS as usize])
        .map(|slot| table.members.get(position(slot) as usize).map(|member| member.address))
        .collect()
}

/// Share of a destination's flows whose backend differs.
fn differ(before: Option<&SubsetTable>, after: Option<&SubsetTable>) -> f64 {
    overlap(&backends(before), &backends(after))
        .iter()
        .filter(|((from, to), _)| from != to)
        .map(|(_, share)| share)
        .sum()
}

/// How much of the hash space has which owner before and after. Where one slot count divides the other, slots are counted;
/// else their bounds in the hash space, as `FlowHash` draws them, are compared.
fn overlap<T: Copy + Ord>(before: &[T], after: &[T]) -> BTreeMap<(T, T), f64> {
    let (m, n) = (before.len() as u64, after.len() as u64);
    let mut units: BTreeMap<(T, T), u64> = BTreeMap::new();
    let whole = if m.max(n) % m.min(n) == 0 {
        let whole = m.max(n);
        for slot in 0..whole {
            let pair = (before[(slot * m / whole) as usize], after[(slot * n / whole) as usize]);
            *units.entry(pair).or_default() += 1;
        }
        whole
    } else {
        let end = |slot: u64, slots: u64| ((slot + 1) << 32).div_ceil(slots);
        let (mut i, mut j, mut at) = (0, 0, 0);
        while i < m && j < n {
            let next = end(i, m).min(end(j, n));
            *units.entry((before[i as usize], after[j as usize])).or_default() += next - at;
            i += u64::from(end(i, m) == next);
            j += u64::from(end(j, n) == next);
            at = next;
        }
        1 << 32
    };
    units.into_iter().map(|(pair, count)| (pair, count as f64 / whole as f64)).collect()
}

/// Where a rule's flows go: share by destination and backend.
fn spread<'a>(image: &Image, table: &'a RuleTable) -> BTreeMap<(&'a str, Option<SocketAddr>), f64> {
    let mut spread = BTreeMap::new();
    let owners = owners(table);
    let unit = 1.0 / owners.len() as f64;
    let mut shares: BTreeMap<u32, f64> = BTreeMap::new();
    for owner in owners {
        *shares.entry(owner).or_default() += unit;
    }
    for (owner, share) in shares {
        let Some(destination) = table.destinations.get(owner as usize) else {
            *spread.entry(("", None)).or_default() += share;
            continue;
        };
        let backends = backends(members(image, destination));
        let part = share / backends.len() as f64;
        for backend in backends {
            *spread.entry((&*destination.name, backend)).or_default() += part;
        }
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::overlap;
    use std::collections::BTreeMap;

    #[test]
    fn slots_that_divide_are_counted() {
        let shares = overlap(&[1, 2], &[1, 1, 1, 2]);
        assert_eq!(shares, BTreeMap::from([((1, 1), 0.5), ((2, 1), 0.25), ((2, 2), 0.25)]));
    }

    #[test]
    fn others_are_compared_by_their_bounds() {
        let shares = overlap(&[1, 2], &[1, 1, 2]);
        assert!((shares[&(2, 1)] - 1.0 / 6.0).abs() < 1e-9, "{shares:?}");
        assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
