//! Http routes: what excludes what, and what a route must have.

use super::{
    check::Check,
    http_action, http_match,
    virtual_service::{destination, destinations},
};
use crate::{
    finding::code,
    spec::istio::{HttpRoute, VirtualService},
};

pub fn route(check: &mut Check<'_>, path: &str, service: &VirtualService, route: &HttpRoute) {
    exclusions(check, path, service, route);
    for (at, item) in route.r#match.iter().enumerate() {
        http_match::http_match(check, &format!("{path}.match[{at}]"), service, item);
    }
    if !route.route.is_empty() {
        let entries = route.route.iter().map(|entry| (entry.destination.as_ref(), entry.weight));
        destinations(check, path, entries);
    }
    if let Some(headers) = &route.headers {
        http_action::headers(check, &format!("{path}.headers"), headers);
    }
    for (at, entry) in route.route.iter().enumerate() {
        if let Some(headers) = &entry.headers {
            http_action::headers(check, &format!("{path}.route[{at}].headers"), headers);
        }
    }
    if let Some(redirect) = &route.redirect {
        http_action::redirect(check, &format!("{path}.redirect"), redirect, &route.r#match);
    }
    if let Some(response) = &route.direct_response {
        http_action::direct_response(check, &format!("{path}.directResponse"), response);
    }
    if let Some(rewrite) = &route.rewrite {
        http_action::rewrite(check, &format!("{path}.rewrite"), rewrite);
    }
    http_action::one_authority(check, path, route);
    check.duration(format!("{path}.timeout"), route.timeout);
    if let Some(retries) = &route.retries {
        http_action::retries(check, &format!("{path}.retries"), retries);
    }
    if let Some(fault) = &route.fault {
        http_action::fault(check, &format!("{path}.fault"), fault);
    }
    if let Some(policy) = &route.cors_policy {
        http_action::cors(check, &format!("{path}.corsPolicy"), policy);
    }
    mirrors(check, path, route);
}

fn exclusions(check: &mut Check<'_>, path: &str, service: &VirtualService, route: &HttpRoute) {
    let HttpRoute { redirect, direct_response, delegate, rewrite, fault, .. } = route;
    let has_route = !route.route.is_empty();
    if service.hosts.is_empty() && delegate.is_some() {
        let message = "a delegate cannot delegate again";
        check.refuse(format!("{path}.delegate"), message, "Write the routes here.");
    }
    if delegate.is_some() && !service.hosts.is_empty() {
        for (field, there) in [("redirect", redirect.is_some()), ("route", has_route)] {
            if there {
                let message = format!("delegate and {field} exclude each other");
                check.refuse(format!("{path}.{field}"), message, "Write it in the delegate.");
            }
        }
        return;
    }
    let ways = [
        ("route", has_route),
        ("fault", fault.is_some()),
        ("rewrite", rewrite.is_some()),
        ("directResponse", direct_response.is_some()),
    ];
    if redirect.is_some() {
        excluded(check, path, "redirect", &ways);
    } else if direct_response.is_some() {
        excluded(check, path, "directResponse", &ways[..3]);
    } else if !has_route {
        let message = "the route leads nowhere";
        check.refuse(path, message, "Add `route`, `redirect`, `directResponse` or `delegate`.");
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        check.refuse(format!("{path}.mirrors"), "mirror and mirrors exclude each other", "Keep one of the two.");
    }
}

fn excluded(check: &mut Check<'_>, path: &str, action: &str, others: &[(&str, bool)]) {
    for (field, _) in others.iter().filter(|(_, there)| *there) {
        let message = format!("{action} and {field} exclude each other");
        check.refuse(format!("{path}.{field}"), message, "Keep one of the two.");
    }
}

fn mirrors(check: &mut Check<'_>, path: &str, route: &HttpRoute) {
    if let Some(to) = &route.mirror {
        destination(check, &format!("{path}.mirror"), to);
    }
    for (at, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{at}]");
        match &mirror.destination {
            None => check.refuse(&path, "the mirror has no destination", "Add `destination` with a host."),
            Some(to) => destination(check, &format!("{path}.destination"), to),
        }
        if let Some(percent) = mirror.percentage {
            check.percent(format!("{path}.percentage.value"), percent.value);
        }
    }
    if let Some(percent) = route.mirror_percent {
        let at = format!("{path}.mirrorPercent");
        check.percent(&at, percent.into());
        check.warn_as(code::DEPRECATED, at, "mirrorPercent is deprecated", "Use `mirrorPercentage: {value: ...}`.");
    }
    if let Some(percent) = route.mirror_percentage {
        check.percent(format!("{path}.mirrorPercentage.value"), percent.value);
    }
    let percent = route.mirror_percentage.is_some() || route.mirror_percent.is_some();
    if percent && route.mirror.is_none() {
        let field = if route.mirror_percentage.is_some() { "mirrorPercentage" } else { "mirrorPercent" };
        let message = "there is no mirror that this percentage could be of";
        check.idle(format!("{path}.{field}"), message, "Add `mirror`; each of `mirrors` has its own percentage.");
    }
}
