//! How requests and connections were spread over the destinations of each rule since its weights last changed; and what is under
//! way to each cluster. Readable from any thread.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::snapshot::{ClusterName, Content, Outcome, RouteKind, RuleSource, Snapshot, Split};

/// A rule with its weights: with other weights it is another one, and its counts begin anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SplitName {
    pub kind: RouteKind,
    /// `namespace/name`.
    pub virtual_service: Arc<str>,
    /// Position in that object's list.
    pub index: u32,
    pub destinations: Vec<(ClusterName, u32)>,
}

impl SplitName {
    /// `None`: no VirtualService wrote it.
    pub fn of(source: &RuleSource, split: &Split) -> Option<SplitName> {
        Some(SplitName {
            kind: source.kind,
            virtual_service: source.virtual_service.clone()?,
            index: source.index,
            destinations: split.destinations.iter().map(|one| (one.cluster.clone(), one.weight)).collect(),
        })
    }

    /// Every rule of a snapshot that a VirtualService wrote, once, with its source.
    pub fn all(snapshot: &Snapshot) -> BTreeMap<SplitName, &RuleSource> {
        let mut found = BTreeMap::new();
        for chain in snapshot.listeners.iter().flat_map(|listener| &listener.chains) {
            let mut add =
                |source, split| _ = SplitName::of(source, split).map(|name| found.entry(name).or_insert(source));
            match &chain.content {
                Content::Tcp(route) => add(&route.source, &route.split),
                Content::AutoPassthrough => {}
                Content::Http(hosts) => {
                    for route in hosts.iter().flat_map(|host| &host.routes) {
                        if let Outcome::Forward { split, .. } = &route.action.outcome {
                            add(&route.source, split);
                        }
                    }
                }
            }
        }
        found
    }
}

/// One number for each destination.
pub(super) type Counters = Arc<[AtomicU64]>;

/// Of one worker.
#[derive(Debug, Default)]
pub(super) struct Splits {
    /// Taken when a rule is first used, at a change of revisions, and by readers.
    all: Mutex<HashMap<SplitName, Counters>>,
}

impl Splits {
    pub fn counters(&self, name: SplitName) -> Counters {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = name.destinations.len();
        all.entry(name).or_insert_with(|| (0..count).map(|_| AtomicU64::new(0)).collect()).clone()
    }

    /// Forgets what is not in force any more.
    pub fn keep(&self, snapshot: &Snapshot) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.is_empty() {
            let known: HashSet<SplitName> = SplitName::all(snapshot).into_keys().collect();
            all.retain(|name, _| known.contains(name));
        }
    }

    pub fn read(&self) -> Vec<(SplitName, Vec<u64>)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let values = |counters: &Counters| counters.iter().map(|one| one.load(Ordering::Relaxed)).collect();
        all.iter().map(|(name, counters)| (name.clone(), values(counters))).collect()
    }
}

/// What is under way to a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReading {
    pub connections: u32,
    pub requests: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    pub retries: u32,
    /// Endpoints that get nothing for a while, with the number of workers that ejected them: each has its own opinion.
    pub ejected: BTreeMap<String, u32>,
}

impl PoolReading {
    pub fn is_idle(&self) -> bool {
        *self == PoolReading::default()
    }

    pub(super) fn add(&mut self, other: &PoolReading) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.pending += other.pending;
        self.retries += other.retries;
        for (endpoint, workers) in &other.ejected {
            *self.ejected.entry(endpoint.clone()).or_default() += workers;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::world::{destination, route, snapshot, to};

    fn with_weights(weights: [u32; 2]) -> Snapshot {
        let outcome = to(vec![destination("one", weights[0]), destination("two", weights[1])]);
        snapshot(80, "a.example", vec![route("/a", outcome.clone()), route("/b", outcome)], Vec::new())
    }

    fn name(snapshot: &Snapshot) -> SplitName {
        SplitName::all(snapshot).into_keys().next().unwrap()
    }

    #[test]
    fn counts_begin_anew_with_other_weights_and_only_then() {
        let (first, second) = (with_weights([20, 80]), with_weights([50, 50]));
        assert_eq!(SplitName::all(&first).len(), 1, "two items of one rule");
        let splits = Splits::default();
        splits.counters(name(&first))[1].fetch_add(3, Ordering::Relaxed);
        splits.keep(&first);
        splits.counters(name(&first))[0].fetch_add(1, Ordering::Relaxed);
        assert_eq!(splits.read(), [(name(&first), vec![1, 3])]);
        splits.keep(&second);
        assert_eq!(splits.read(), []);
    }
}
