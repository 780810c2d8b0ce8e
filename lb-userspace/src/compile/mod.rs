//! Model to Image, and to the proxy's Snapshot: addresses, families and numbers. Pure: what the host looks like and which numbers are taken are arguments.
//!
//! A [`Compiler`] keeps the parts of the last image, one for each listener and each cluster, and compiles anew only those
//! whose own inputs changed. The result is the same as that of [`compile`], which keeps nothing.

pub mod ids;
mod part;
mod proxy;

#[cfg(test)]
mod tests;

use crate::{
    image::{BackendId, ClassId, Classes, Client, Image, RuleId, Sorted, Vip, VipRule, name_hash},
    model::{ClientClass, Clients, Cluster, ClusterName, Door, Model, Share},
};
use ids::Ids;
use lb_common::{flow::Family, table::Forwarding};
use part::{ClusterPart, ListenerPart};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

pub use proxy::snapshot;

/// What of this host matters to the tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Addresses that Gateway servers without `bind` listen on.
    pub addresses: BTreeSet<IpAddr>,
    /// Way to each endpoint's address. One that is missing has no route and is left out of the tables.
    pub paths: Sorted<IpAddr, Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// This host's address towards it.
    pub source: IpAddr,
    pub forwarding: Forwarding,
}

/// Compiles `model`. The numbers in `ids` are continued: an unchanged thing keeps its number.
pub fn compile(model: &Model, host: &Host, ids: &mut Ids) -> Image {
    Compiler::default().compile(&Arc::new(model.clone()), &Arc::new(host.clone()), ids)
}

/// Addresses of every endpoint in `model`: those a [`Host`] should know the way to.
pub fn endpoint_addresses(model: &Model) -> BTreeSet<IpAddr> {
    model.clusters.values().flat_map(|cluster| cluster.endpoints.iter().map(|endpoint| endpoint.address)).collect()
}

/// Addresses of endpoints in those clusters of `model` that `former` does not have as they are.
pub fn new_endpoints(former: &Model, model: &Model) -> BTreeSet<IpAddr> {
    let changed = differing(&former.clusters, &model.clusters, Arc::ptr_eq);
    let clusters = changed.iter().filter_map(|name| model.clusters.get(name));
    clusters.flat_map(|cluster| cluster.endpoints.iter().map(|endpoint| endpoint.address)).collect()
}

/// What one revision needs to know of the one before. Blank, it compiles everything.
#[derive(Debug, Default)]
pub struct Compiler {
    model: Arc<Model>,
    host: Arc<Host>,
    /// In the order of the model's listeners; one that has no table has a part too.
    listeners: Vec<ListenerPart>,
    /// By their keys.
    clusters: HashMap<u64, ClusterPart>,
    /// How many of them have each backend.
    shared: HashMap<BackendId, u32>,
    image: Image,
}

impl Compiler {
    /// Compiles `model`, continuing the numbers in `ids`, which must be those of the last call.
    pub fn compile(&mut self, model: &Arc<Model>, host: &Arc<Host>, ids: &mut Ids) -> Image {
        let changed = self.changed(model, host);
        let former = std::mem::take(&mut self.listeners);
        let former = if self.host.addresses == host.addresses { former } else { Vec::new() };
        let same_clients = Arc::ptr_eq(&self.model.clients, &model.clients) || self.model.clients == model.clients;
        (self.model, self.host) = (model.clone(), host.clone());
        let stale = self.listeners(former, &changed, ids);
        if stale.numbers {
            self.image.rules = self.listeners.iter().flat_map(|part| part.tables.iter().cloned()).collect();
            ids.rules.keep(self.image.rules.keys().map(|id| id.0));
            let destinations = self.image.rules.values().flat_map(|table| &table.destinations);
            ids.destination_stats.keep(destinations.map(|destination| destination.stats.0));
        } else {
            let parts = stale.tables.iter().map(|at| &self.listeners[*at]);
            self.image.rules.extend(parts.flat_map(|part| part.tables.iter().cloned()));
        }
        if stale.places {
            self.image.vips = vips(&self.listeners);
            ids.classes.keep(self.listeners.iter().filter_map(|part| part.class).map(|class| u32::from(class.0) - 1));
            let parts = self.listeners.iter().enumerate();
            self.image.listeners =
                parts.flat_map(|(at, part)| part.tables.iter().map(move |(id, _)| (*id, at))).collect();
        }
        if stale.places || !same_clients {
            self.image.clients = clients(&self.model.clients, &self.listeners);
        }
        if stale.needs {
            self.all_clusters(&changed, ids);
        } else if !changed.is_empty() {
            self.some_clusters(&changed, ids);
        }
        self.image.clone()
    }

    /// The clusters that are not what they were, or whose endpoints are reached in another way.
    fn changed(&self, model: &Model, host: &Arc<Host>) -> HashSet<ClusterName> {
        let mut changed = differing(&self.model.clusters, &model.clusters, Arc::ptr_eq);
        let paths = self.host.paths.changes(&host.paths, Path::eq);
        let mut paths: Vec<IpAddr> = paths.put.into_iter().chain(paths.gone).map(|(address, _)| *address).collect();
        paths.sort();
        if !paths.is_empty() {
            let moved = model.clusters.iter().filter(|(_, cluster)| has_any(cluster, &paths));
            changed.extend(moved.map(|(name, _)| name.clone()));
        }
        changed
    }

    /// Brings the listeners' parts up to date, and says what of the image that makes stale.
    fn listeners(&mut self, former: Vec<ListenerPart>, changed: &HashSet<ClusterName>, ids: &mut Ids) -> Stale {
        // With nothing to continue, what `ids` has from elsewhere must be put in order too.
        let mut stale = if former.is_empty() { Stale::all() } else { Stale::default() };
        let mut former = former.into_iter().peekable();
        for listener in &self.model.listeners {
            // Both lists are in the order of doors.
            while former.next_if(|part| part.order(listener).is_lt()).is_some() {
                stale = Stale::all();
            }
            let before = former.next_if(|part| part.order(listener).is_eq());
            let part = match before {
                Some(mut part) if part.is_of(listener) && part.is_complete(&self.model, changed) => {
                    part.listener = listener.clone();
                    part
                }
                before => {
                    let part = ListenerPart::compile(listener, &self.model, &self.host, ids, before.as_ref());
                    stale.note(before.as_ref(), &part, self.listeners.len());
                    part
                }
            };
            self.listeners.push(part);
        }
        if former.next().is_some() {
            stale = Stale::all();
        }
        stale
    }

    /// Brings the clusters' parts up to date, and with them the image's subsets and backends.
    fn all_clusters(&mut self, changed: &HashSet<ClusterName>, ids: &mut Ids) {
        let mut former = std::mem::take(&mut self.clusters);
        for need in self.listeners.iter().flat_map(|part| &part.needs) {
            if self.clusters.contains_key(&need.key) {
                continue;
            }
            let part = match former.remove(&need.key) {
                Some(part) if !changed.contains(&need.name) => Some(part),
                before => {
                    let cluster = self.model.clusters.get(&need.name);
                    cluster.map(|cluster| ClusterPart::compile(need, cluster, &self.host, ids, before.as_ref()))
                }
            };
            self.clusters.extend(part.map(|part| (need.key, part)));
        }
        self.image.subsets = self.clusters.values().map(|part| part.table.clone()).collect();
        let backends = || self.clusters.values().flat_map(|part| &part.backends);
        self.image.backends = backends().copied().collect();
        self.shared.clear();
        backends().for_each(|(id, _)| *self.shared.entry(*id).or_default() += 1);
        ids.subsets.keep(self.image.subsets.keys().map(|id| id.0));
        ids.backend_stats.keep(self.image.backends.values().map(|backend| backend.stats.0));
        ids.backends.retain(|id| self.shared.contains_key(&BackendId(id)));
    }

    /// The same where the clusters are those that were there before.
    fn some_clusters(&mut self, changed: &HashSet<ClusterName>, ids: &mut Ids) {
        let mut keys: HashSet<u64> = changed.iter().flat_map(part::keys).collect();
        // In the order of needs, so that new endpoints get the numbers that they get where everything is compiled.
        for need in self.listeners.iter().flat_map(|part| &part.needs) {
            if keys.is_empty() {
                break;
            }
            if !keys.remove(&need.key) {
                continue;
            }
            if let (Some(cluster), Some(part)) = (self.model.clusters.get(&need.name), self.clusters.get_mut(&need.key))
            {
                let next = ClusterPart::compile(need, cluster, &self.host, ids, Some(part));
                exchange(&mut self.image, &mut self.shared, part, &next);
                *part = next;
            }
        }
        let unused: Vec<BackendId> = self.shared.extract_if(|_, parts| *parts == 0).map(|(id, _)| id).collect();
        for backend in unused.iter().filter_map(|id| self.image.backends.remove(id)) {
            ids.backend_stats.free(part::backend_name(backend.address));
            ids.backends.forget(backend.address);
        }
    }
}

/// Puts a cluster's new part in the place of its former one. Backends that no part has any more stay, with a count of 0.
fn exchange(image: &mut Image, shared: &mut HashMap<BackendId, u32>, before: &ClusterPart, after: &ClusterPart) {
    let (id, table) = &after.table;
    if !Arc::ptr_eq(table, &before.table.1) {
        image.subsets.insert(*id, table.clone());
    }
    for (id, backend) in &after.backends {
        *shared.entry(*id).or_default() += 1;
        if image.backends.get(id) != Some(backend) {
            image.backends.insert(*id, *backend);
        }
    }
    for (id, _) in &before.backends {
        shared.entry(*id).and_modify(|parts| *parts -= 1);
    }
}

/// All VIPs; those that classes of clients differ at are marked for all other clients.
fn vips(parts: &[ListenerPart]) -> Sorted<Vip, VipRule> {
    let all = parts.iter().flat_map(|part| &part.vips);
    let mut vips: Sorted<Vip, VipRule> = all.map(|(vip, rule)| (*vip, VipRule::from(*rule))).collect();
    let differing: BTreeSet<Vip> =
        vips.keys().filter(|vip| vip.class != ClassId::ANY).map(|vip| Vip::any(vip.address, vip.port)).collect();
    for vip in differing {
        let rule = vips.get(&vip).map_or(RuleId::NONE, |known| known.rule);
        vips.insert(vip, VipRule { rule, classes: Classes::Differ });
    }
    vips
}

/// The clients of classes that some listener is for.
fn clients(all: &Clients, parts: &[ListenerPart]) -> Sorted<IpAddr, Client> {
    let mut numbers: HashMap<&ClientClass, Client> = HashMap::new();
    for part in parts {
        if let (Door::Service { share: Share { class: Some(class), .. }, .. }, Some(number)) =
            (&part.listener.door, part.class)
        {
            numbers.insert(class, Client { class: number, name: name_hash(&class.to_string()) });
        }
    }
    let known = all.members.iter().filter(|_| !numbers.is_empty());
    let known = known.filter_map(|one| Some((one.address, *numbers.get(&**all.classes.get(usize::from(one.class))?)?)));
    known.collect()
}

/// Whether some endpoint of a cluster has one of these addresses, which are sorted as endpoints are.
fn has_any(cluster: &Cluster, addresses: &[IpAddr]) -> bool {
    let endpoints = &cluster.endpoints;
    if addresses.len() < endpoints.len() {
        return addresses.iter().any(|one| endpoints.binary_search_by_key(one, |endpoint| endpoint.address).is_ok());
    }
    endpoints.iter().any(|endpoint| addresses.binary_search(&endpoint.address).is_ok())
}

/// Which of the image's tables must be put together anew.
#[derive(Clone, Debug, Default)]
struct Stale {
    /// Positions of the listeners whose tables are others.
    tables: Vec<usize>,
    /// All rules: their numbers or those of their statistics are others.
    numbers: bool,
    /// The VIPs, and where the rules' listeners are.
    places: bool,
    /// The subsets and backends.
    needs: bool,
}

impl Stale {
    fn all() -> Stale {
        Stale { tables: Vec::new(), numbers: true, places: true, needs: true }
    }

    fn note(&mut self, before: Option<&ListenerPart>, after: &ListenerPart, at: usize) {
        let Some(before) = before else {
            *self = Stale::all();
            return;
        };
        self.tables.push(at);
        let same_rules = before.tables.iter().map(|one| one.0).eq(after.tables.iter().map(|one| one.0));
        self.numbers |= !same_rules || !before.statistics().eq(after.statistics());
        self.places |= !same_rules || before.vips != after.vips;
        self.needs |= before.needs != after.needs;
    }
}

/// Keys that only one of two maps has, or whose values differ. `glance`: the two values are one and the same, and so are
/// their keys.
fn differing<K: Ord + Clone + std::hash::Hash, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    glance: impl Fn(&V, &V) -> bool,
) -> HashSet<K> {
    let mut keys = HashSet::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    while let (Some((before, was)), Some((after, is))) = (old.peek(), new.peek()) {
        let order = if glance(was, is) { Ordering::Equal } else { before.cmp(after) };
        if order.is_ne() || !(glance(was, is) || was == is) {
            keys.insert(if order.is_le() { (*before).clone() } else { (*after).clone() });
        }
        let _ = (order.is_le().then(|| old.next()), order.is_ge().then(|| new.next()));
    }
    keys.extend(old.chain(new).map(|(key, _)| key.clone()));
    keys
}

pub const fn family_of(address: &IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}
