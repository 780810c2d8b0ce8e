//! Described tables to arena words and kernel values: the writing side of `lb_common::table`'s layouts.

use super::{maglev, shares};
use crate::image::{Backend, Classes, Client, RuleId, RuleTable, SubsetTable, VipRule, name_hash};
use lb_common::{
    flow::{V4, V6},
    table::{self, rule},
    wire::{Be16, Be32},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Words of a rule's table (`lb_common::table::rule`).
pub fn rule(table: &RuleTable) -> Vec<u32> {
    let shares: Vec<shares::Share> = table
        .destinations
        .iter()
        .map(|destination| shares::Share { seed: name_hash(&destination.name), weight: destination.weight })
        .collect();
    let slots = if shares.iter().any(|share| share.weight > 0) { shares::slots(&shares) } else { 0 };
    let name = name_hash(&table.name);
    let mut words =
        vec![slots, table.hash as u32 | (table.destinations.len() as u32) << 8, name as u32, (name >> 32) as u32];
    for destination in &table.destinations {
        let name = name_hash(&destination.name);
        let subset = destination.subset.map_or(rule::BROKEN, |id| id.0);
        words.extend([subset, destination.stats.0, name as u32, (name >> 32) as u32]);
    }
    if slots > 0 {
        words.extend(
            shares::fill(&shares, slots)
                .chunks(4)
                .map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | *byte as u32)),
        );
    }
    words
}

/// Whether two rules' tables give each destination the same slots, and count it in the same place.
pub fn same_shares(one: &[u32], other: &[u32]) -> bool {
    let table = |words: &[u32]| rule::DESTINATIONS + rule::DESTINATION_WORDS * (words[rule::SHAPE as usize] >> 8);
    if one.len() != other.len() || one.len() <= rule::DESTINATIONS as usize {
        return false;
    }
    let end = table(one) as usize;
    let subset = |at: usize| {
        (rule::DESTINATIONS as usize..end).contains(&at)
            && (at - rule::DESTINATIONS as usize).is_multiple_of(rule::DESTINATION_WORDS as usize)
    };
    (0..one.len()).all(|at| one[at] == other[at] || subset(at))
}

/// Positions of the statistics of a rule's destinations.
pub fn statistics(words: &[u32]) -> impl Iterator<Item = u32> {
    let first = (rule::DESTINATIONS + 1) as usize;
    let count = (words[rule::SHAPE as usize] >> 8) as usize;
    (0..count).map(move |position| words[first + position * rule::DESTINATION_WORDS as usize])
}

/// Words of a subset's table (`lb_common::table::subset`).
pub fn subset(table: &SubsetTable) -> Vec<u32> {
    let members: Vec<maglev::Member> = table
        .members
        .iter()
        .map(|member| maglev::Member { seed: name_hash(&member.address.to_string()), weight: member.weight })
        .collect();
    let slots = maglev::slots(members.len());
    let name = name_hash(&table.name);
    let mut words = vec![slots, members.len() as u32, name as u32, (name >> 32) as u32];
    words.extend(table.members.iter().map(|member| member.backend.0));
    if slots > 0 {
        words.extend(
            maglev::fill(&members, slots)
                .chunks(2)
                .map(|pair| pair.iter().rev().fold(0, |word, slot| word << 16 | *slot as u32)),
        );
    }
    words
}

/// What a VIP's key leads to.
pub fn vip(target: &VipRule) -> u32 {
    match target.classes {
        Classes::Alike => target.rule.0,
        Classes::Differ => target.rule.0 | rule::CLASSES,
    }
}

/// The same backwards.
pub fn vip_rule(word: u32) -> VipRule {
    let classes = if word & rule::CLASSES == 0 { Classes::Alike } else { Classes::Differ };
    VipRule { rule: RuleId(word & !rule::CLASSES), classes }
}

/// What is known of a client.
pub fn client(client: &Client) -> table::Client {
    table::Client { name: client.name, class: u32::from(client.class.0), reserved: 0 }
}

/// The bits by which the data path's filter knows an endpoint of either family.
pub fn endpoint_hash(endpoint: SocketAddr) -> u16 {
    let port = Be16::new(endpoint.port());
    match V4::encode(endpoint.ip()) {
        Some(address) => table::endpoint_hash(&address, port),
        None => V6::encode(endpoint.ip()).map_or(0, |address| table::endpoint_hash(&address, port)),
    }
}

/// An address of one family as kernel tables hold it.
pub trait Encode: lb_common::flow::Address {
    fn encode(address: IpAddr) -> Option<Self>;
    fn decode(self) -> IpAddr;

    /// `None`: the backend is of the other family.
    fn backend(backend: &Backend) -> Option<table::Backend<Self>> {
        Some(table::Backend {
            address: Self::encode(backend.address.ip())?,
            source: Self::encode(backend.source)?,
            port: Be16::new(backend.address.port()),
            forwarding: backend.forwarding,
            reserved: 0,
            stats: backend.stats.0,
        })
    }
}

impl Encode for V4 {
    fn encode(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(V4(Be32::new(address.to_bits()))),
            IpAddr::V6(_) => None,
        }
    }

    fn decode(self) -> IpAddr {
        Ipv4Addr::from_bits(self.0.get()).into()
    }
}

impl Encode for V6 {
    fn encode(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                Some(V6([96, 64, 32, 0].map(|shift| Be32::new((bits >> shift) as u32))))
            }
            IpAddr::V4(_) => None,
        }
    }

    fn decode(self) -> IpAddr {
        Ipv6Addr::from_bits(self.0.iter().fold(0u128, |bits, word| bits << 32 | word.get() as u128)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{RuleDestination, StatsId, SubsetId};
    use lb_common::flow::HashKey;

    #[test]
    fn shares_are_the_same_whatever_number_a_subset_has() {
        let table = |weights: [u32; 2], subset: u32, stats: u32| {
            let destination = |(name, weight): (&str, u32), at: u32| RuleDestination {
                name: name.into(),
                weight,
                subset: Some(SubsetId(subset + at)),
                stats: StatsId(stats + at),
            };
            let destinations = vec![destination(("v1", weights[0]), 0), destination(("v2", weights[1]), 1)];
            rule(&RuleTable { name: "rule".into(), hash: HashKey::Flow, destinations })
        };
        let first = table([20, 80], 0, 5);
        assert!(same_shares(&first, &table([20, 80], 7, 5)));
        assert!(same_shares(&first, &table([1, 4], 0, 5)), "the same shares in other words");
        assert!(!same_shares(&first, &table([30, 70], 0, 5)));
        assert!(!same_shares(&first, &table([20, 80], 0, 6)), "counted elsewhere");
        assert!(!same_shares(&[], &first));
        assert!(statistics(&first).eq([5, 6]));
    }
}
