//! DestinationRules and VirtualServices that speak of different hosts, or of hosts whose traffic never comes.

use std::collections::BTreeSet;

use super::{View, names};
use crate::{
    finding::{Finding, Severity, code},
    model::{
        ObjectName,
        binding::{for_mesh, gateways},
        host,
        route::VirtualService,
        workloads::matches,
    },
    spec::{Object, istio::DestinationRule},
};

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    let named = named_subsets(view);
    for rule in &view.context.specs.destination_rules {
        unused(view, rule, &named, findings);
        meant_elsewhere(view, rule, findings);
    }
    let served: BTreeSet<ObjectName> = view
        .context
        .specs
        .gateways
        .iter()
        .filter(|gateway| matches(&gateway.spec.selector, &view.context.identity.gateway_labels))
        .map(|gateway| gateway.name().clone())
        .collect();
    for service in &view.context.virtual_services {
        unbound(view, service, &served, findings);
        absent(view, service, findings);
    }
}

/// Host and subset of every destination there is.
fn named_subsets<'v>(view: &'v View<'_>) -> BTreeSet<(&'v str, &'v str)> {
    let all = view.routes.iter().flat_map(|route| &route.destinations);
    all.filter_map(|one| Some((one.host.as_str(), one.subset()?))).collect()
}

fn unused(
    view: &View<'_>,
    rule: &Object<DestinationRule>,
    named: &BTreeSet<(&str, &str)>,
    findings: &mut Vec<Finding>,
) {
    let pattern = view.context.full_host(&rule.spec.host, rule.namespace());
    let is_named = |name: &str| named.iter().any(|(host, subset)| *subset == name && host::covers(&pattern, host));
    if rule.spec.subsets.is_empty() || rule.spec.subsets.iter().any(|subset| is_named(&subset.name)) {
        return;
    }
    let message = format!("no route names a subset of {pattern}: the rule tells versions apart, and nothing uses that");
    let remedy = "Route to the subsets in a VirtualService; a DestinationRule alone splits nothing.";
    findings.push(rule.finding(Severity::Info, code::SUBSETS_UNUSED, "spec.subsets", message, remedy));
}

/// A rule for a host that nobody has, while routes go to one that is called alike.
fn meant_elsewhere(view: &View<'_>, rule: &Object<DestinationRule>, findings: &mut Vec<Finding>) {
    let full = view.context.full_host(&rule.spec.host, rule.namespace());
    if !view.context.registry.covered(&full).is_empty() {
        return;
    }
    let Some(meant) = names::meant(view.context, &rule.spec.host, rule.namespace()) else { return };
    let route = view.routes.iter().find(|route| route.destinations.iter().any(|one| one.host == meant));
    let Some(route) = route else { return };
    let message =
        format!("this rule is for {full}, but {} goes to {meant}: the rule does not hold there", route.place());
    let remedy = format!("Write `host: {meant}`; a name without a dot belongs to the rule's own namespace.");
    findings.push(rule.finding(Severity::Warning, code::HOSTS_DIFFER, "spec.host", message, remedy));
}

/// A VirtualService for gateways only, none of which this agent serves.
fn unbound(view: &View<'_>, service: &VirtualService, served: &BTreeSet<ObjectName>, findings: &mut Vec<Finding>) {
    let listed = gateways(service);
    if listed.is_empty() || for_mesh(&service.spec) || listed.iter().any(|name| served.contains(name)) {
        return;
    }
    let exists = |name: &&ObjectName| view.context.specs.gateways.iter().any(|gateway| gateway.name() == *name);
    let message = match listed.iter().find(exists) {
        Some(gateway) => {
            format!("no traffic meets this VirtualService: Gateway {gateway} selects other gateways than this one")
        }
        None => "no traffic meets this VirtualService: none of its gateways exists".to_owned(),
    };
    let remedy = "List a Gateway that selects this agent, or `mesh` for clients inside the cluster.";
    findings.push(service.finding(Severity::Warning, code::UNBOUND, "spec.gateways", message, remedy));
}

/// A host of the mesh that no service has.
fn absent(view: &View<'_>, service: &VirtualService, findings: &mut Vec<Finding>) {
    if !for_mesh(&service.spec) {
        return;
    }
    let domain = &view.context.identity.cluster_domain;
    // Else a host may be there for the gateways.
    let for_mesh_alone = gateways(service).is_empty();
    for (at, written) in service.spec.hosts.iter().enumerate() {
        let full = view.context.full_host(written, service.namespace());
        // Names of the outside need no object: sidecars may pass such traffic on.
        let inside = full.ends_with(&format!(".svc.{domain}")) && !full.starts_with('*');
        let alike = names::meant(view.context, written, service.namespace());
        if !view.context.registry.covered(&full).is_empty() || !(inside || (alike.is_some() && for_mesh_alone)) {
            continue;
        }
        let message = format!(
            "no Service or ServiceEntry has the host `{full}`: no traffic of the mesh meets this VirtualService by it"
        );
        let remedy = match alike {
            Some(alike) => {
                format!("Did you mean `{alike}`? A name without a dot belongs to the VirtualService's own namespace.")
            }
            None => "Define the Service, or correct the host.".to_owned(),
        };
        let path = format!("spec.hosts[{at}]");
        findings.push(service.finding(Severity::Warning, code::UNBOUND, path, message, remedy));
    }
}
