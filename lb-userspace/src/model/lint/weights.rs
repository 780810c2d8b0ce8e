//! Weights that are accepted and do nothing, or not what they seem to say.

use super::{
    View,
    routes::{Route, Weighted},
};
use crate::{
    finding::{Finding, Severity, code},
    model::{registry::Service, workloads::matches},
};

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    for route in &view.routes {
        match route.destinations.as_slice() {
            [] => {}
            [only] => findings.extend(single(route, only)),
            several => findings.extend(shares(route, several)),
        }
        ingress(view, route, findings);
    }
}

fn single(route: &Route<'_>, only: &Weighted<'_>) -> Option<Finding> {
    let weight = only.weight.filter(|weight| *weight < 100)?;
    let message = format!("a single destination gets everything: the weight of {weight} has no effect");
    let remedy = "Add the destination that should get the rest, or remove `weight`.";
    let path = format!("{}.weight", only.path);
    Some(route.service.finding(Severity::Warning, code::WEIGHT_IGNORED, path, message, remedy))
}

/// Weights are relative in Istio; whoever writes 20 and 20 may not mean halves.
fn shares(route: &Route<'_>, several: &[Weighted<'_>]) -> Option<Finding> {
    let weight = |one: &Weighted<'_>| f64::from(one.weight.unwrap_or(0).max(0));
    let sum: f64 = several.iter().map(weight).sum();
    if sum == 100.0 || sum == 0.0 {
        return None;
    }
    let share = |one: &Weighted<'_>| format!("{} {:.1} %", one.label(), weight(one) / sum * 100.0);
    let shares: Vec<String> = several.iter().map(share).collect();
    let message = format!("the weights add up to {sum}, not 100; the shares are {}", shares.join(", "));
    let path = format!("{}.weight", several[0].path);
    Some(route.service.finding(
        Severity::Info,
        code::WEIGHT_SHARES,
        path,
        message,
        "Nothing is to be done if these shares are meant.",
    ))
}

/// A split that is for the mesh only, of a host that a gateway sends traffic to whole.
fn ingress(view: &View<'_>, route: &Route<'_>, findings: &mut Vec<Finding>) {
    let Some(gateway) = route.gateways.iter().next() else { return };
    for one in route.destinations.iter().filter(|one| one.subset().is_none()) {
        let Some(service) = view.context.registry.get(&one.host) else { continue };
        let ineffective =
            |other: &&Route<'_>| other.gateways.is_disjoint(&route.gateways) && narrows(view, other, service);
        let Some(other) = view.mesh_routes(&one.host).find(ineffective) else { continue };
        let message = format!(
            "what comes in by Gateway {gateway} goes to all endpoints of {}: {} is for the mesh only and does not split it",
            one.host,
            other.place()
        );
        let remedy =
            "Name the weighted subsets here too, or list the gateway in that VirtualService with the hosts it serves.";
        let path = format!("{}.destination", one.path);
        findings.push(route.service.finding(Severity::Warning, code::INGRESS_NOT_AFFECTED, path, message, remedy));
    }
}

/// Whether a route sends traffic elsewhere than to all endpoints of the service alike.
fn narrows(view: &View<'_>, route: &Route<'_>, service: &Service) -> bool {
    if route.splits() {
        return true;
    }
    let Some(subset) = route.destinations.first().and_then(Weighted::subset) else { return false };
    let found = view.context.find(&service.host).and_then(|found| found.policy);
    let Some((_, _, subset)) = found.as_ref().and_then(|policy| policy.subset(subset)) else { return false };
    // Without endpoints to look at, a subset is taken for a part of them.
    let mut instances = service.ports.iter().flat_map(|port| view.workloads.instances(service, port)).peekable();
    instances.peek().is_none() || instances.any(|instance| !matches(&subset.labels, &instance.labels))
}
