//! Doors that lead past the rules: the weights are right, and the traffic does not meet them.

use std::collections::BTreeSet;

use super::{View, routes::Route};
use crate::{
    finding::{Finding, Severity, code},
    model::{registry::Definition, workloads::matches},
    spec::{Object, kubernetes::Service},
};

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    let mut said = BTreeSet::new();
    let doors: Vec<_> = view.context.specs.services.iter().filter(|door| way_in(&door.spec).is_some()).collect();
    for route in view.routes.iter().filter(|route| route.splits()) {
        let hosts: BTreeSet<&str> = route.destinations.iter().map(|one| one.host.as_str()).collect();
        for host in hosts {
            let Some(Definition::Service(target)) = view.context.registry.get(host).map(|found| &found.definition)
            else {
                continue;
            };
            for door in doors.iter().filter(|door| leads_to(door, target)) {
                if said.insert((door.name().clone(), route.service.name().clone())) {
                    findings.extend(outside(door, route));
                }
            }
        }
        findings.extend(inside(view, route));
    }
}

/// Whether a Service is open to the outside and picks workloads that `target` picks too.
fn leads_to(door: &Object<Service>, target: &Object<Service>) -> bool {
    let (own, other) = (&door.spec.selector, &target.spec.selector);
    let same = door.name() == target.name();
    let related = !own.is_empty() && !other.is_empty() && (matches(own, other) || matches(other, own));
    door.namespace() == target.namespace() && (same || related)
}

/// How traffic from outside comes in by a Service, and the field that makes it so.
fn way_in(service: &Service) -> Option<(&'static str, &'static str)> {
    match service.r#type.as_deref() {
        Some("NodePort") => Some(("spec.type", "a node port")),
        Some("LoadBalancer") => Some(("spec.type", "the load balancer or a node port")),
        _ if !service.external_ips.is_empty() => Some(("spec.externalIPs", "an external address")),
        _ => None,
    }
}

fn outside(door: &Object<Service>, route: &Route<'_>) -> Option<Finding> {
    let (path, way) = way_in(&door.spec)?;
    let message = format!(
        "what comes in by {way} of this Service goes to all its endpoints alike, past the weights of {}",
        route.place()
    );
    let remedy = "Send clients to the gateway's address, and make this Service `type: ClusterIP`.";
    Some(door.finding(Severity::Warning, code::BYPASS, path, message, remedy))
}

/// Traffic from inside the cluster, where the VirtualService names a Service but is for gateways only.
fn inside(view: &View<'_>, route: &Route<'_>) -> Option<Finding> {
    if route.mesh {
        return None;
    }
    let full = |host: &String| view.context.full_host(host, route.service.namespace());
    let at = route.service.spec.hosts.iter().position(|host| {
        matches!(view.context.registry.get(&full(host)).map(|found| &found.definition), Some(Definition::Service(_)))
    })?;
    let host = &route.service.spec.hosts[at];
    if view.mesh_routes(&full(host)).next().is_some() {
        return None;
    }
    let message = format!(
        "clients inside the cluster that call `{host}` do not meet the weights of {}: its gateways do not include `mesh`",
        route.path()
    );
    let remedy = "Add `mesh` to `gateways`, or remove the host if only outside traffic is meant.";
    let path = format!("spec.hosts[{at}]");
    Some(route.service.finding(Severity::Warning, code::BYPASS, path, message, remedy))
}
