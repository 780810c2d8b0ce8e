//! Sets that are empty, whether or not a listener meets them: services without endpoints, subsets that select none, and
//! DestinationRules of nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::names;
use crate::{
    finding::{Finding, Severity, code},
    model::{
        parse::{Context, Output},
        registry::{Definition, Service},
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
                if let Some(existing) = empty_subset(&mut output.clusters, service, &subset.labels) {
                    let message = format!("subset `{}` selects no endpoint of {}", subset.name, service.host);
                    let path = format!("spec.subsets[{at}]");
                    output.findings.push(rule.finding(Severity::Error, code::SUBSET_EMPTY, path, message, existing));
                }
            }
        }
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

/// Where a service has endpoints but labels select none of them: what labels there are.
fn empty_subset(clusters: &mut Clusters<'_>, service: &Service, labels: &istio::Labels) -> Option<String> {
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut any = false;
    for port in &service.ports {
        for instance in clusters.instances(service, port).iter() {
            any = true;
            if matches(labels, &instance.labels) {
                return None;
            }
            for key in labels.keys() {
                values.entry(key.clone()).or_default().extend(instance.labels.get(key).cloned());
            }
        }
    }
    let list = |(key, values): (&String, &BTreeSet<String>)| match values.is_empty() {
        true => format!("no endpoint has a label `{key}`"),
        false => format!("label `{key}` is one of {}", values.iter().cloned().collect::<Vec<_>>().join(", ")),
    };
    any.then(|| format!("Of its endpoints, {}.", values.iter().map(list).collect::<Vec<_>>().join(", and ")))
}
