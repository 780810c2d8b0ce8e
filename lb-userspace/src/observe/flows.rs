//! The flow table: listing it, counting it, and removing what has ended.

use super::shared::State;
use crate::{
    dataplane::{
        MapsError,
        kernel::{FamilyMaps, Plain},
    },
    image::BackendId,
    slots::encode::Encode,
};
use aya::Pod;
use lb_common::{
    conntrack::{Phase, Timeouts},
    flow::Tuple,
    table::{Backend, FlowEntry, Side, VipKey},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// What one look at the flow table found.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Flows that are not closed.
    pub live: u64,
    pub by_backend: BTreeMap<u32, u64>,
    /// Ports of flows, which must stay in the port filter.
    listen_ports: BTreeSet<u16>,
    backend_ports: BTreeSet<u16>,
}

/// One flow, as `meltemi flows` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub backend: SocketAddr,
    /// Source of the packets that the backend sees.
    pub source: SocketAddr,
    pub state: &'static str,
    /// Seconds since the last packet, a second or so too many at most.
    pub idle: u32,
    pub rule: String,
    pub destination: String,
}

impl State {
    /// Walks the flow table once: removes what timed out, counts the rest. With `reset`, flows of backends that are no longer
    /// configured are ended.
    pub fn sweep(&mut self, now: u32, reset: bool) -> Result<(), MapsError> {
        let mut sweep = Sweep::default();
        let pass = Pass {
            now,
            ticks_per_second: self.ticks_per_second,
            timeouts: self.timeouts,
            ended: reset.then(|| self.image.backends.keys().copied().collect()),
        };
        pass.family(&mut self.maps.v4, "FLOWS4", &mut sweep)?;
        pass.family(&mut self.maps.v6, "FLOWS6", &mut sweep)?;
        sweep.listen_ports.extend(self.image.vips.keys().map(|vip| vip.port.get()));
        sweep.backend_ports.extend(self.image.backends.values().map(|backend| backend.address.port()));
        self.maps.retain_ports(|usage, port| match usage {
            lb_common::table::PortUse::Listen => sweep.listen_ports.contains(&port),
            lb_common::table::PortUse::Backend => sweep.backend_ports.contains(&port),
        });
        self.sweep = sweep;
        Ok(())
    }

    /// At most `limit` flows.
    pub fn flows(&self, now: u32, limit: usize) -> Result<Vec<Flow>, MapsError> {
        let mut flows = Vec::new();
        self.list(&self.maps.v4, "FLOWS4", now, limit, &mut flows)?;
        self.list(&self.maps.v6, "FLOWS6", now, limit, &mut flows)?;
        Ok(flows)
    }

    fn list<A: Encode>(
        &self,
        maps: &FamilyMaps<A>,
        name: &'static str,
        now: u32,
        limit: usize,
        flows: &mut Vec<Flow>,
    ) -> Result<(), MapsError>
    where
        Plain<Tuple<A>>: Pod,
        Plain<FlowEntry<A>>: Pod,
        Plain<VipKey<A>>: Pod,
        Plain<Backend<A>>: Pod,
    {
        for item in maps.flows.iter() {
            let Ok((Plain(key), Plain(entry))) = item else {
                // The entry went away under the walk.
                continue;
            };
            if flows.len() >= limit {
                break;
            }
            if entry.side != Side::Client {
                continue;
            }
            let named = self.image.rules.values().find_map(|rule| {
                let destination =
                    rule.destinations.iter().find(|destination| destination.stats.0 == entry.destination)?;
                Some((rule.name.to_string(), destination.name.to_string()))
            });
            let (rule, destination) = named.unwrap_or_default();
            flows.push(Flow {
                client: SocketAddr::new(key.src.decode(), key.sport.get()),
                vip: SocketAddr::new(key.dst.decode(), key.dport.get()),
                backend: SocketAddr::new(entry.to.dst.decode(), entry.to.dport.get()),
                source: SocketAddr::new(entry.to.src.decode(), entry.to.sport.get()),
                state: entry.state.phase().name(),
                idle: now.wrapping_sub(entry.seen) / self.ticks_per_second.max(1),
                rule,
                destination,
            });
        }
        let _ = name;
        Ok(())
    }
}

struct Pass {
    now: u32,
    ticks_per_second: u32,
    timeouts: Timeouts,
    /// Backends whose flows may go on; `None`: all.
    ended: Option<BTreeSet<BackendId>>,
}

impl Pass {
    fn family<A: Encode>(
        &self,
        maps: &mut FamilyMaps<A>,
        name: &'static str,
        sweep: &mut Sweep,
    ) -> Result<(), MapsError>
    where
        Plain<Tuple<A>>: Pod,
        Plain<FlowEntry<A>>: Pod,
        Plain<VipKey<A>>: Pod,
        Plain<Backend<A>>: Pod,
    {
        let (mut gone, mut ended) = (Vec::new(), Vec::new());
        for item in maps.flows.iter() {
            let Ok((key, entry)) = item else { continue };
            let phase = entry.0.state.phase();
            if self.expired(&entry.0) {
                let other = Plain(entry.0.to.reverse());
                if maps.flows.get(&other, 0).map_or(true, |Plain(other)| self.expired(&other)) {
                    gone.push(key);
                    gone.push(other);
                    continue;
                }
            }
            if entry.0.side != Side::Client {
                continue;
            }
            sweep.listen_ports.insert(key.0.dport.get());
            sweep.backend_ports.insert(entry.0.to.dport.get());
            if phase != Phase::Closed {
                sweep.live += 1;
                *sweep.by_backend.entry(entry.0.backend).or_default() += 1;
                if self.ended.as_ref().is_some_and(|kept| !kept.contains(&BackendId(entry.0.backend))) {
                    ended.push((key, entry));
                }
            }
        }
        for key in gone {
            // It may be gone already, or have come back to life; both are the next sweep's business.
            let _ = maps.flows.remove(&key);
        }
        for (key, mut entry) in ended {
            let other = Plain(entry.0.to.reverse());
            entry.0.state = entry.0.state.end();
            maps.flows.insert(key, entry, 0).map_err(|source| MapsError::Kernel { map: name, source })?;
            if let Ok(mut back) = maps.flows.get(&other, 0) {
                back.0.state = back.0.state.end();
                maps.flows.insert(other, back, 0).map_err(|source| MapsError::Kernel { map: name, source })?;
            }
        }
        Ok(())
    }

    fn expired<A>(&self, entry: &FlowEntry<A>) -> bool {
        let idle = self.now.wrapping_sub(entry.seen);
        // An entry written while the walk is under way may be a tick ahead of `now`.
        let idle = if idle > u32::MAX / 2 { 0 } else { idle };
        idle / self.ticks_per_second.max(1) >= self.timeouts.of(entry.state.phase())
    }
}
