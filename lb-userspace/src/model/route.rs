//! One `tcp` route to a [`Rule`]: its destinations resolved, its weights as written, its clusters filled.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU16,
    sync::Arc,
};

use super::{
    Action, BrokenReason, Cluster, ClusterName, Destination, Endpoint, HashKey, Origin, Rule, Target, binding, host,
    parse::{Context, Proxy},
    policy::{Policy, ProxyNeed},
    proxied,
    registry::{Port, PortProtocol, Service},
    workloads::{Instance, Workloads, matches},
};
use crate::{
    finding::{Finding, Severity, code},
    snapshot,
    spec::{Object, ObjectName, istio},
};

pub(super) type VirtualService = Arc<Object<istio::VirtualService>>;

/// The clusters that destinations name, filled as they are named.
pub(super) struct Clusters<'s> {
    workloads: &'s Workloads<'s>,
    clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    upstreams: BTreeMap<ClusterName, Arc<snapshot::Cluster>>,
    instances: HashMap<(Arc<str>, u16), Arc<[Instance]>>,
}

impl<'s> Clusters<'s> {
    pub fn new(workloads: &'s Workloads<'s>) -> Clusters<'s> {
        Clusters { workloads, clusters: BTreeMap::new(), upstreams: BTreeMap::new(), instances: HashMap::new() }
    }

    /// All clusters, and those that the proxy uses.
    pub fn into_maps(self) -> (BTreeMap<ClusterName, Arc<Cluster>>, BTreeMap<ClusterName, Arc<snapshot::Cluster>>) {
        (self.clusters, self.upstreams)
    }

    pub fn has_upstream(&self, name: &ClusterName) -> bool {
        self.upstreams.contains_key(name)
    }

    pub fn add_upstream(&mut self, cluster: snapshot::Cluster) {
        self.upstreams.insert(cluster.name.clone(), Arc::new(cluster));
    }

    pub fn names(&self) -> impl Iterator<Item = (&ClusterName, &Arc<Cluster>)> {
        self.clusters.iter()
    }

    /// Every endpoint of a service port, whatever its subset.
    pub fn instances(&mut self, service: &Service, port: &Port) -> Arc<[Instance]> {
        let key = (service.host.clone(), port.number);
        self.instances.entry(key).or_insert_with(|| self.workloads.instances(service, port).into()).clone()
    }

    fn add(
        &mut self,
        name: &ClusterName,
        service: &Service,
        port: &Port,
        labels: Option<&istio::Labels>,
        origin: Origin,
    ) {
        if self.clusters.contains_key(name) {
            return;
        }
        let instances = self.instances(service, port);
        let fits = |instance: &&Instance| labels.is_none_or(|labels| matches(labels, &instance.labels));
        let endpoint = |instance: &Instance| {
            let port = NonZeroU16::new(instance.port)?;
            Some(Endpoint { address: instance.address, port, weight: instance.weight })
        };
        let endpoints = instances.iter().filter(fits).filter_map(endpoint).collect();
        self.clusters.insert(name.clone(), Arc::new(Cluster { endpoints, origin }));
    }
}

/// A destination with what its policy asks.
pub(super) struct Resolved {
    pub destination: Destination,
    source_ip: bool,
    needs_proxy: Option<ProxyNeed>,
}

/// What a destination names, and why that is broken where it is.
pub(super) struct Found<'r, 's> {
    pub service: &'r Service,
    pub policy: Option<Policy<'s>>,
}

impl<'s> Context<'s> {
    pub fn find(&self, host: &str) -> Option<Found<'s, 's>> {
        let service = self.registry.get(host)?;
        let policy = self.policies.choose(host, service.namespace());
        Some(Found { service, policy })
    }

    pub fn full_host(&self, host: &str, namespace: &str) -> String {
        host::expand(host, namespace, &self.identity.cluster_domain)
    }
}

/// What a listener does that takes route `index` of a VirtualService.
pub(super) fn action<'s>(
    context: &Context<'s>,
    clusters: &mut Clusters<'s>,
    findings: &mut Vec<Finding>,
    (service, index, match_index): (&VirtualService, usize, Option<usize>),
    listener_port: u16,
    gateway: &str,
) -> Action {
    let route = &service.spec.tcp[index].route;
    let mut resolved = Vec::with_capacity(route.len());
    for (at, entry) in route.iter().enumerate() {
        let Some(destination) = &entry.destination else {
            continue;
        };
        let path = format!("spec.tcp[{index}].route[{at}]");
        let weight = if route.len() == 1 { 1 } else { u32::try_from(entry.weight.unwrap_or(0)).unwrap_or(0) };
        let one = resolve(context, clusters, findings, (service, &path), destination, weight, listener_port);
        if let (Some(need), Proxy::Off) = (one.needs_proxy, context.identity.proxy) {
            findings.push(needs_proxy(service, &path, &one.destination.host, need));
        }
        resolved.push(one);
    }
    let needs_proxy = resolved.iter().any(|one| one.needs_proxy.is_some());
    let hash = if resolved.iter().any(|one| one.source_ip) { HashKey::SourceIp } else { HashKey::Flow };
    let rule = Rule {
        virtual_service: Some(service.name().clone()),
        index,
        match_index,
        origin: service.origin(&format!("spec.tcp[{index}]")),
        hash,
        destinations: resolved.into_iter().map(|one| one.destination).collect(),
    };
    if needs_proxy {
        return proxied_rule(context, clusters, &rule, gateway);
    }
    Action::Tcp(rule)
}

/// A rule that only a proxy can carry out.
fn proxied_rule<'s>(context: &Context<'s>, clusters: &mut Clusters<'s>, rule: &Rule, gateway: &str) -> Action {
    rule.destinations.iter().for_each(|one| proxied::upstream(context, clusters, one));
    Action::Proxy(vec![proxied::tcp_chain(context, rule, gateway)])
}

/// The action of a Service port that no VirtualService routes: all its endpoints.
pub(super) fn plain_action<'s>(
    context: &Context<'s>,
    clusters: &mut Clusters<'s>,
    service: &Service,
    port: &Port,
    origin: Origin,
) -> Action {
    let destination = plain_destination(clusters, service, port);
    let policy = context.policies.choose(&service.host, service.namespace());
    let effect = policy.map(|policy| policy.effect(None, port.number)).unwrap_or_default();
    let rule = Rule {
        virtual_service: None,
        index: 0,
        match_index: None,
        origin,
        hash: if effect.source_ip { HashKey::SourceIp } else { HashKey::Flow },
        destinations: vec![destination],
    };
    if effect.needs_proxy.is_some() {
        return proxied_rule(context, clusters, &rule, binding::MESH);
    }
    Action::Tcp(rule)
}

/// All endpoints of a Service port.
pub(super) fn plain_destination(clusters: &mut Clusters<'_>, service: &Service, port: &Port) -> Destination {
    let name = ClusterName { host: service.host.clone(), subset: None, port: port.number };
    clusters.add(&name, service, port, None, service.origin(""));
    let at = service.ports.iter().position(|other| other.number == port.number && other.name == port.name);
    Destination {
        host: service.host.clone(),
        subset: None,
        port: port.number,
        weight: 1,
        target: Target::Cluster(name),
        origin: service.origin(&format!("spec.ports[{}]", at.unwrap_or(0))),
    }
}

fn needs_proxy(service: &VirtualService, path: &str, host: &str, need: ProxyNeed) -> Finding {
    let message = format!(
        "{} of {host} needs the proxy, which is off (`run --proxy off`): the listener is not served",
        need.field()
    );
    service.finding(
        Severity::Warning,
        code::UNSUPPORTED,
        path,
        message,
        "Remove the setting from the DestinationRule, or route elsewhere.",
    )
}

pub(super) fn resolve(
    context: &Context<'_>,
    clusters: &mut Clusters<'_>,
    findings: &mut Vec<Finding>,
    (service, path): (&VirtualService, &str),
    written: &istio::Destination,
    weight: u32,
    listener_port: u16,
) -> Resolved {
    let host = context.full_host(&written.host, service.namespace());
    let subset = written.subset.as_deref().filter(|subset| !subset.is_empty());
    let number = written.port.and_then(|port| u16::try_from(port.number).ok());
    let mut destination = Destination {
        host: host.as_str().into(),
        subset: subset.map(Into::into),
        port: number.unwrap_or(0),
        weight,
        target: Target::Broken(BrokenReason::HostNotFound),
        origin: service.origin(path),
    };
    let broken = |destination: Destination| Resolved { destination, source_ip: false, needs_proxy: None };
    let Some(found) = context.find(&host) else {
        return broken(destination);
    };
    let port = match choose_port(found.service, number, listener_port) {
        Ok(port) => port,
        Err(reason) => {
            if reason == BrokenReason::PortAmbiguous {
                findings.push(ambiguous(service, path, found.service, listener_port));
            }
            destination.target = Target::Broken(reason);
            return broken(destination);
        }
    };
    destination.port = port.number;
    let effect = found.policy.as_ref().map(|policy| policy.effect(subset, port.number)).unwrap_or_default();
    let (labels, origin) = match subset {
        None => (None, found.service.origin("")),
        Some(name) => match found.policy.as_ref().and_then(|policy| policy.subset(name)) {
            Some((rule, at, subset)) => (Some(&subset.labels), rule.origin(&format!("spec.subsets[{at}]"))),
            None => {
                destination.target = Target::Broken(BrokenReason::SubsetNotFound);
                return broken(destination);
            }
        },
    };
    let name = ClusterName { host: destination.host.clone(), subset: destination.subset.clone(), port: port.number };
    clusters.add(&name, found.service, port, labels, origin);
    destination.target = Target::Cluster(name);
    Resolved { destination, source_ip: effect.source_ip, needs_proxy: effect.needs_proxy }
}

/// The port a destination means: the one it names; else the service's only one; else the listener's.
fn choose_port(service: &Service, number: Option<u16>, listener_port: u16) -> Result<&Port, BrokenReason> {
    if let Some(number) = number {
        return service.port(number).ok_or(BrokenReason::PortNotFound);
    }
    match service.ports.as_slice() {
        [only] if only.protocol != PortProtocol::Udp => Ok(only),
        [] | [_] => Err(BrokenReason::PortNotFound),
        _ => service.port(listener_port).ok_or(BrokenReason::PortAmbiguous),
    }
}

fn ambiguous(service: &VirtualService, path: &str, target: &Service, listener_port: u16) -> Finding {
    let message = format!(
        "{} has several ports and none is named; the listener's port {listener_port} is not among them, so this destination's share is refused",
        target.host
    );
    let remedy = format!("Add `port: {{number: ...}}` with one of {}.", port_list(target));
    service.finding(Severity::Error, code::PORT_REQUIRED, format!("{path}.destination"), message, remedy)
}

/// A service's ports, for people.
pub(super) fn port_list(service: &Service) -> String {
    let ports: Vec<String> = service.ports.iter().map(|port| port.number.to_string()).collect();
    ports.join(", ")
}

/// A tcp route that no connection reaches, because another one takes them all.
pub(super) fn unreached(service: &VirtualService, index: usize, (by, at): (&VirtualService, usize)) -> Finding {
    let winner = format!("spec.tcp[{at}]");
    let place = by.origin(&winner);
    let winner = match by.name() == service.name() {
        true => format!("{winner} (line {})", place.line),
        false => format!("{winner} of VirtualService {} ({}:{})", by.name(), place.file, place.line),
    };
    let message = format!("no connection reaches this route: {winner} takes them all");
    let remedy = "For TCP the first route that fits a listener is the only one; remove or move this one.";
    service.finding(Severity::Warning, code::UNREACHABLE_RULE, format!("spec.tcp[{index}]"), message, remedy)
}

/// Which routes of which VirtualServices some listener uses.
#[derive(Default)]
pub(super) struct Usage {
    taken: BTreeSet<(ObjectName, usize)>,
    /// Routes that fitted a listener, and the route the listener took instead.
    shadowed: BTreeMap<(ObjectName, usize), (ObjectName, usize)>,
}

impl Usage {
    pub fn take(&mut self, service: &VirtualService, index: usize) {
        self.taken.insert((service.name().clone(), index));
    }

    pub fn shadow(&mut self, service: &VirtualService, index: usize, by: (&VirtualService, usize)) {
        let by = (by.0.name().clone(), by.1);
        self.shadowed.entry((service.name().clone(), index)).or_insert(by);
    }

    /// Routes that no connection reaches.
    pub fn report(&self, context: &Context<'_>, findings: &mut Vec<Finding>) {
        for service in &context.virtual_services {
            for index in 0..service.spec.tcp.len() {
                let key = (service.name().clone(), index);
                let Some((by, at)) = self.shadowed.get(&key).filter(|_| !self.taken.contains(&key)) else {
                    continue;
                };
                let Some(by) = context.virtual_services.iter().find(|other| other.name() == by) else { continue };
                findings.push(unreached(service, index, (by, *at)));
            }
        }
    }
}
