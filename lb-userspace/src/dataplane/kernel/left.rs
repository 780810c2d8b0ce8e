//! What a former agent left in the kernel, read back from the tables themselves.
// The room around it may; this may not.
#![deny(unsafe_code)]

use super::{FamilyMaps, KernelMaps, Mapped, Plain};
use crate::{
    dataplane::MapsError,
    image::{self, BackendId, ClassId, RuleId, StatsId, SubsetId, Vip, VipRule},
    slots::encode::{self, Encode},
};
use lb_common::table::{Region, rule, subset};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::atomic::{AtomicU64, Ordering},
};

impl KernelMaps {
    /// What a former agent left: VIPs, the names of rules, destinations and subsets, and backends.
    pub fn left(&self) -> Result<Left, MapsError> {
        let word = |at: u32| self.arena.words().get(at as usize).map_or(0, |word| word.load(Ordering::Acquire));
        let name = |at: u32| word(at) as u64 | (word(at + 1) as u64) << 32;
        let regions = |table: &Mapped<AtomicU64>| -> Vec<(u32, Region)> {
            let all =
                table.words().iter().enumerate().map(|(id, word)| (id as u32, Region(word.load(Ordering::Acquire))));
            all.filter(|(_, region)| region.words() > 0).collect()
        };
        let mut left = Left::default();
        for (id, region) in regions(&self.rules) {
            left.rules.push((name(region.offset() + rule::NAME), RuleId(id)));
            for position in 0..word(region.offset() + rule::SHAPE) >> 8 {
                let at = region.offset() + rule::DESTINATIONS + position * rule::DESTINATION_WORDS;
                left.destination_stats.push((name(at + 2), word(at + 1)));
            }
        }
        left.subsets = regions(&self.subsets)
            .into_iter()
            .map(|(id, region)| (name(region.offset() + subset::NAME), SubsetId(id)))
            .collect();
        left.family(&self.v4, ["VIPS4", "CLIENTS4", "BACKENDS4"])?;
        left.family(&self.v6, ["VIPS6", "CLIENTS6", "BACKENDS6"])?;
        Ok(left)
    }
}

/// Tables found in the kernel.
#[derive(Debug, Default)]
pub struct Left {
    pub vips: Vec<(Vip, VipRule)>,
    pub clients: Vec<(IpAddr, image::Client)>,
    pub rules: Vec<(u64, RuleId)>,
    pub destination_stats: Vec<(u64, u32)>,
    pub subsets: Vec<(u64, SubsetId)>,
    pub backends: Vec<(BackendId, image::Backend)>,
}

impl Left {
    fn family<A: Encode>(
        &mut self,
        maps: &FamilyMaps<A>,
        [vips, clients, backends]: [&'static str; 3],
    ) -> Result<(), MapsError> {
        for entry in maps.vips.iter() {
            let (Plain(key), rule) = entry.map_err(|source| MapsError::Kernel { map: vips, source })?;
            if let Some(port) = NonZeroU16::new(key.port.get()) {
                let vip = Vip { address: key.address.decode(), port, class: ClassId(key.class) };
                self.vips.push((vip, encode::vip_rule(rule)));
            }
        }
        for entry in maps.clients.iter() {
            let (Plain(key), Plain(client)) = entry.map_err(|source| MapsError::Kernel { map: clients, source })?;
            let class = ClassId(client.class as u8);
            self.clients.push((key.address.decode(), image::Client { class, name: client.name }));
        }
        for entry in maps.backends.iter() {
            let (id, Plain(backend)) = entry.map_err(|source| MapsError::Kernel { map: backends, source })?;
            let address = SocketAddr::new(backend.address.decode(), backend.port.get());
            let stats = StatsId(backend.stats);
            self.backends.push((
                BackendId(id),
                image::Backend { address, forwarding: backend.forwarding, source: backend.source.decode(), stats },
            ));
        }
        Ok(())
    }
}
