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
use lb_common::{
    conntrack::{Phase, Timeouts},
    table::{FlowEntry, PortUse, Side},
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
    /// Endpoints of flows, which must stay in the filter.
    listeners: BTreeSet<SocketAddr>,
    backends: BTreeSet<SocketAddr>,
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
            ticks_per_second: self.settled.ticks_per_second,
            timeouts: self.settled.timeouts,
            configured: self.image.backends.keys().copied().collect(),
            reset,
        };
        pass.family(&mut self.maps.v4, "FLOWS4", &mut sweep)?;
        pass.family(&mut self.maps.v6, "FLOWS6", &mut sweep)?;
        sweep.listeners.extend(self.image.vips.keys().map(|vip| SocketAddr::new(vip.address, vip.port.get())));
        sweep.backends.extend(self.image.backends.values().map(|backend| backend.address));
        self.maps.retain_endpoints(PortUse::Listen, &sweep.listeners);
        self.maps.retain_endpoints(PortUse::Backend, &sweep.backends);
        self.sweep = sweep;
        Ok(())
    }

    /// At most `limit` flows.
    pub fn flows(&self, now: u32, limit: usize) -> Vec<Flow> {
        let mut flows = Vec::new();
        self.list(&self.maps.v4, now, limit, &mut flows);
        self.list(&self.maps.v6, now, limit, &mut flows);
        flows
    }

    fn list<A: Encode>(&self, maps: &FamilyMaps<A>, now: u32, limit: usize, flows: &mut Vec<Flow>) {
        // An entry that goes away under the walk is left out.
        for (Plain(key), Plain(entry)) in maps.flows.iter().flatten().filter(|(_, entry)| entry.0.side == Side::Client)
        {
            if flows.len() >= limit {
                break;
            }
            let named = self.image.rules.values().find_map(|rule| {
                let destination = rule.destinations.iter().find(|one| one.stats.0 == entry.destination)?;
                Some((rule.name.to_string(), destination.name.to_string()))
            });
            let (rule, destination) = named.unwrap_or_default();
            flows.push(Flow {
                client: SocketAddr::new(key.src.decode(), key.sport.get()),
                vip: SocketAddr::new(key.dst.decode(), key.dport.get()),
                backend: SocketAddr::new(entry.to.dst.decode(), entry.to.dport.get()),
                source: SocketAddr::new(entry.to.src.decode(), entry.to.sport.get()),
                state: entry.state.phase().name(),
                idle: now.wrapping_sub(entry.seen) / self.settled.ticks_per_second.max(1),
                rule,
                destination,
            });
        }
    }
}

struct Pass {
    now: u32,
    ticks_per_second: u32,
    timeouts: Timeouts,
    configured: BTreeSet<BackendId>,
    /// Whether flows of backends that are not configured are ended.
    reset: bool,
}

/// Seconds after which a handshake that did not complete is forgotten. A client that still tries starts anew.
const HANDSHAKE: u32 = 60;

impl Pass {
    fn family<A: Encode>(
        &self,
        maps: &mut FamilyMaps<A>,
        name: &'static str,
        sweep: &mut Sweep,
    ) -> Result<(), MapsError> {
        // First: a flow that becomes established meanwhile is then seen here or below.
        self.handshakes(maps, sweep);
        let (mut gone, mut ended) = (Vec::new(), Vec::new());
        for (key, entry) in maps.flows.iter().flatten() {
            let other = Plain(entry.0.to.reverse());
            if self.expired(&entry.0) && maps.flows.get(&other, 0).map_or(true, |Plain(other)| self.expired(&other)) {
                gone.extend([key, other]);
            } else if entry.0.side == Side::Client {
                sweep.count(SocketAddr::new(key.0.dst.decode(), key.0.dport.get()), &entry.0);
                if self.reset && !self.configured.contains(&BackendId(entry.0.backend)) {
                    ended.extend([key, other]);
                }
            }
        }
        for key in gone {
            // It may be gone already, or have come back to life; both are the next sweep's business.
            let _ = maps.flows.remove(&key);
        }
        for key in ended {
            if let Ok(Plain(mut entry)) = maps.flows.get(&key, 0) {
                entry.state = entry.state.end();
                maps.flows.insert(key, Plain(entry), 0).map_err(|source| MapsError::Kernel { map: name, source })?;
            }
        }
        Ok(())
    }

    /// Forgets handshakes that will not complete, and with them the source ports they hold.
    fn handshakes<A: Encode>(&self, maps: &mut FamilyMaps<A>, sweep: &mut Sweep) {
        let mut gone = Vec::new();
        for (key, Plain(pending)) in maps.pending.iter().flatten() {
            let entry = &pending.entry;
            if self.idle(entry) >= HANDSHAKE || !self.configured.contains(&BackendId(entry.backend)) {
                gone.push(key);
            } else if entry.side == Side::Client {
                sweep.keep(SocketAddr::new(key.0.dst.decode(), key.0.dport.get()), entry);
            }
        }
        for key in gone {
            let _ = maps.pending.remove(&key);
        }
    }

    fn expired<A>(&self, entry: &FlowEntry<A>) -> bool {
        self.idle(entry) >= self.timeouts.of(entry.state.phase())
    }

    /// Seconds since the entry was last refreshed.
    fn idle<A>(&self, entry: &FlowEntry<A>) -> u32 {
        let ticks = self.now.wrapping_sub(entry.seen);
        // An entry written while the walk is under way may be a tick ahead of `now`.
        if ticks > u32::MAX / 2 { 0 } else { ticks / self.ticks_per_second.max(1) }
    }
}

impl Sweep {
    /// The filter goes on letting the flow's packets through.
    fn keep<A: Encode>(&mut self, listener: SocketAddr, entry: &FlowEntry<A>) {
        self.listeners.insert(listener);
        self.backends.insert(SocketAddr::new(entry.to.dst.decode(), entry.to.dport.get()));
    }

    fn count<A: Encode>(&mut self, listener: SocketAddr, entry: &FlowEntry<A>) {
        self.keep(listener, entry);
        if entry.state.phase() != Phase::Closed {
            self.live += 1;
            *self.by_backend.entry(entry.backend).or_default() += 1;
        }
    }
}
