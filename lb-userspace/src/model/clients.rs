//! Which client is of which class: Pods and WorkloadEntries by their addresses, told apart by what some mesh rule asks of its
//! clients and by nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    binding,
    parse::Context,
    route::VirtualService,
    workloads::{has_ended, pod_addresses},
};
use crate::{
    finding::{Finding, Severity, code},
    snapshot::{Client, ClientClass, ClientMatch, Clients},
    spec::{
        Specs,
        istio::{self, Labels},
    },
};

/// The kernel has 255 numbers for classes, and those of two former revisions rest.
const MOST_CLASSES: usize = 80;

/// What a match asks of its client; `None`: nothing.
pub(super) fn asked(labels: &Labels, namespace: Option<&str>) -> Option<ClientMatch> {
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let labels = labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    let asked = ClientMatch { labels, namespace: namespace.map(Into::into) };
    (asked != ClientMatch::default()).then_some(asked)
}

/// What the matches of a VirtualService ask of clients in the mesh, with the paths of the matches.
pub(super) fn asked_by(spec: &istio::VirtualService) -> Vec<(String, ClientMatch)> {
    let mut found = Vec::new();
    if !binding::for_mesh(spec) {
        return found;
    }
    for (at, route) in spec.tcp.iter().enumerate() {
        for (item, one) in route.r#match.iter().enumerate() {
            let asked = one.as_ref().and_then(|one| asked(&one.source_labels, one.source_namespace.as_deref()));
            found.extend(asked.map(|asked| (format!("spec.tcp[{at}].match[{item}]"), asked)));
        }
    }
    for (at, route) in spec.http.iter().enumerate() {
        for (item, one) in route.r#match.iter().enumerate().filter(|(_, one)| one.gateways.is_empty()) {
            let asked = asked(&one.source_labels, one.source_namespace.as_deref());
            found.extend(asked.map(|asked| (format!("spec.http[{at}].match[{item}]"), asked)));
        }
    }
    found
}

/// Single facts that rules ask for: a match is the conjunction of some, also one that a delegate and its root make together.
#[derive(Default)]
struct Facts {
    labels: BTreeSet<(Arc<str>, Arc<str>)>,
    namespaces: BTreeSet<Arc<str>>,
}

impl Facts {
    fn of<'s>(services: impl Iterator<Item = &'s VirtualService>) -> Facts {
        let mut facts = Facts::default();
        for (_, asked) in services.flat_map(|service| asked_by(&service.spec)) {
            facts.labels.extend(asked.labels);
            facts.namespaces.extend(asked.namespace);
        }
        facts
    }

    fn are_none(&self) -> bool {
        self.labels.is_empty() && self.namespaces.is_empty()
    }

    /// What of a workload they are about.
    fn class(&self, namespace: &str, labels: &Labels) -> ClientClass {
        let asked = |(key, value): (&String, &String)| {
            let pair = (Arc::from(key.as_str()), Arc::from(value.as_str()));
            self.labels.contains(&pair).then_some(pair)
        };
        ClientClass {
            labels: labels.iter().filter_map(asked).collect(),
            namespace: self.namespaces.get(namespace).cloned(),
        }
    }
}

/// Every client that some rule can tell from others. An address that workloads of two classes have is nobody's.
pub(super) fn clients(specs: &Specs) -> Clients {
    let facts = Facts::of(specs.virtual_services.iter());
    if facts.are_none() {
        return Clients::default();
    }
    let mut found: BTreeMap<IpAddr, Option<(ClientClass, Arc<str>)>> = BTreeMap::new();
    let mut add = |address: IpAddr, class: &ClientClass, workload: &Arc<str>| {
        let new = || Some((class.clone(), workload.clone()));
        let known = found.entry(address).or_insert_with(new);
        if known.as_ref().is_some_and(|(other, _)| other != class) {
            *known = None;
        }
    };
    for pod in specs.pods.iter().filter(|pod| !pod.spec.spec.host_network && !has_ended(&pod.spec)) {
        let class = facts.class(pod.namespace(), &pod.labels);
        let workload = pod.key.to_string().into();
        pod_addresses(&pod.spec).into_iter().for_each(|address| add(address, &class, &workload));
    }
    for entry in &specs.workload_entries {
        let class = facts.class(entry.namespace(), &entry.spec.labels);
        let workload = entry.key.to_string().into();
        entry.spec.address.parse().ok().into_iter().for_each(|address| add(address, &class, &workload));
    }
    let found: Vec<(IpAddr, ClientClass, Arc<str>)> = found
        .into_iter()
        .filter_map(|(address, known)| known.map(|(class, workload)| (address, class, workload)))
        .filter(|(_, class, _)| !class.is_empty())
        .collect();
    let classes: BTreeSet<&ClientClass> = found.iter().map(|(_, class, _)| class).collect();
    let classes: Vec<Arc<ClientClass>> =
        classes.into_iter().take(MOST_CLASSES).map(|class| Arc::new(class.clone())).collect();
    let member = |(address, class, workload): (IpAddr, ClientClass, Arc<str>)| {
        let at = classes.binary_search_by(|known| (**known).cmp(&class)).ok()?;
        Some(Client { address, class: at as u16, workload })
    };
    Clients { members: found.into_iter().filter_map(member).collect(), classes }
}

/// Tells of matches that fit no client that is known here.
pub(super) fn unmet(context: &Context<'_>, findings: &mut Vec<Finding>) {
    for service in &context.virtual_services {
        // What an http match asks may be meant for a gateway, which is its own client.
        let at_gateways = !binding::gateways(service).is_empty();
        for (path, asked) in asked_by(&service.spec) {
            if at_gateways && path.starts_with("spec.http") {
                continue;
            }
            if context.clients.classes.iter().any(|class| asked.fits(Some(class))) {
                continue;
            }
            let message = match context.clients.classes.len() {
                MOST_CLASSES => format!("no client with {asked} is told apart: there are too many kinds of clients"),
                _ => format!("no Pod or WorkloadEntry that is known here has {asked}: the match fits no client"),
            };
            let remedy = "Clients are known by the addresses of Pods and WorkloadEntries: give those to the agent too.";
            findings.push(service.finding(Severity::Warning, code::NO_CLIENT, path, message, remedy));
        }
    }
}
