//! What a change of a few objects can reach: the objects that share a name with them, and those that share one with these.
//! Errs on the large side. Where the reach cannot be told, it says so, and everything must be parsed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{binding, clients::asked_by, host, parse::Identity, workloads::SERVICE_NAME};
use crate::spec::{
    Change, Key, Kind, Manifest, Object,
    istio::{Labels, ServiceEntry, VirtualService},
    kubernetes::TargetRef,
};

/// Objects beyond which a change counts as one of everything.
const MOST: usize = 2_000;

/// The names of one object, as hashes.
#[derive(Debug, Default)]
struct Names {
    /// Whoever has one of them too is reached.
    shared: Vec<u64>,
    /// A selector: reaches what carries the label.
    asks: Vec<u64>,
    /// Labels: reach who selects by them.
    offers: Vec<u64>,
    /// Speaks for more than can be told by names: read with every change, and its own change is one of everything.
    wide: bool,
}

#[derive(Debug)]
struct Node {
    manifest: Manifest,
    names: Names,
}

/// All objects by their names.
#[derive(Debug, Default)]
pub(super) struct Links {
    nodes: HashMap<Key, Node>,
    shared: HashMap<u64, Vec<Key>>,
    asking: HashMap<u64, Vec<Key>>,
    offering: HashMap<u64, Vec<Key>>,
    wide: BTreeSet<Key>,
}

/// What a change reaches.
#[derive(Debug)]
pub(super) struct Reach {
    /// The objects reached and the wide ones, by their order.
    pub manifests: BTreeMap<Key, Manifest>,
    /// Objects that are reached, or were before they went away.
    pub keys: BTreeSet<Key>,
    names: HashSet<u64>,
}

impl Reach {
    pub fn has_host(&self, host: &str) -> bool {
        self.names.contains(&hash(("host", host)))
    }

    pub fn has_gateway_port(&self, namespace: &str, name: &str, port: u16) -> bool {
        self.names.contains(&gateway_port(namespace, name, u32::from(port)))
    }

    /// A Service or ServiceEntry.
    pub fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.names.contains(&hash(("service", namespace, name)))
    }
}

fn hash(name: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

fn gateway_port(namespace: &str, name: &str, port: u32) -> u64 {
    hash(("gateway", namespace, name, port))
}

fn label(namespace: &str, pair: (&String, &String)) -> u64 {
    hash(("label", namespace, pair.0, pair.1))
}

impl Links {
    pub fn new<'m>(manifests: impl Iterator<Item = (&'m Key, &'m Manifest)>, identity: &Identity) -> Links {
        let mut links = Links::default();
        manifests.for_each(|(key, manifest)| links.add(key, manifest, identity));
        links
    }

    fn add(&mut self, key: &Key, manifest: &Manifest, identity: &Identity) {
        let names = names(key, manifest, identity);
        if names.wide {
            self.wide.insert(key.clone());
        } else {
            for (index, list) in self.indexes().into_iter().zip([&names.shared, &names.asks, &names.offers]) {
                list.iter().for_each(|name| index.entry(*name).or_default().push(key.clone()));
            }
        }
        self.nodes.insert(key.clone(), Node { manifest: manifest.clone(), names });
    }

    fn remove(&mut self, key: &Key) {
        let Some(Node { names, .. }) = self.nodes.remove(key) else { return };
        self.wide.remove(key);
        for (index, list) in self.indexes().into_iter().zip([&names.shared, &names.asks, &names.offers]) {
            for name in list {
                if let Some(keys) = index.get_mut(name) {
                    keys.retain(|known| known != key);
                    if keys.is_empty() {
                        index.remove(name);
                    }
                }
            }
        }
    }

    fn indexes(&mut self) -> [&mut HashMap<u64, Vec<Key>>; 3] {
        [&mut self.shared, &mut self.asking, &mut self.offering]
    }

    /// Whether some rule tells clients apart.
    fn has_clients(&self) -> bool {
        let wide = self.wide.iter().filter_map(|key| self.nodes.get(key));
        wide.into_iter().any(|node| match &node.manifest {
            Manifest::VirtualService(object) => !asked_by(&object.spec).is_empty(),
            _ => false,
        })
    }

    /// Takes changes in. `None`: they reach further than can be told.
    pub fn follow(&mut self, changes: &[Change], identity: &Identity) -> Option<Reach> {
        // Who is a client is everybody's business where clients are told apart.
        let is_client = |change: &Change| matches!(change.key.kind, Kind::Pod | Kind::WorkloadEntry);
        if changes.iter().any(is_client) && self.has_clients() {
            return None;
        }
        let changed: Vec<Key> = changes.iter().map(|change| change.key.clone()).collect();
        let mut reach = Reach { manifests: BTreeMap::new(), keys: BTreeSet::new(), names: HashSet::new() };
        let before = self.spread(&changed, &mut reach);
        for change in changes {
            self.remove(&change.key);
            if let Some(manifest) = &change.now {
                self.add(&change.key, manifest, identity);
            }
        }
        // What the former names reached may have names of its own only now, and the other way round.
        let reached: Vec<Key> = reach.keys.iter().cloned().collect();
        let after = self.spread(&reached, &mut reach);
        if !before || !after || self.wide.len() > MOST || self.wide_meets(&reach) {
            return None;
        }
        let known = reach.keys.iter().chain(&self.wide).filter_map(|key| Some((key, self.nodes.get(key)?)));
        reach.manifests = known.map(|(key, node)| (key.clone(), node.manifest.clone())).collect();
        Some(reach)
    }

    /// Whether a wide object has a name that is reached.
    fn wide_meets(&self, reach: &Reach) -> bool {
        let nodes = self.wide.iter().filter_map(|key| self.nodes.get(key));
        nodes.flat_map(|node| &node.names.shared).any(|name| reach.names.contains(name))
    }

    /// Adds all that is reached from `start`. False: that is too much, or a wide object is in it.
    fn spread(&self, start: &[Key], reach: &mut Reach) -> bool {
        let mut open: Vec<Key> = start.to_vec();
        reach.keys.extend(start.iter().cloned());
        while let Some(key) = open.pop() {
            let Some(node) = self.nodes.get(&key) else { continue };
            if node.names.wide || reach.keys.len() > MOST {
                return false;
            }
            let mut next: Vec<&Key> = Vec::new();
            for name in &node.names.shared {
                reach.names.insert(*name);
                next.extend(self.shared.get(name).into_iter().flatten());
            }
            next.extend(node.names.asks.iter().filter_map(|name| self.offering.get(name)).flatten());
            next.extend(node.names.offers.iter().filter_map(|name| self.asking.get(name)).flatten());
            for key in next {
                if reach.keys.insert(key.clone()) {
                    open.push(key.clone());
                }
            }
        }
        true
    }
}

fn names(key: &Key, manifest: &Manifest, identity: &Identity) -> Names {
    let namespace = &*key.name.namespace;
    let mut names = Names::default();
    match manifest {
        Manifest::VirtualService(object) => virtual_service(object, identity, &mut names),
        Manifest::DestinationRule(object) => {
            let full = host::expand(&object.spec.host, namespace, &identity.cluster_domain);
            names.wide = full.contains('*');
            names.shared.push(hash(("host", full.as_str())));
        }
        Manifest::ServiceEntry(object) => service_entry(object, &mut names),
        Manifest::Service(object) => {
            let full = host::expand(&key.name.name, namespace, &identity.cluster_domain);
            names.shared.extend([hash(("host", full.as_str())), hash(("service", namespace, &*key.name.name))]);
            // One pair of the selector is enough: what is selected carries all of them.
            names.asks.extend(object.spec.selector.iter().next().map(|pair| label(namespace, pair)));
        }
        Manifest::Endpoints(object) => {
            names.shared.push(hash(("service", namespace, &*key.name.name)));
            for address in object.spec.subsets.iter().flat_map(|subset| &subset.addresses) {
                endpoint(namespace, address.target_ref.as_ref(), &address.ip, &mut names);
            }
        }
        Manifest::EndpointSlice(object) => {
            let service = object.labels.get(SERVICE_NAME).map(|service| hash(("service", namespace, service.as_str())));
            names.shared.extend(service);
            for one in &object.spec.endpoints {
                one.addresses.iter().for_each(|ip| endpoint(namespace, one.target_ref.as_ref(), ip, &mut names));
            }
        }
        Manifest::Pod(object) => {
            names.shared.push(hash(("pod", namespace, &*key.name.name)));
            let status = &object.spec.status;
            let ips = status.pod_ips.iter().map(|ip| &ip.ip).chain(&status.pod_ip);
            names.shared.extend(ips.map(|ip| hash(("ip", ip.as_str()))));
            labels(namespace, &object.labels, &mut names);
        }
        Manifest::WorkloadEntry(object) => {
            names.shared.push(hash(("ip", object.spec.address.as_str())));
            labels(namespace, &object.spec.labels, &mut names);
        }
        Manifest::Gateway(_) | Manifest::WorkloadGroup(_) | Manifest::Namespace(_) | Manifest::Secret(_) => {
            names.wide = true;
        }
    }
    names
}

fn labels(namespace: &str, labels: &Labels, names: &mut Names) {
    names.offers.extend(labels.iter().map(|pair| label(namespace, pair)));
}

/// An endpoint takes its labels from a Pod of its name, or from whoever has its address.
fn endpoint(namespace: &str, target: Option<&TargetRef>, ip: &str, names: &mut Names) {
    names.shared.push(hash(("ip", ip)));
    if let Some((target, name)) = target.and_then(|target| Some((target, target.name.as_deref()?))) {
        names.shared.push(hash(("pod", target.namespace.as_deref().unwrap_or(namespace), name)));
    }
}

fn service_entry(object: &Object<ServiceEntry>, names: &mut Names) {
    for host in &object.spec.hosts {
        let full = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        names.wide |= full.contains('*');
        names.shared.push(hash(("host", full.as_str())));
    }
    names.shared.push(hash(("service", object.namespace(), &*object.name().name)));
    let selector = object.spec.workload_selector.as_ref();
    names.asks.extend(selector.and_then(|one| one.labels.iter().next()).map(|pair| label(object.namespace(), pair)));
}

fn virtual_service(object: &Object<VirtualService>, identity: &Identity, names: &mut Names) {
    let (spec, namespace) = (&object.spec, object.namespace());
    names.wide = !spec.http.is_empty() || !spec.tls.is_empty() || !asked_by(spec).is_empty();
    // At a gateway hosts only say which servers are meant, and all that share a port are reached anyhow.
    for host in spec.hosts.iter().filter(|_| binding::for_mesh(spec)) {
        let full = host::expand(host, namespace, &identity.cluster_domain);
        names.wide |= full.contains('*');
        names.shared.push(hash(("host", full.as_str())));
    }
    let weighted = spec.tcp.iter().flat_map(|route| &route.route).chain(spec.tls.iter().flat_map(|route| &route.route));
    for destination in weighted.filter_map(|one| one.destination.as_ref()) {
        let full = host::expand(&destination.host, namespace, &identity.cluster_domain);
        names.shared.push(hash(("host", full.as_str())));
    }
    for route in &spec.tcp {
        let items: Vec<(&[String], Option<u32>)> = match route.r#match.as_slice() {
            [] => vec![(&[], None)],
            items => items
                .iter()
                .map(|item| item.as_ref().map_or((&[][..], None), |item| (&item.gateways[..], item.port)))
                .collect(),
        };
        for (gateways, port) in items {
            let gateways = if gateways.is_empty() { &spec.gateways[..] } else { gateways };
            for gateway in gateways.iter().filter_map(|text| binding::gateway_name(text, namespace)) {
                match port {
                    Some(port) if port != 0 => names.shared.push(gateway_port(&gateway.namespace, &gateway.name, port)),
                    _ => names.wide = true,
                }
            }
        }
    }
}
