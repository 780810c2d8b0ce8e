//! Where the endpoints of a service are: slices, Endpoints, Pods and WorkloadEntries, joined with their labels.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::registry::{Definition, Port, Service};
use crate::spec::{
    Object, Specs,
    istio::{Labels, Resolution, ServiceEntry, WorkloadEntry},
    kubernetes::{self, EndpointPort, EndpointSlice, Endpoints, Pod, TargetPort, TargetRef},
};

/// The label by which an EndpointSlice names its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A ready endpoint of one service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u32,
    /// Of the Pod or WorkloadEntry; empty where neither is known.
    pub labels: Arc<Labels>,
    /// `region/zone/subzone`, as far as it is known.
    pub locality: Arc<str>,
    pub account: Option<Account>,
}

/// The Kubernetes service account of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A Pod or WorkloadEntry, as selectors and look-ups see it.
struct Workload<'s> {
    addresses: Vec<IpAddr>,
    labels: Arc<Labels>,
    locality: Arc<str>,
    account: Option<Account>,
    body: Body<'s>,
}

enum Body<'s> {
    Pod(&'s Object<Pod>),
    Entry(&'s WorkloadEntry),
}

type Owner<'s> = (&'s str, &'s str);

/// Index over everything that can be an endpoint.
pub struct Workloads<'s> {
    all: Vec<Workload<'s>>,
    pods: HashMap<Owner<'s>, usize>,
    by_address: HashMap<IpAddr, usize>,
    by_label: HashMap<(&'s str, &'s str, &'s str), Vec<usize>>,
    by_namespace: HashMap<&'s str, Vec<usize>>,
    slices: HashMap<Owner<'s>, Vec<&'s Object<EndpointSlice>>>,
    endpoints: HashMap<Owner<'s>, &'s Object<Endpoints>>,
}

impl<'s> Workloads<'s> {
    pub fn new(specs: &'s Specs) -> Workloads<'s> {
        let mut index = Workloads {
            all: Vec::new(),
            pods: HashMap::new(),
            by_address: HashMap::new(),
            by_label: HashMap::new(),
            by_namespace: HashMap::new(),
            slices: HashMap::new(),
            endpoints: HashMap::new(),
        };
        for pod in &specs.pods {
            index.pods.insert((pod.namespace(), &pod.name().name), index.all.len());
            index.add(pod.namespace(), &pod.labels, pod_addresses(&pod.spec), Body::Pod(pod));
        }
        for entry in &specs.workload_entries {
            let address = entry.spec.address.parse().ok().into_iter().collect();
            index.add(entry.namespace(), &entry.spec.labels, address, Body::Entry(&entry.spec));
        }
        for slice in &specs.endpoint_slices {
            if let Some(service) = slice.labels.get(SERVICE_NAME) {
                index.slices.entry((slice.namespace(), service)).or_default().push(slice);
            }
        }
        for endpoints in &specs.endpoints {
            index.endpoints.insert((endpoints.namespace(), &endpoints.name().name), endpoints);
        }
        index
    }

    fn add(&mut self, namespace: &'s str, labels: &'s Labels, addresses: Vec<IpAddr>, body: Body<'s>) {
        let at = self.all.len();
        for address in &addresses {
            self.by_address.entry(*address).or_insert(at);
        }
        for (key, value) in labels {
            self.by_label.entry((namespace, key, value)).or_default().push(at);
        }
        self.by_namespace.entry(namespace).or_default().push(at);
        let (locality, account) = match &body {
            Body::Pod(pod) => (None, pod.spec.spec.service_account_name.as_deref()),
            Body::Entry(entry) => (entry.locality.as_deref(), entry.service_account.as_deref()),
        };
        let account = account.map(|name| Account { namespace: namespace.into(), name: name.into() });
        let locality = locality.map_or_else(|| labelled_locality(labels), Arc::from);
        self.all.push(Workload { addresses, labels: Arc::new(labels.clone()), locality, account, body });
    }

    /// Every ready endpoint of a port, each address and port once, in their order.
    pub fn instances(&self, service: &Service, port: &Port) -> Vec<Instance> {
        let found = match &service.definition {
            Definition::Service(object) => self.service_instances(object, port),
            Definition::Entry(object) => self.entry_instances(object, port),
        };
        let mut unique = BTreeMap::new();
        for instance in found {
            unique.entry((instance.address, instance.port)).or_insert(instance);
        }
        unique.into_values().collect()
    }

    fn service_instances(&self, service: &Object<kubernetes::Service>, port: &Port) -> Vec<Instance> {
        let owner = (service.namespace(), &*service.name().name);
        let selected = self.selected(service.namespace(), &service.spec.selector);
        let mut out = Vec::new();
        if let Some(slices) = self.slices.get(&owner) {
            slices.iter().for_each(|slice| self.slice_instances(slice, port, &mut out));
        } else if let Some(endpoints) = self.endpoints.get(&owner) {
            self.endpoints_instances(endpoints, port, &mut out);
        } else {
            let not_ready_too = service.spec.publish_not_ready_addresses;
            for workload in &selected {
                if let Body::Pod(pod) = &workload.body
                    && (not_ready_too || is_ready(&pod.spec))
                    && let Some(number) = pod_port(&pod.spec, &port.target)
                {
                    out.extend(workload.addresses.iter().map(|address| instance(workload, *address, number, 1)));
                }
            }
        }
        for workload in selected {
            if let Body::Entry(entry) = &workload.body {
                out.extend(entry_instance(workload, entry, port));
            }
        }
        out
    }

    fn slice_instances(&self, slice: &Object<EndpointSlice>, port: &Port, out: &mut Vec<Instance>) {
        let Some(number) = named(&slice.spec.ports, &port.name) else {
            return;
        };
        for endpoint in slice.spec.endpoints.iter().filter(|endpoint| endpoint.conditions.ready != Some(false)) {
            for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                let mut found = self.at(slice.namespace(), endpoint.target_ref.as_ref(), (address, number));
                if let Some(zone) = endpoint.zone.as_deref().filter(|_| found.locality.is_empty()) {
                    found.locality = format!("/{zone}").into();
                }
                out.push(found);
            }
        }
    }

    fn endpoints_instances(&self, endpoints: &Object<Endpoints>, port: &Port, out: &mut Vec<Instance>) {
        for subset in &endpoints.spec.subsets {
            let Some(number) = named(&subset.ports, &port.name) else {
                continue;
            };
            for entry in &subset.addresses {
                let Ok(address) = entry.ip.parse() else {
                    continue;
                };
                out.push(self.at(endpoints.namespace(), entry.target_ref.as_ref(), (address, number)));
            }
        }
    }

    fn entry_instances(&self, service: &Object<ServiceEntry>, port: &Port) -> Vec<Instance> {
        let spec = &service.spec;
        if let Some(selector) = &spec.workload_selector {
            let mut out = Vec::new();
            for workload in self.selected(service.namespace(), &selector.labels) {
                match &workload.body {
                    Body::Entry(entry) => out.extend(entry_instance(workload, entry, port)),
                    Body::Pod(pod) if is_ready(&pod.spec) => {
                        if let Some(number) = pod_port(&pod.spec, &port.target) {
                            out.extend(
                                workload.addresses.iter().map(|address| instance(workload, *address, number, 1)),
                            );
                        }
                    }
                    Body::Pod(_) => {}
                }
            }
            return out;
        }
        if spec.resolution != Resolution::Static {
            return Vec::new();
        }
        let endpoint = |endpoint: &WorkloadEntry| {
            let address = endpoint.address.parse().ok()?;
            let port = entry_port(endpoint, port)?;
            let labels = Arc::new(endpoint.labels.clone());
            let locality = endpoint.locality.as_deref().map_or_else(|| labelled_locality(&labels), Arc::from);
            let account = endpoint.service_account.as_deref();
            let account = account.map(|name| Account { namespace: service.namespace().into(), name: name.into() });
            Some(Instance { address, port, weight: entry_weight(endpoint), labels, locality, account })
        };
        spec.endpoints.iter().filter_map(endpoint).collect()
    }

    /// The workloads of a namespace that carry every label of a selector. An empty selector selects nothing.
    fn selected(&self, namespace: &str, selector: &Labels) -> Vec<&Workload<'s>> {
        let lists = selector.iter().map(|(key, value)| {
            self.by_label.get(&(namespace, key.as_str(), value.as_str())).map_or(&[][..], Vec::as_slice)
        });
        let shortest = lists.min_by_key(|list| list.len()).unwrap_or_default();
        let workloads = shortest.iter().map(|at| &self.all[*at]);
        workloads.filter(|workload| matches(selector, &workload.labels)).collect()
    }

    /// An endpoint at an address, with what the Pod or WorkloadEntry behind it says.
    fn at(&self, namespace: &str, target: Option<&TargetRef>, (address, port): (IpAddr, u16)) -> Instance {
        let pod = target.filter(|target| target.kind.as_deref().is_none_or(|kind| kind == "Pod")).and_then(|target| {
            let namespace = target.namespace.as_deref().unwrap_or(namespace);
            self.pods.get(&(namespace, target.name.as_deref()?))
        });
        match pod.or_else(|| self.by_address.get(&address)) {
            Some(at) => instance(&self.all[*at], address, port, 1),
            None => {
                Instance { address, port, weight: 1, labels: Arc::default(), locality: Arc::default(), account: None }
            }
        }
    }
}

/// Whether `labels` has every pair of `selector`.
pub fn matches(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn instance(workload: &Workload<'_>, address: IpAddr, port: u16, weight: u32) -> Instance {
    let Workload { labels, locality, account, .. } = workload;
    Instance { address, port, weight, labels: labels.clone(), locality: locality.clone(), account: account.clone() }
}

/// `region/zone/subzone` as topology labels say it; empty where they say nothing.
fn labelled_locality(labels: &Labels) -> Arc<str> {
    let part = |key: &str| labels.get(key).map_or("", String::as_str);
    let parts =
        [part("topology.kubernetes.io/region"), part("topology.kubernetes.io/zone"), part("topology.istio.io/subzone")];
    parts.join("/").trim_end_matches('/').into()
}

fn entry_instance(workload: &Workload<'_>, entry: &WorkloadEntry, port: &Port) -> Option<Instance> {
    let address = *workload.addresses.first()?;
    Some(instance(workload, address, entry_port(entry, port)?, entry_weight(entry)))
}

/// `ports[name of the service port]`, else the service's target port.
fn entry_port(entry: &WorkloadEntry, port: &Port) -> Option<u16> {
    let mapped = |name: &str| entry.ports.get(name).and_then(|port| u16::try_from(*port).ok());
    mapped(&port.name).or_else(|| match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => mapped(name).or(Some(port.number)),
    })
}

/// A weight of 0 counts as left out.
fn entry_weight(entry: &WorkloadEntry) -> u32 {
    entry.weight.unwrap_or(1).max(1)
}

/// The number of the port that carries a Service port's name.
fn named(ports: &[EndpointPort], name: &str) -> Option<u16> {
    let tcp = |port: &&EndpointPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    ports
        .iter()
        .filter(tcp)
        .find(|port| port.name.as_deref().unwrap_or_default() == name)?
        .port
        .filter(|port| *port != 0)
}

pub(super) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let listed = pod.status.pod_ips.iter().map(|ip| &ip.ip);
    let mut out: Vec<IpAddr> = listed.chain(&pod.status.pod_ip).filter_map(|ip| ip.parse().ok()).collect();
    out.sort();
    out.dedup();
    out
}

/// A Pod takes traffic when its condition `Ready` is `True` and it has not ended.
fn is_ready(pod: &Pod) -> bool {
    !has_ended(pod)
        && pod.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
}

/// Another Pod may have its address now.
pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn pod_port(pod: &Pod, target: &TargetPort) -> Option<u16> {
    let name = match target {
        TargetPort::Number(number) => return Some(*number),
        TargetPort::Name(name) => name,
    };
    let ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port).find(|port| *port != 0)
}
