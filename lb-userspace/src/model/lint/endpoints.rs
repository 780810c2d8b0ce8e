//! Sets that are empty, whether or not a listener meets them: services without endpoints, subsets that select none, and
//! DestinationRules of nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::names;
use crate::{
    finding::{Finding, Severity, code},
    model::{
        parse::{Context, Output},
        registry::{Definition, PortProtocol, Service},
        route::Clusters,
        workloads::matches,
    },
    spec::istio,
};

/// Services without endpoints, subsets that select none, and DestinationRules of nobody.
pub fn endpoints(context: &Context<'_>, output: &mut Output<'_>) {
    let routed: BTreeSet<_> = output.clusters.names().map(|(name, _)| (name.host.clone(), name.port)).collect();
    let mut bare = BTreeSet::new();
    for (host, number) in routed {
        let Some(service) = context.registry.get(&host) else {
            continue;
        };
        let Some(port) = service.port(number) else {
            continue;
        };
        // The proxy finds them; the kernel cannot.
        if is_named(&service.definition) && !matches!(port.protocol, PortProtocol::Tcp | PortProtocol::Unknown) {
            continue;
        }
        if output.clusters.instances(service, port).is_empty() && bare.insert((host.clone(), number)) {
            output.findings.push(no_endpoints(&service.definition, number));
        }
    }
    for rule in &context.specs.destination_rules {
        let host = context.full_host(&rule.spec.host, rule.namespace());
        let services = context.registry.covered(&host);
        if services.is_empty() {
            let message = format!("no Service or ServiceEntry has the host `{host}`");
            let remedy = match names::meant(context, &rule.spec.host, rule.namespace()) {
                Some(meant) => format!("Did you mean `{meant}`? This rule changes nothing."),
                None => "Define it, or correct the host; this rule changes nothing.".to_owned(),
            };
            output.findings.push(rule.finding(
                Severity::Warning,
                code::UNKNOWN_RULE_HOST,
                "spec.host",
                message,
                remedy,
            ));
        }
        for service in services {
            for (at, subset) in rule.spec.subsets.iter().enumerate() {
                if let Some(existing) = empty_subset(context, &mut output.clusters, service, &subset.labels) {
                    let message = format!("subset `{}` selects no endpoint of {}", subset.name, service.host);
                    let path = format!("spec.subsets[{at}]");
                    output.findings.push(rule.finding(Severity::Error, code::SUBSET_EMPTY, path, message, existing));
                }
            }
        }
    }
}

/// Whether endpoints are names or sockets, which no packet can be sent to, and which the proxy reaches.
fn is_named(definition: &Definition) -> bool {
    match definition {
        Definition::Entry(entry) => {
            let socket = |endpoint: &istio::WorkloadEntry| endpoint.address.starts_with("unix:");
            !matches!(entry.spec.resolution, istio::Resolution::None | istio::Resolution::Static)
                || entry.spec.endpoints.iter().any(socket)
        }
        Definition::Service(service) => service.spec.external_name.is_some(),
    }
}

fn no_endpoints(definition: &Definition, port: u16) -> Finding {
    let message = format!("port {port} has no ready endpoint: connections to it are refused");
    match definition {
        Definition::Service(object) => {
            let remedy = "Give EndpointSlices, or ready Pods that its selector finds; templates in Deployments are no endpoints.";
            object.finding(Severity::Warning, code::NO_ENDPOINTS, "", message, remedy)
        }
        Definition::Entry(object) => {
            let remedy =
                "Give `endpoints` with `resolution: STATIC`, or a workloadSelector that finds ready workloads.";
            object.finding(Severity::Warning, code::NO_ENDPOINTS, "", message, remedy)
        }
    }
}

/// More Pods than this are not searched for each service without endpoints: their numbers multiply.
const MOST_PODS: usize = 1_000;

/// Where a service has endpoints but labels select none of them: what labels there are.
fn empty_subset(
    context: &Context<'_>,
    clusters: &mut Clusters<'_>,
    service: &Service,
    labels: &istio::Labels,
) -> Option<String> {
    let mut values: Option<BTreeMap<String, BTreeSet<String>>> = None;
    let fits = |values: &mut Option<BTreeMap<String, BTreeSet<String>>>, own: &istio::Labels| {
        let values = values.get_or_insert_default();
        for key in labels.keys() {
            values.entry(key.clone()).or_default().extend(own.get(key).cloned());
        }
        matches(labels, own)
    };
    for port in &service.ports {
        if clusters.instances(service, port).iter().any(|instance| fits(&mut values, &instance.labels)) {
            return None;
        }
    }
    // Pods that are not ready yet say as much about labels. Where there are very many, some are ready, or that is what is wrong.
    if values.is_none()
        && context.specs.pods.len() <= MOST_PODS
        && let Definition::Service(object) = &service.definition
        && !object.spec.selector.is_empty()
    {
        let own = context.specs.pods.iter().filter(|pod| pod.namespace() == object.namespace());
        let mut own = own.filter(|pod| matches(&object.spec.selector, &pod.labels));
        if own.any(|pod| fits(&mut values, &pod.labels)) {
            return None;
        }
    }
    let list = |(key, values): (&String, &BTreeSet<String>)| match values.is_empty() {
        true => format!("no endpoint has a label `{key}`"),
        false => format!("label `{key}` is one of {}", values.iter().cloned().collect::<Vec<_>>().join(", ")),
    };
    values.map(|values| format!("Of its endpoints, {}.", values.iter().map(list).collect::<Vec<_>>().join(", and ")))
}
