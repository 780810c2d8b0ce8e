//! Which VirtualServices may speak for a gateway or for a service of the mesh: looked up by name, because ten thousand of
//! each must not be compared one by one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{host, parse::Identity, route::VirtualService};
use crate::spec::{ObjectName, istio};

/// The name that stands for every sidecar in `gateways`.
pub const MESH: &str = "mesh";

/// The VirtualServices that are exported to this agent, each list in the order in which they are asked.
pub struct Bindings<'s> {
    services: Vec<&'s VirtualService>,
    by_gateway: HashMap<ObjectName, Vec<usize>>,
    by_mesh_host: HashMap<String, Vec<usize>>,
}

impl<'s> Bindings<'s> {
    /// `services` in the order in which they are asked: oldest first.
    pub fn new(services: &[&'s VirtualService], identity: &Identity) -> Bindings<'s> {
        let visible = |service: &&VirtualService| {
            host::exported(&service.spec.export_to, service.namespace(), &identity.namespace)
        };
        let services: Vec<_> = services.iter().copied().filter(visible).collect();
        let mut by_gateway: HashMap<_, Vec<usize>> = HashMap::new();
        let mut by_mesh_host: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, service) in services.iter().enumerate() {
            for gateway in gateways(service) {
                by_gateway.entry(gateway).or_default().push(index);
            }
            if !for_mesh(&service.spec) {
                continue;
            }
            let full = |host: &String| host::expand(host, service.namespace(), &identity.cluster_domain);
            for host in service.spec.hosts.iter().map(full).collect::<BTreeSet<_>>() {
                by_mesh_host.entry(host).or_default().push(index);
            }
        }
        Bindings { services, by_gateway, by_mesh_host }
    }

    /// The VirtualServices that list a gateway, whatever their hosts.
    pub fn to_gateway(&self, gateway: &ObjectName) -> Vec<&'s VirtualService> {
        let found = self.by_gateway.get(gateway).map_or(&[][..], Vec::as_slice);
        found.iter().map(|index| self.services[*index]).collect()
    }

    /// The VirtualServices for the mesh with a host that covers this one.
    pub fn to_mesh_host(&self, host: &str) -> Vec<&'s VirtualService> {
        let names = std::iter::once(host.to_owned()).chain(host::wildcards(host));
        let found = names.filter_map(|name| self.by_mesh_host.get(&name)).flatten();
        let found: BTreeSet<usize> = found.copied().collect();
        found.into_iter().map(|index| self.services[index]).collect()
    }
}

/// The `gateways` of every match of every route.
fn match_gateways(spec: &istio::VirtualService) -> impl Iterator<Item = &Vec<String>> {
    let tcp = spec.tcp.iter().flat_map(|route| route.r#match.iter().flatten()).map(|item| &item.gateways);
    let tls = spec.tls.iter().flat_map(|route| &route.r#match).map(|item| &item.gateways);
    let http = spec.http.iter().flat_map(|route| &route.r#match).map(|item| &item.gateways);
    tcp.chain(tls).chain(http)
}

/// The gateways that a VirtualService, or a match of one of its routes, lists.
pub(super) fn gateways(service: &VirtualService) -> BTreeSet<ObjectName> {
    let listed = match_gateways(&service.spec).flatten().chain(&service.spec.gateways);
    listed.filter_map(|reference| gateway_name(reference, service.namespace())).collect()
}

/// What `name`, `./name` or `namespace/name`, written in `namespace`, means; `None` for the mesh.
pub fn gateway_name(reference: &str, namespace: &str) -> Option<ObjectName> {
    let (namespace, name) = match reference.split_once('/') {
        _ if reference == MESH => return None,
        None => (namespace, reference),
        Some((".", name)) => (namespace, name),
        Some(full) => full,
    };
    Some(ObjectName { namespace: Arc::from(namespace), name: Arc::from(name) })
}

pub fn lists_mesh(gateways: &[String]) -> bool {
    gateways.iter().any(|gateway| gateway == MESH)
}

/// Whether routes that say nothing else are for the mesh.
pub fn for_mesh_by_default(spec: &istio::VirtualService) -> bool {
    spec.gateways.is_empty() || lists_mesh(&spec.gateways)
}

/// Whether a VirtualService, or some match of its routes, is for the mesh.
pub fn for_mesh(spec: &istio::VirtualService) -> bool {
    for_mesh_by_default(spec) || match_gateways(spec).any(|gateways| lists_mesh(gateways))
}
