//! References that lead nowhere and sets that are empty, whether or not a listener meets them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    binding::gateway_name,
    parse::{Context, Output},
    registry::Definition,
    route::{Clusters, VirtualService, port_list},
    workloads::matches,
};
use crate::{
    finding::{Finding, Severity, code},
    spec::istio,
};

/// Gateways, hosts, ports and subsets that are named and do not exist.
pub fn references(context: &Context<'_>, output: &mut Output<'_>) {
    let gateways: BTreeSet<_> = context.specs.gateways.iter().map(|gateway| gateway.name().clone()).collect();
    for service in &context.virtual_services {
        let known = |reference: &String| {
            gateway_name(reference, service.namespace()).is_none_or(|name| gateways.contains(&name))
        };
        for (at, reference) in service.spec.gateways.iter().enumerate().filter(|(_, reference)| !known(reference)) {
            output.findings.push(missing_gateway(service, format!("spec.gateways[{at}]"), reference));
        }
        for (at, route) in service.spec.tcp.iter().enumerate() {
            for (index, item) in route.r#match.iter().enumerate() {
                let listed = item.iter().flat_map(|item| item.gateways.iter().enumerate());
                for (of, reference) in listed.filter(|(_, reference)| !known(reference)) {
                    let path = format!("spec.tcp[{at}].match[{index}].gateways[{of}]");
                    output.findings.push(missing_gateway(service, path, reference));
                }
            }
            destinations(context, service, &format!("spec.tcp[{at}]"), &route.route, &mut output.findings);
        }
        for (at, route) in service.spec.tls.iter().enumerate() {
            destinations(context, service, &format!("spec.tls[{at}]"), &route.route, &mut output.findings);
        }
    }
}

fn missing_gateway(service: &VirtualService, path: String, reference: &str) -> Finding {
    let message = format!("there is no Gateway `{reference}`");
    let remedy = "Define it, or correct the name; a Gateway of another namespace is `namespace/name`.";
    service.finding(Severity::Error, code::NOT_FOUND, path, message, remedy)
}

fn destinations(
    context: &Context<'_>,
    service: &VirtualService,
    path: &str,
    route: &[istio::RouteDestination],
    findings: &mut Vec<Finding>,
) {
    for (at, entry) in route.iter().enumerate() {
        let Some(destination) = &entry.destination else {
            continue;
        };
        let path = format!("{path}.route[{at}].destination");
        if let Some((field, message, remedy)) = missing(context, service, destination) {
            let message = format!("{message}; connections for this destination are refused");
            findings.push(service.finding(
                Severity::Error,
                code::NOT_FOUND,
                format!("{path}.{field}"),
                message,
                remedy,
            ));
        }
    }
}

/// What of a destination does not exist: the field, what to say, what to do.
fn missing(
    context: &Context<'_>,
    service: &VirtualService,
    destination: &istio::Destination,
) -> Option<(&'static str, String, String)> {
    let host = context.full_host(&destination.host, service.namespace());
    let Some(found) = context.find(&host) else {
        let remedy = match destination.host.contains('.') {
            true => "Define a Service or ServiceEntry for it; a host with a dot is taken as it is.".to_owned(),
            false => format!("Define it, or write the full host if it is not in namespace {}.", service.namespace()),
        };
        return Some(("host", format!("no Service or ServiceEntry has the host `{host}`"), remedy));
    };
    if let Some(port) = destination.port
        && u16::try_from(port.number).ok().and_then(|number| found.service.port(number)).is_none()
    {
        let remedy = format!("Its ports are {}.", port_list(found.service));
        return Some(("port", format!("{host} has no TCP port {}", port.number), remedy));
    }
    let subset = destination.subset.as_deref().filter(|subset| !subset.is_empty())?;
    match &found.policy {
        None => {
            let remedy = format!("Define a DestinationRule for {host} with this subset.");
            Some(("subset", format!("no DestinationRule for {host} defines subset `{subset}`"), remedy))
        }
        Some(policy) if policy.subset(subset).is_none() => {
            let rule = policy.rule();
            let names = policy.subset_names();
            let remedy = match names.as_slice() {
                [] => format!("DestinationRule {} has no subsets.", rule.name()),
                names => format!("DestinationRule {} has {}.", rule.name(), names.join(", ")),
            };
            Some(("subset", format!("{host} has no subset `{subset}`"), remedy))
        }
        Some(_) => None,
    }
}

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
            let remedy = "Define it, or correct the host; this rule changes nothing.";
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
fn empty_subset(
    clusters: &mut Clusters<'_>,
    service: &super::registry::Service,
    labels: &istio::Labels,
) -> Option<String> {
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
