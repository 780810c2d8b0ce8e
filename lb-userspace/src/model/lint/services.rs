//! Services and ServiceEntries: names of ports, and ports that cannot be told apart.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use crate::{
    finding::{Finding, Severity, code},
    model::{
        registry::{Definition, PortProtocol},
        workloads::matches,
    },
    spec::{
        self, Object,
        istio::Labels,
        kubernetes::{Service, ServicePort, TargetPort},
    },
};

/// Things by namespace and one of their labels.
type ByLabel<'s, T> = BTreeMap<(&'s str, &'s str, &'s str), Vec<T>>;

/// Those of a namespace that have a label.
fn labelled<'b, 's, T>(
    by_label: &'b ByLabel<'s, T>,
    namespace: &'s str,
    (key, value): (&'s String, &'s String),
) -> &'b [T] {
    by_label.get(&(namespace, key.as_str(), value.as_str())).map_or(&[], Vec::as_slice)
}

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    for service in view.context.registry.all() {
        let Definition::Service(object) = &service.definition else { continue };
        if is_of_istio(object) {
            continue;
        }
        for (at, port) in service.ports.iter().enumerate() {
            let external = object.spec.r#type.as_deref() == Some("ExternalName");
            let path = format!("spec.ports[{at}]");
            if external && (port.protocol == PortProtocol::Unknown || port.name == "tcp") {
                let message = "the port of an ExternalName Service has no name of a protocol: what is not matched may go elsewhere";
                let remedy = "Name it by what it carries, such as `http`, `https` or `tls`.";
                findings.push(object.finding(Severity::Warning, code::EXTERNAL_NAME_PORT, path, message, remedy));
            } else if port.protocol == PortProtocol::Unknown {
                let message = match port.name.as_str() {
                    "" => "nothing says what the port carries: it has no name".to_owned(),
                    name => format!("nothing says what the port carries: `{name}` begins with no protocol"),
                };
                let remedy = "Name it like `tcp-...` or `http-...`, or set `appProtocol`.";
                findings.push(object.finding(Severity::Info, code::PORT_NAME, path, message, remedy));
            }
        }
    }
    addresses(view, findings);
    selectors(view, findings);
    shared_pods(view, findings);
}

/// TCP ports of ServiceEntries without addresses, where admission does not warn: it trusts that Istio allocates one.
fn addresses(view: &View<'_>, findings: &mut Vec<Finding>) {
    for entry in view.context.specs.service_entries.iter().filter(|entry| entry.spec.addresses.is_empty()) {
        let allocated = spec::allocates_address(&entry.spec, &entry.labels);
        for (at, port) in entry.spec.ports.iter().enumerate() {
            let is_tcp = port.protocol.is_empty() || port.protocol.eq_ignore_ascii_case("tcp");
            let is_said = !allocated && matches!(port.protocol.as_str(), "" | "TCP");
            if is_tcp && !is_said {
                let message = "a TCP port of a ServiceEntry without `addresses` is told from others by its number alone, unless Istio allocates one";
                let path = format!("spec.ports[{at}]");
                findings.push(entry.finding(
                    Severity::Warning,
                    code::ADDRESSES_REQUIRED,
                    path,
                    message,
                    "Add `addresses`.",
                ));
            }
        }
    }
}

/// Whether a Service is part of Istio or made by it; its ports are named as they are. So `istioctl` tells them too, which also leaves
/// out the namespaces of the system.
fn is_of_istio(object: &Object<Service>) -> bool {
    const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "istio-system"];
    object.labels.contains_key("istio")
        || object.labels.get("release").is_some_and(|release| release == "istio")
        || object.labels.contains_key("gateway.istio.io/managed")
        || SYSTEM.contains(&object.namespace())
}

/// Selectors of ServiceEntries that find nothing, where there are workloads to find.
fn selectors(view: &View<'_>, findings: &mut Vec<Finding>) {
    let specs = view.context.specs;
    let pods = specs.pods.iter().map(|pod| (pod.namespace(), &pod.labels));
    let entries = specs.workload_entries.iter().map(|entry| (entry.namespace(), &entry.spec.labels));
    let mut namespaces: BTreeSet<&str> = BTreeSet::new();
    let mut by_label: ByLabel<'_, &Labels> = BTreeMap::new();
    for (namespace, labels) in pods.chain(entries) {
        namespaces.insert(namespace);
        for (key, value) in labels {
            by_label.entry((namespace, key.as_str(), value.as_str())).or_default().push(labels);
        }
    }
    for entry in &specs.service_entries {
        let Some(selector) = &entry.spec.workload_selector else { continue };
        let namespace = entry.namespace();
        // Those with its rarest label; one without labels finds every workload.
        let own = selector.labels.iter().map(|label| labelled(&by_label, namespace, label)).min_by_key(|own| own.len());
        let is_found = own.is_none_or(|own| own.iter().any(|labels| matches(&selector.labels, labels)));
        if is_found || !namespaces.contains(namespace) {
            continue;
        }
        let message = format!("no Pod or WorkloadEntry in namespace {} has these labels", entry.namespace());
        let remedy = "Correct the labels; a workloadSelector finds workloads of its own namespace only.";
        let path = "spec.workloadSelector.labels";
        findings.push(entry.finding(Severity::Warning, code::NO_WORKLOADS, path, message, remedy));
    }
}

/// Two Services that pick the same Pod and use one of its ports differently.
fn shared_pods(view: &View<'_>, findings: &mut Vec<Finding>) {
    let specs = view.context.specs;
    // By one label of the selector, which their Pods must have.
    let mut by_label: ByLabel<'_, (usize, &Object<Service>)> = BTreeMap::new();
    for (position, service) in specs.services.iter().enumerate() {
        if let Some((key, value)) = service.spec.selector.iter().next() {
            let key = (service.namespace(), key.as_str(), value.as_str());
            by_label.entry(key).or_default().push((position, service));
        }
    }
    for pod in &specs.pods {
        let known = pod.labels.iter().map(|label| labelled(&by_label, pod.namespace(), label));
        let picks = |(_, service): &&(usize, &Object<Service>)| matches(&service.spec.selector, &pod.labels);
        let mut own: Vec<_> = known.flatten().filter(picks).collect();
        own.sort_by_key(|(position, _)| *position);
        let own: Vec<&Object<Service>> = own.into_iter().map(|(_, service)| *service).collect();
        for (index, later) in own.iter().enumerate() {
            for earlier in &own[..index] {
                findings.extend(differ(view, earlier, later));
            }
        }
    }
}

fn differ(view: &View<'_>, earlier: &Object<Service>, later: &Object<Service>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, port) in later.spec.ports.iter().enumerate() {
        for (other_at, other) in
            earlier.spec.ports.iter().enumerate().filter(|(_, other)| target(other) == target(port))
        {
            let carries = |service: &Object<Service>, at: usize| {
                let mut all = view.context.registry.all().iter();
                let known = all.find(|known| {
                    matches!(&known.definition, Definition::Service(_)) && known.name() == service.name()
                });
                known.map(|known| known.ports[at].protocol)
            };
            let line = earlier.origin(&format!("spec.ports[{other_at}]")).line;
            let place = format!("Service {} ({}:{line})", earlier.name(), earlier.file);
            let path = format!("spec.ports[{at}]");
            if carries(later, at) != carries(earlier, other_at) {
                let message = format!(
                    "{place} leads to the same port of the same Pods, and says that it carries another protocol"
                );
                let remedy = "Name both ports by the same protocol.";
                found.push(later.finding(Severity::Warning, code::SERVICES_DISAGREE, path, message, remedy));
            } else if port.port != other.port {
                let message = format!(
                    "{place} leads to the same port of the same Pods by port {}, this one by {}",
                    other.port, port.port
                );
                let remedy = "Use one port number for one target port.";
                found.push(later.finding(Severity::Warning, code::CONFLICTING_PORTS, path, message, remedy));
            }
        }
    }
    found
}

fn target(port: &ServicePort) -> TargetPort {
    port.target_port.clone().unwrap_or(TargetPort::Number(port.port))
}
