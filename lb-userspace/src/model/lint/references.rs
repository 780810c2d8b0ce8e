//! References that lead nowhere, whether or not a listener meets them.

use std::collections::BTreeSet;

use super::names;
use crate::{
    finding::{Finding, Severity, code},
    model::{
        binding::gateway_name,
        parse::{Context, Output},
        route::{VirtualService, port_list},
    },
    spec::{ObjectName, istio},
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
        for (path, listed) in match_gateways(&service.spec) {
            for (at, reference) in listed.iter().enumerate().filter(|(_, reference)| !known(reference)) {
                output.findings.push(missing_gateway(service, format!("{path}.gateways[{at}]"), reference));
            }
        }
        for (path, destination) in destinations(&service.spec) {
            let Some((field, message, remedy)) = missing(context, service, destination) else { continue };
            let lost = match path.as_str() {
                path if path.contains(".mirror") => "copies for it are lost",
                path if path.starts_with("spec.http") => "requests for this destination are answered 503",
                _ => "connections for this destination are refused",
            };
            let message = format!("{message}; {lost}");
            let path = format!("{path}.{field}");
            output.findings.push(service.finding(Severity::Error, code::NOT_FOUND, path, message, remedy));
        }
        delegates(context, service, &mut output.findings);
    }
}

fn missing_gateway(service: &VirtualService, path: String, reference: &str) -> Finding {
    let message = format!("there is no Gateway `{reference}`");
    let remedy = "Define it, or correct the name; a Gateway of another namespace is `namespace/name`.";
    service.finding(Severity::Error, code::NOT_FOUND, path, message, remedy)
}

/// The gateways that single matches list, by the match's path.
fn match_gateways(spec: &istio::VirtualService) -> Vec<(String, &[String])> {
    let mut all: Vec<(String, &[String])> = Vec::new();
    for (at, route) in spec.http.iter().enumerate() {
        let items = route.r#match.iter().enumerate();
        all.extend(items.map(|(item, spec)| (format!("spec.http[{at}].match[{item}]"), &*spec.gateways)));
    }
    for (at, route) in spec.tls.iter().enumerate() {
        let items = route.r#match.iter().enumerate();
        all.extend(items.map(|(item, spec)| (format!("spec.tls[{at}].match[{item}]"), &*spec.gateways)));
    }
    for (at, route) in spec.tcp.iter().enumerate() {
        let items = route.r#match.iter().enumerate();
        let items = items.filter_map(|(item, spec)| Some((item, spec.as_ref()?)));
        all.extend(items.map(|(item, spec)| (format!("spec.tcp[{at}].match[{item}]"), &*spec.gateways)));
    }
    all
}

/// Everything that a VirtualService sends traffic or copies of it to, by path.
fn destinations(spec: &istio::VirtualService) -> Vec<(String, &istio::Destination)> {
    let mut all = Vec::new();
    for (at, route) in spec.http.iter().enumerate() {
        let entries = route
            .route
            .iter()
            .enumerate()
            .map(|(index, entry)| (format!("route[{index}].destination"), &entry.destination));
        let mirrors = route
            .mirrors
            .iter()
            .enumerate()
            .map(|(index, entry)| (format!("mirrors[{index}].destination"), &entry.destination));
        let mirror = std::iter::once(("mirror".to_owned(), &route.mirror));
        let found = entries.chain(mirrors).chain(mirror);
        all.extend(found.filter_map(|(path, to)| Some((format!("spec.http[{at}].{path}"), to.as_ref()?))));
    }
    let tls = spec.tls.iter().enumerate().map(|(at, route)| (format!("spec.tls[{at}]"), &route.route));
    let tcp = spec.tcp.iter().enumerate().map(|(at, route)| (format!("spec.tcp[{at}]"), &route.route));
    for (path, route) in tls.chain(tcp) {
        let entries = route.iter().enumerate();
        all.extend(
            entries.filter_map(|(at, entry)| {
                Some((format!("{path}.route[{at}].destination"), entry.destination.as_ref()?))
            }),
        );
    }
    all
}

/// Delegates that do not exist: the route that names one yields nothing.
fn delegates(context: &Context<'_>, service: &VirtualService, findings: &mut Vec<Finding>) {
    for (at, route) in service.spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else { continue };
        let namespace = delegate.namespace.as_deref().unwrap_or(service.namespace());
        let name = ObjectName { namespace: namespace.into(), name: delegate.name.as_str().into() };
        if context.specs.virtual_services.binary_search_by_key(&&name, |service| service.name()).is_ok() {
            continue;
        }
        let message = format!("there is no VirtualService {name} to delegate to: this route yields nothing");
        let remedy = "Define it without `hosts`, or correct the name; without `namespace` it is the root's own.";
        let path = format!("spec.http[{at}].delegate");
        findings.push(service.finding(Severity::Error, code::NOT_FOUND, path, message, remedy));
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
        let remedy = match names::meant(context, &destination.host, service.namespace()) {
            Some(meant) => {
                format!("Did you mean `{meant}`? A name without a dot belongs to the VirtualService's namespace.")
            }
            None if destination.host.contains('.') => {
                "Define a Service or ServiceEntry for it; a host with a dot is taken as it is.".to_owned()
            }
            None => format!("Define it, or write the full host if it is not in namespace {}.", service.namespace()),
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
