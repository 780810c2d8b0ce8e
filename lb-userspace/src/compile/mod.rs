//! Model to Image: addresses, families and numbers. Pure: what the host looks like and which numbers are taken are arguments.

pub mod ids;

use crate::{
    image::{
        Backend, BackendId, Image, RuleDestination, RuleId, RuleTable, StatsId, SubsetId, SubsetMember, SubsetTable,
        Vip, name_hash,
    },
    model::{Action, Cluster, ClusterName, Destination, Door, HashKey, Listener, Model, Rule, Target},
};
use ids::Ids;
use lb_common::{flow::Family, table::Forwarding};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

/// What of this host matters to the tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Addresses that Gateway servers without `bind` listen on.
    pub addresses: BTreeSet<IpAddr>,
    /// Way to each endpoint's address. One that is missing has no route and is left out of the tables.
    pub paths: BTreeMap<IpAddr, Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// This host's address towards it.
    pub source: IpAddr,
    pub forwarding: Forwarding,
}

/// Compiles `model`. The numbers in `ids` are continued: an unchanged thing keeps its number.
pub fn compile(model: &Model, host: &Host, ids: &mut Ids) -> Image {
    for pool in [&mut ids.rules, &mut ids.subsets, &mut ids.destination_stats, &mut ids.backend_stats] {
        pool.begin();
    }
    let mut compiler = Compiler { model, host, ids, image: Image::default(), subsets: BTreeMap::new() };
    for (index, listener) in model.listeners.iter().enumerate() {
        compiler.listener(index, listener);
    }
    let Compiler { image, ids, .. } = compiler;
    for pool in [&mut ids.rules, &mut ids.subsets, &mut ids.destination_stats, &mut ids.backend_stats] {
        pool.finish();
    }
    ids.backends.retain(|id| image.backends.contains_key(&BackendId(id)));
    image
}

/// Addresses of every endpoint in `model`: those a [`Host`] should know the way to.
pub fn endpoint_addresses(model: &Model) -> BTreeSet<IpAddr> {
    model.clusters.values().flat_map(|cluster| cluster.endpoints.iter().map(|endpoint| endpoint.address)).collect()
}

struct Compiler<'a> {
    model: &'a Model,
    host: &'a Host,
    ids: &'a mut Ids,
    image: Image,
    subsets: BTreeMap<(&'a ClusterName, Family), SubsetId>,
}

impl<'a> Compiler<'a> {
    fn listener(&mut self, index: usize, listener: &'a Listener) {
        let Action::Tcp(rule) = &listener.action else {
            return;
        };
        let (addresses, port) = addresses(&listener.door, self.host);
        for family in [Family::V4, Family::V6] {
            let mut addresses = addresses.iter().filter(|address| family_of(address) == family).peekable();
            if addresses.peek().is_none() {
                continue;
            }
            let name: Arc<str> = format!("{} {family:?}", listener.door).into();
            let id = self.rule(index, rule, family, name);
            for address in addresses {
                // Model keeps listeners in order of precedence: the first one that names an address has it.
                self.image.vips.entry(Vip { address: *address, port }).or_insert(id);
            }
        }
    }

    fn rule(&mut self, listener: usize, rule: &'a Rule, family: Family, name: Arc<str>) -> RuleId {
        let id = RuleId(self.ids.rules.id(name_hash(&name)));
        let destinations =
            rule.destinations.iter().map(|destination| self.destination(destination, family, &name)).collect();
        let hash = match rule.hash {
            HashKey::Flow => lb_common::flow::HashKey::Flow,
            HashKey::SourceIp => lb_common::flow::HashKey::SourceIp,
        };
        self.image.rules.insert(id, RuleTable { name, hash, destinations, listener });
        id
    }

    fn destination(&mut self, destination: &'a Destination, family: Family, rule: &str) -> RuleDestination {
        let subset = match &destination.target {
            Target::Cluster(cluster) => self.subset(cluster, family),
            Target::Broken(_) => None,
        };
        let name: Arc<str> = match &destination.subset {
            Some(subset) => format!("{}:{}/{subset}", destination.host, destination.port).into(),
            None => format!("{}:{}", destination.host, destination.port).into(),
        };
        let stats = StatsId(self.ids.destination_stats.id(name_hash(&format!("{rule} {name}"))));
        RuleDestination { name, weight: destination.weight, subset, stats }
    }

    fn subset(&mut self, name: &'a ClusterName, family: Family) -> Option<SubsetId> {
        if let Some(id) = self.subsets.get(&(name, family)) {
            return Some(*id);
        }
        let cluster = self.model.clusters.get(name)?;
        let table = SubsetTable { name: format!("{name} {family:?}").into(), members: self.members(cluster, family) };
        let id = SubsetId(self.ids.subsets.id(name_hash(&table.name)));
        self.image.subsets.insert(id, table);
        self.subsets.insert((name, family), id);
        Some(id)
    }

    fn members(&mut self, cluster: &Cluster, family: Family) -> Vec<SubsetMember> {
        let mut members = Vec::new();
        for endpoint in cluster.endpoints.iter().filter(|endpoint| family_of(&endpoint.address) == family) {
            let Some(path) = self.host.paths.get(&endpoint.address) else {
                continue;
            };
            let address = SocketAddr::new(endpoint.address, endpoint.port.get());
            let id = BackendId(self.ids.backends.id(address));
            let stats = StatsId(self.ids.backend_stats.id(name_hash(&address.to_string())));
            self.image
                .backends
                .insert(id, Backend { address, forwarding: path.forwarding, source: path.source, stats });
            members.push(SubsetMember { backend: id, address, weight: endpoint.weight });
        }
        members
    }
}

fn addresses(door: &Door, host: &Host) -> (Vec<IpAddr>, NonZeroU16) {
    match door {
        Door::Gateway { bind: Some(address), port, .. } => (vec![*address], *port),
        Door::Gateway { bind: None, port, .. } => (host.addresses.iter().copied().collect(), *port),
        Door::Service { addresses, port, .. } => (addresses.clone(), *port),
    }
}

pub const fn family_of(address: &IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}
