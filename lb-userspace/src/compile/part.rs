//! What one listener and what one cluster contribute to an image. Each is a function of its own inputs alone, so that it can
//! be kept for as long as they stay the same.

use super::{Host, family_of, ids::Ids};
use crate::{
    image::{
        Backend, BackendId, ClassId, RuleDestination, RuleId, RuleTable, StatsId, SubsetId, SubsetMember, SubsetTable,
        Vip, name_hash,
    },
    model::{Action, Cluster, ClusterName, Destination, Door, HashKey, Listener, Model, Rule, Share, Target},
};
use lb_common::flow::Family;
use std::{
    cmp::Ordering,
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

/// A cluster of one family that a destination names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Need {
    /// Hash of the subset table's name.
    pub key: u64,
    pub name: ClusterName,
    pub family: Family,
}

/// Rules and VIPs of one listener.
#[derive(Debug)]
pub(super) struct ListenerPart {
    pub listener: Arc<Listener>,
    pub tables: Vec<(RuleId, Arc<RuleTable>)>,
    /// What it claims; an earlier listener may have it.
    pub vips: Vec<(Vip, RuleId)>,
    pub needs: Vec<Need>,
    /// The class of clients that it is for.
    pub class: Option<ClassId>,
    /// Clusters that the model lacks.
    missing: Vec<ClusterName>,
}

impl ListenerPart {
    /// `before`: the same listener's former part, whose tables are taken over where they are equal.
    pub fn compile(
        listener: &Arc<Listener>,
        model: &Model,
        host: &Host,
        ids: &mut Ids,
        before: Option<&ListenerPart>,
    ) -> Self {
        let mut part = Self {
            listener: listener.clone(),
            tables: Vec::new(),
            vips: Vec::new(),
            needs: Vec::new(),
            class: None,
            missing: Vec::new(),
        };
        let (addresses, port) = addresses(&listener.door, host);
        let class = match &listener.door {
            Door::Service { share: Share { class: Some(class), .. }, .. } => {
                part.class = class_number(ids, &class.to_string());
                // Without a number its clients are like all others.
                let Some(class) = part.class else { return part };
                class
            }
            Door::Service { .. } | Door::Gateway { .. } => ClassId::ANY,
        };
        let rule = match &listener.action {
            Action::Tcp(rule) => rule,
            Action::Proxy(_) => {
                part.vips.extend(addresses.into_iter().map(|address| (Vip { address, port, class }, RuleId::PROXY)));
                return part;
            }
        };
        for family in [Family::V4, Family::V6] {
            let mut addresses = addresses.iter().filter(|address| family_of(address) == family).peekable();
            if addresses.peek().is_none() {
                continue;
            }
            let name: Arc<str> = format!("{} {family:?}", listener.door).into();
            let id = RuleId(ids.rules.id(name_hash(&name)));
            let table = part.table(rule, family, name, model, ids);
            let known = before.and_then(|before| before.tables.iter().find(|(_, known)| **known == table));
            part.tables.push((id, known.map_or_else(|| Arc::new(table), |(_, known)| known.clone())));
            part.vips.extend(addresses.map(|address| (Vip { address: *address, port, class }, id)));
        }
        part
    }

    fn table(&mut self, rule: &Rule, family: Family, name: Arc<str>, model: &Model, ids: &mut Ids) -> RuleTable {
        let mut destinations = Vec::with_capacity(rule.destinations.len());
        for destination in &rule.destinations {
            let subset = match &destination.target {
                Target::Cluster(cluster) => self.subset(cluster, family, model, ids),
                Target::Broken(_) => None,
            };
            let own = destination_name(destination);
            let stats = StatsId(ids.destination_stats.id(name_hash(&format!("{name} {own}"))));
            destinations.push(RuleDestination { name: own, weight: destination.weight, subset, stats });
        }
        let hash = match rule.hash {
            HashKey::Flow => lb_common::flow::HashKey::Flow,
            HashKey::SourceIp => lb_common::flow::HashKey::SourceIp,
        };
        RuleTable { name, hash, destinations }
    }

    fn subset(&mut self, name: &ClusterName, family: Family, model: &Model, ids: &mut Ids) -> Option<SubsetId> {
        if !model.clusters.contains_key(name) {
            self.missing.push(name.clone());
            return None;
        }
        let key = name_hash(&subset_name(name, family));
        self.needs.push(Need { key, name: name.clone(), family });
        Some(SubsetId(ids.subsets.id(key)))
    }

    /// Numbers of its destinations' statistics.
    pub fn statistics(&self) -> impl Iterator<Item = StatsId> {
        self.tables.iter().flat_map(|(_, table)| table.destinations.iter().map(|destination| destination.stats))
    }

    /// Where the part stands beside a listener, by their doors.
    pub fn order(&self, listener: &Arc<Listener>) -> Ordering {
        match Arc::ptr_eq(&self.listener, listener) {
            true => Ordering::Equal,
            false => self.listener.door.cmp(&listener.door),
        }
    }

    /// Whether the listener is what it was.
    pub fn is_of(&self, listener: &Arc<Listener>) -> bool {
        Arc::ptr_eq(&self.listener, listener) || self.listener == *listener
    }

    /// Whether every cluster is there that was, and none is there that was not.
    pub fn is_complete(&self, model: &Model, changed: &HashSet<ClusterName>) -> bool {
        let gone = |need: &Need| changed.contains(&need.name) && !model.clusters.contains_key(&need.name);
        self.missing.is_empty() && (changed.is_empty() || !self.needs.iter().any(gone))
    }
}

fn destination_name(destination: &Destination) -> Arc<str> {
    match &destination.subset {
        Some(subset) => format!("{}:{}/{subset}", destination.host, destination.port).into(),
        None => format!("{}:{}", destination.host, destination.port).into(),
    }
}

/// The keys of a cluster's tables.
pub(super) fn keys(cluster: &ClusterName) -> [u64; 2] {
    [Family::V4, Family::V6].map(|family| name_hash(&subset_name(cluster, family)))
}

/// By which the number of a backend's statistics is known.
pub(super) fn backend_name(address: SocketAddr) -> u64 {
    name_hash(&address.to_string())
}

fn subset_name(cluster: &ClusterName, family: Family) -> String {
    format!("{cluster} {family:?}")
}

fn addresses(door: &Door, host: &Host) -> (Vec<IpAddr>, NonZeroU16) {
    match door {
        Door::Gateway { bind: Some(address), port, .. } => (vec![*address], *port),
        Door::Gateway { bind: None, port, .. } => (host.addresses.iter().copied().collect(), *port),
        Door::Service { addresses, port, .. } => (addresses.clone(), *port),
    }
}

/// The number of a class of clients. `None`: none is left.
fn class_number(ids: &mut Ids, name: &str) -> Option<ClassId> {
    u8::try_from(ids.classes.id(name_hash(name)) + 1).ok().map(ClassId)
}

/// One cluster's endpoints of one family.
#[derive(Debug)]
pub(super) struct ClusterPart {
    pub table: (SubsetId, Arc<SubsetTable>),
    pub backends: Vec<(BackendId, Backend)>,
}

impl ClusterPart {
    /// `before`: the same cluster's former part, whose table is taken over where it is equal.
    pub fn compile(
        need: &Need,
        cluster: &Cluster,
        host: &Host,
        ids: &mut Ids,
        before: Option<&ClusterPart>,
    ) -> ClusterPart {
        let (mut members, mut backends) = (Vec::new(), Vec::new());
        for endpoint in cluster.endpoints.iter().filter(|endpoint| family_of(&endpoint.address) == need.family) {
            let Some(path) = host.paths.get(&endpoint.address) else {
                continue;
            };
            let address = SocketAddr::new(endpoint.address, endpoint.port.get());
            let backend = BackendId(ids.backends.id(address));
            let stats = StatsId(ids.backend_stats.id(backend_name(address)));
            backends.push((backend, Backend { address, forwarding: path.forwarding, source: path.source, stats }));
            members.push(SubsetMember { backend, address, weight: endpoint.weight });
        }
        let table = SubsetTable { name: subset_name(&need.name, need.family).into(), members };
        let known = before.filter(|before| *before.table.1 == table).map(|before| before.table.1.clone());
        let id = SubsetId(ids.subsets.id(need.key));
        ClusterPart { table: (id, known.unwrap_or_else(|| Arc::new(table))), backends }
    }
}
