//! The flow table: listing it, counting it, and removing what has ended.

use super::shared::State;
use crate::{
    dataplane::{
        MapsError,
        kernel::{Entry, FamilyMaps, Plain},
    },
    image::{BackendId, RuleDestination, Vip},
    slots::encode::Encode,
};
use lb_common::{
    conntrack::{Phase, Timeouts},
    flow::{Family, Tuple},
    table::{FlowEntry, PortUse, Side},
    verdict::Reason,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

/// What one look at the flow table found.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// Flows that had ever begun when the look did.
    begun: u64,
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
    /// Begins a walk through the flow table: what timed out is removed, the rest counted. With [`Removed::Reset`], flows of
    /// backends that are no longer configured are ended.
    pub fn begin_sweep(&self, now: u32, removed: Removed) -> Pass {
        Pass {
            now,
            ticks_per_second: self.settled.ticks_per_second,
            timeouts: self.settled.timeouts,
            configured: self.image.backends.keys().copied().collect(),
            removed,
            found: Sweep { begun: self.maps.counter(Reason::ForwardNew).unwrap_or(0), ..Sweep::default() },
            place: Place::Start(Family::V4),
            fill: Fill::default(),
        }
    }

    /// Goes some entries further, so that nobody waits long for what this holds. True: the walk is over.
    pub fn sweep_on(&mut self, pass: &mut Pass) -> Result<bool, MapsError> {
        pass.place = match pass.place {
            Place::Start(Family::V4) | Place::In(Family::V4, ..) => pass.step(&mut self.maps.v4, "FLOWS4")?,
            Place::Start(Family::V6) | Place::In(Family::V6, ..) => pass.step(&mut self.maps.v6, "FLOWS6")?,
            Place::End => Place::End,
        };
        let over = pass.place == Place::End;
        if over {
            self.swept(std::mem::take(&mut pass.found));
        }
        Ok(over)
    }

    fn swept(&mut self, mut sweep: Sweep) {
        sweep.listeners.extend(self.image.vips.keys().map(Vip::socket));
        sweep.backends.extend(self.image.backends.values().map(|backend| backend.address));
        self.maps.retain_endpoints(PortUse::Listen, &sweep.listeners);
        self.maps.retain_endpoints(PortUse::Backend, &sweep.backends);
        self.sweep = sweep;
    }

    /// Whether so many flows have begun since the last sweep that a table may be running full. The number of new flows alone
    /// mostly tells that it cannot be.
    pub fn crowded(&self) -> Result<bool, MapsError> {
        let (v4, v6) = (&self.maps.v4, &self.maps.v6);
        let begun = self.maps.counter(Reason::ForwardNew)?.wrapping_sub(self.sweep.begun);
        let many = |capacity: u32| 2 * begun >= u64::from(capacity / 16);
        let full = |filled: u64, capacity: u32| filled > u64::from(capacity / 4 * 3);
        Ok(many(v4.capacity()) && full(v4.filled()?, v4.capacity())
            || many(v6.capacity()) && full(v6.filled()?, v6.capacity()))
    }

    /// At most `limit` flows.
    pub fn flows(&self, now: u32, limit: usize) -> Result<Vec<Flow>, MapsError> {
        let mut flows = Vec::new();
        let names = self.image.rules.values().flat_map(|rule| {
            let one =
                |destination: &RuleDestination| (destination.stats.0, [rule.name.clone(), destination.name.clone()]);
            rule.destinations.iter().map(one)
        });
        let names: BTreeMap<u32, [Arc<str>; 2]> = names.collect();
        self.list(&self.maps.v4, &names, now, limit, &mut flows)?;
        self.list(&self.maps.v6, &names, now, limit, &mut flows)?;
        Ok(flows)
    }

    fn list<A: Encode>(
        &self,
        maps: &FamilyMaps<A>,
        names: &BTreeMap<u32, [Arc<str>; 2]>,
        now: u32,
        limit: usize,
        flows: &mut Vec<Flow>,
    ) -> Result<(), MapsError> {
        let mut bucket = Some(0);
        while let Some(from) = bucket.filter(|_| flows.len() < limit) {
            let batch = maps.some_flows(from)?;
            bucket = batch.next;
            for (Plain(key), Plain(entry)) in batch.entries.iter().filter(|(_, entry)| entry.0.side == Side::Client) {
                let named = names.get(&entry.destination).map(|names| names.each_ref().map(|name| name.to_string()));
                let [rule, destination] = named.unwrap_or_default();
                flows.push(Flow {
                    client: SocketAddr::new(key.src.decode(), key.sport.get()),
                    vip: SocketAddr::new(key.dst.decode(), key.dport.get()),
                    backend: SocketAddr::new(entry.to.dst.decode(), entry.to.dport.get()),
                    source: SocketAddr::new(entry.to.src.decode(), entry.to.sport.get()),
                    state: entry.state.phase().name(),
                    idle: idle(now, entry.seen, self.settled.ticks_per_second),
                    rule,
                    destination,
                });
            }
        }
        flows.truncate(limit);
        Ok(())
    }
}

/// Which walk through which table, and the bucket that is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start(Family),
    In(Family, Round, u32),
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// Counts, and removes what has had its time.
    All,
    /// The table is running full: removes flows that have been closed for this many seconds.
    Closed(u32),
}

/// A walk through the flow table that is under way.
pub struct Pass {
    now: u32,
    ticks_per_second: u32,
    timeouts: Timeouts,
    configured: BTreeSet<BackendId>,
    removed: Removed,
    found: Sweep,
    place: Place,
    /// Of the table that is walked through.
    fill: Fill,
}

/// What happens to flows of a backend that is no longer configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// They go on until they end.
    Drain,
    /// Their next packet is answered with RST.
    Reset,
}

/// Seconds after which a handshake that did not complete is forgotten. A client that still tries starts anew.
const HANDSHAKE: u32 = 60;

/// Batches of a step: some milliseconds.
const STEP: u32 = 8;

/// What a table holds.
#[derive(Clone, Debug, Default)]
struct Fill {
    entries: u32,
    /// Closed flows by the seconds since their last refresh.
    closed: BTreeMap<u32, u32>,
}

/// Closed flows stay at least this many seconds, however full the table is: late packets of theirs are still under way.
const LEAST_CLOSED: u32 = 2;

impl Fill {
    /// After how many seconds closed flows must go so that they leave half of a table of `capacity` free; `None` where they
    /// may have the time that they are usually given.
    fn limit(&self, capacity: u32) -> Option<u32> {
        let room = capacity / 2;
        if self.entries <= room {
            return None;
        }
        let mut kept = self.entries - 2 * self.closed.values().sum::<u32>().min(self.entries / 2);
        let first = self.closed.iter().find(|(_, count)| {
            kept += 2 * **count;
            kept > room
        });
        first.map(|(age, _)| (*age).max(LEAST_CLOSED))
    }
}

impl Pass {
    fn step<A: Encode>(&mut self, maps: &mut FamilyMaps<A>, name: &'static str) -> Result<Place, MapsError> {
        let (round, mut bucket) = match self.place {
            Place::In(_, round, bucket) => (round, bucket),
            Place::Start(_) | Place::End => {
                self.fill = Fill::default();
                // First: a flow that becomes established meanwhile is then seen here or below.
                self.handshakes(maps);
                (Round::All, 0)
            }
        };
        for _ in 0..STEP {
            let batch = maps.some_flows(bucket)?;
            match round {
                Round::All => self.look(maps, name, &batch.entries)?,
                Round::Closed(limit) => self.clear(maps, &batch.entries, limit),
            }
            let Some(next) = batch.next else {
                return Ok(self.after::<A>(round, maps.capacity()));
            };
            bucket = next;
        }
        Ok(Place::In(A::FAMILY, round, bucket))
    }

    /// Where to go on after the last bucket of a table.
    fn after<A: Encode>(&self, round: Round, capacity: u32) -> Place {
        match (round, self.fill.limit(capacity)) {
            (Round::All, Some(limit)) if limit < self.timeouts.closed => Place::In(A::FAMILY, Round::Closed(limit), 0),
            _ if A::FAMILY == Family::V4 => Place::Start(Family::V6),
            _ => Place::End,
        }
    }

    fn look<A: Encode>(
        &mut self,
        maps: &mut FamilyMaps<A>,
        name: &'static str,
        entries: &[Entry<A>],
    ) -> Result<(), MapsError> {
        for (key, Plain(entry)) in entries {
            let other = Plain(entry.to.reverse());
            if self.expired(entry) && maps.flows.get(&other, 0).map_or(true, |Plain(other)| self.expired(&other)) {
                forget(maps, [*key, other]);
                continue;
            }
            self.fill.entries += 1;
            if entry.side != Side::Client {
                continue;
            }
            if entry.state.phase() == Phase::Closed {
                *self.fill.closed.entry(self.idle(entry)).or_default() += 1;
            }
            self.found.count(SocketAddr::new(key.0.dst.decode(), key.0.dport.get()), entry);
            if self.removed == Removed::Reset && !self.configured.contains(&BackendId(entry.backend)) {
                end(maps, name, [*key, other])?;
            }
        }
        Ok(())
    }

    /// Removes flows that have been closed for `limit` seconds.
    fn clear<A: Encode>(&self, maps: &mut FamilyMaps<A>, entries: &[Entry<A>], limit: u32) {
        for (key, Plain(entry)) in entries.iter().filter(|(_, Plain(entry))| entry.side == Side::Client) {
            if entry.state.phase() == Phase::Closed && self.idle(entry) >= limit {
                forget(maps, [*key, Plain(entry.to.reverse())]);
            }
        }
    }

    /// Forgets handshakes that will not complete, and with them the source ports they hold.
    fn handshakes<A: Encode>(&mut self, maps: &mut FamilyMaps<A>) {
        let mut gone = Vec::new();
        for (key, Plain(pending)) in maps.pending.iter().flatten() {
            let entry = &pending.entry;
            if self.idle(entry) >= HANDSHAKE || !self.configured.contains(&BackendId(entry.backend)) {
                gone.push(key);
            } else if entry.side == Side::Client {
                self.found.keep(SocketAddr::new(key.0.dst.decode(), key.0.dport.get()), entry);
            }
        }
        for key in gone {
            let _ = maps.pending.remove(&key);
        }
    }

    fn expired<A>(&self, entry: &FlowEntry<A>) -> bool {
        self.idle(entry) >= self.timeouts.of(entry.state.phase())
    }

    fn idle<A>(&self, entry: &FlowEntry<A>) -> u32 {
        idle(self.now, entry.seen, self.ticks_per_second)
    }
}

/// Seconds since an entry was last refreshed.
fn idle(now: u32, seen: u32, ticks_per_second: u32) -> u32 {
    let ticks = now.wrapping_sub(seen);
    // An entry written since the clock was read may be a tick ahead.
    if ticks > u32::MAX / 2 { 0 } else { ticks / ticks_per_second.max(1) }
}

/// Removes a flow. An entry may be gone already, or have come back to life; both are the next sweep's business.
fn forget<A: Encode>(maps: &mut FamilyMaps<A>, keys: [Plain<Tuple<A>>; 2]) {
    for key in keys {
        let _ = maps.flows.remove(&key);
    }
}

/// Has a flow's next packet answered with RST.
fn end<A: Encode>(maps: &mut FamilyMaps<A>, name: &'static str, keys: [Plain<Tuple<A>>; 2]) -> Result<(), MapsError> {
    for key in keys {
        if let Ok(Plain(mut entry)) = maps.flows.get(&key, 0) {
            entry.state = entry.state.end();
            maps.flows.insert(key, Plain(entry), 0).map_err(|source| MapsError::Kernel { map: name, source })?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(others: u32, closed: &[(u32, u32)]) -> Fill {
        let closed: BTreeMap<u32, u32> = closed.iter().copied().collect();
        Fill { entries: others + 2 * closed.values().sum::<u32>(), closed }
    }

    #[test]
    fn closed_flows_keep_their_time_while_there_is_room() {
        assert_eq!(fill(100, &[(0, 200), (59, 200)]).limit(1_800), None);
    }

    #[test]
    fn the_longest_closed_go_first_until_half_is_free() {
        let full = fill(100, &[(1, 100), (7, 100), (30, 100), (50, 100)]);
        // 100 others and 400 entries of the two youngest are 500: half of 1,000.
        assert_eq!(full.limit(1_000), Some(30));
        assert_eq!(full.limit(1_300), Some(30));
        assert_eq!(full.limit(1_400), Some(50));
        assert_eq!(full.limit(900), Some(7));
    }

    #[test]
    fn flows_that_closed_just_now_stay() {
        assert_eq!(fill(900, &[(0, 40), (1, 40)]).limit(1_000), Some(LEAST_CLOSED));
    }

    #[test]
    fn flows_that_are_not_closed_are_never_asked_to_go() {
        assert_eq!(fill(1_000, &[]).limit(1_000), None);
    }
}
