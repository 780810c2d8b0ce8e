//! The http routes of one VirtualService at one place where traffic comes in.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    action, condition,
    delegate::{Entry, entries},
    destination, place, upstream, weight,
};
use crate::{
    finding::{Severity, code},
    model::{
        binding::{for_mesh_by_default, gateway_name, lists_mesh},
        clients,
        parse::{Context, Output},
        route::{self, VirtualService},
        workloads::matches,
    },
    router::Patterns,
    snapshot::{
        Action, ClientMatch, Condition, Destination, Mirror, Outcome, Route, RouteKind, RuleSource, Split, StringMatch,
    },
    spec::{
        ObjectName,
        istio::{HttpMatch, HttpRoute},
    },
};

/// Where traffic comes in: a port of a Gateway, or of a Service of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site<'s> {
    Gateway(&'s ObjectName, u16),
    Mesh(u16),
}

impl Site<'_> {
    pub fn port(self) -> u16 {
        match self {
            Site::Gateway(_, port) | Site::Mesh(port) => port,
        }
    }

    /// Whether a `gateways` list, written in `namespace`, has this place.
    pub fn is_in(self, gateways: &[String], namespace: &str) -> bool {
        match self {
            Site::Gateway(own, _) => {
                gateways.iter().any(|reference| gateway_name(reference, namespace).as_ref() == Some(own))
            }
            Site::Mesh(_) => lists_mesh(gateways),
        }
    }

    pub fn is_default_of(self, service: &VirtualService) -> bool {
        match self {
            Site::Gateway(..) => self.is_in(&service.spec.gateways, service.namespace()),
            Site::Mesh(_) => for_mesh_by_default(&service.spec),
        }
    }
}

/// All routes in their order. What stands behind a catch-all is left out, as nothing reaches it.
pub fn routes<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    root: &'s VirtualService,
    site: Site<'_>,
) -> Vec<Route> {
    let mut all = Vec::new();
    for entry in entries(context, output, root) {
        let conditions = conditions(context, output, root, &entry, site);
        if conditions.is_empty() {
            continue;
        }
        let Some(action) = act(context, output, &entry, site).map(Arc::new) else {
            continue;
        };
        for (item, condition) in conditions {
            let is_last = condition.is_catch_all();
            all.push(Route { source: source(&entry, item), condition, action: action.clone() });
            if is_last {
                return all;
            }
        }
    }
    all
}

/// The conditions by which a rule can be met here, each with the position of its item in `entry.route.match`.
fn conditions(
    context: &Context<'_>,
    output: &mut Output<'_>,
    root: &VirtualService,
    entry: &Entry<'_>,
    site: Site<'_>,
) -> Vec<(Option<usize>, Condition)> {
    let items = &entry.route.r#match;
    if items.is_empty() {
        return site.is_default_of(root).then(|| (None, Condition::default())).into_iter().collect();
    }
    let mut found = Vec::new();
    for (at, item) in items.iter().enumerate() {
        if !is_here(context, root, item, site) {
            continue;
        }
        let condition = Condition { client: client(item, site), ..condition::condition(item) };
        let bad =
            condition::patterns(&condition).into_iter().find_map(|pattern| Patterns::default().whole(pattern).err());
        let problem = match (condition::unsupported(item), bad) {
            (Some(field), _) => Some((
                Severity::Warning,
                code::UNSUPPORTED,
                format!(".{field}"),
                "matching on claims of a token is not carried out; this match is left out".to_owned(),
            )),
            (None, Some(bad)) => {
                Some((Severity::Error, code::INVALID, String::new(), format!("{bad}; this match is left out")))
            }
            (None, None) => None,
        };
        match problem {
            None => found.push((Some(at), condition)),
            Some((severity, code, field, message)) => {
                let path = format!("{}{field}", match_path(entry, at));
                output.findings.push(entry.holder.finding(severity, code, path, message, "Correct or remove it."));
            }
        }
    }
    found
}

/// Path of a match item in the object that holds the rule.
fn match_path(entry: &Entry<'_>, at: usize) -> String {
    match entry.items.get(at).copied().flatten() {
        Some(item) => format!("spec.http[{}].match[{item}]", entry.index),
        None => format!("spec.http[{}]", entry.index),
    }
}

/// Port, gateways and the client's labels are decided here, once. A gateway is its own client.
fn is_here(context: &Context<'_>, root: &VirtualService, item: &HttpMatch, site: Site<'_>) -> bool {
    if item.port.is_some_and(|port| port != 0 && port != u32::from(site.port())) {
        return false;
    }
    if !item.gateways.is_empty() {
        return site.is_in(&item.gateways, root.namespace());
    }
    if !site.is_default_of(root) {
        return false;
    }
    let namespace = item.source_namespace.as_deref();
    if item.source_labels.is_empty() && namespace.is_none() {
        return true;
    }
    match site {
        Site::Gateway(..) => {
            matches(&item.source_labels, &context.identity.gateway_labels)
                && namespace.is_none_or(|namespace| *namespace == *context.identity.namespace)
        }
        // Decided for each client that comes.
        Site::Mesh(_) => true,
    }
}

/// What a match asks of whoever connects.
fn client(item: &HttpMatch, site: Site<'_>) -> Option<ClientMatch> {
    match site {
        Site::Mesh(_) if item.gateways.is_empty() => {
            clients::asked(&item.source_labels, item.source_namespace.as_deref())
        }
        Site::Mesh(_) | Site::Gateway(..) => None,
    }
}

fn source(entry: &Entry<'_>, at: Option<usize>) -> RuleSource {
    let item = at.and_then(|at| entry.items.get(at).copied().flatten());
    let of_item = at.and_then(|at| entry.route.r#match.get(at)).and_then(|item| item.name.as_deref());
    let name = match (entry.route.name.as_deref(), of_item) {
        (Some(rule), Some(item)) => Some(format!("{rule}.{item}")),
        (rule, item) => rule.or(item).map(str::to_owned),
    };
    RuleSource {
        kind: RouteKind::Http,
        virtual_service: Some(entry.holder.name().to_string().into()),
        index: entry.index as u32,
        item: item.map(|item| item as u32),
        name: name.map(Into::into),
        place: place(&entry.holder.origin(&format!("spec.http[{}]", entry.index))),
    }
}

/// Statuses that make a redirect.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// `None`: the rule cannot be carried out, and a finding says why.
fn act<'s>(context: &Context<'s>, output: &mut Output<'s>, entry: &Entry<'s>, site: Site<'_>) -> Option<Action> {
    let route: &HttpRoute = &entry.route;
    let outcome = if let Some(redirect) = &route.redirect {
        let redirect = action::redirect(redirect);
        if !REDIRECTS.contains(&redirect.status) {
            refuse(
                output,
                entry,
                "redirect.redirectCode",
                format!("{} is no status that redirects; this route yields nothing", redirect.status),
            );
            return None;
        }
        Outcome::Redirect(redirect)
    } else if let Some(respond) = &route.direct_response {
        Outcome::Respond(action::respond(respond))
    } else {
        forward(context, output, entry, site)?
    };
    let cors = route.cors_policy.as_ref().map(action::cors);
    let origins = cors.iter().flat_map(|cors| &cors.origins);
    let mut patterns = origins.filter_map(|origin| match origin {
        StringMatch::Regex(pattern) => Some(pattern),
        StringMatch::Exact(_) | StringMatch::Prefix(_) => None,
    });
    if let Some(bad) = patterns.find_map(|pattern| Patterns::default().whole(pattern).err()) {
        refuse(output, entry, "corsPolicy.allowOrigins", format!("{bad}; this route yields nothing"));
        return None;
    }
    let response = route.headers.as_ref().and_then(|headers| headers.response.as_ref());
    Some(Action {
        outcome,
        fault: route.fault.as_ref().map(action::fault),
        cors,
        response_headers: action::operations(&[response]),
    })
}

fn refuse(output: &mut Output<'_>, entry: &Entry<'_>, field: &str, message: String) {
    let path = format!("spec.http[{}].{field}", entry.index);
    output.findings.push(entry.holder.finding(Severity::Error, code::INVALID, path, message, "Correct it."));
}

fn forward<'s>(context: &Context<'s>, output: &mut Output<'s>, entry: &Entry<'s>, site: Site<'_>) -> Option<Outcome> {
    let route: &HttpRoute = &entry.route;
    let rewrite = action::rewrite(route.rewrite.as_ref());
    if let crate::snapshot::PathRewrite::Regex { pattern, .. } = &rewrite.path
        && let Err(bad) = Patterns::default().whole(pattern)
    {
        refuse(output, entry, "rewrite.uriRegexRewrite.match", format!("{bad}; this route yields nothing"));
        return None;
    }
    let mut destinations: Vec<Destination> = Vec::with_capacity(route.route.len());
    for (at, one) in route.route.iter().enumerate() {
        let Some(written) = &one.destination else { continue };
        let path = format!("spec.http[{}].route[{at}]", entry.index);
        let share = weight(route.route.len(), one.weight);
        let mut resolved = resolve(context, output, entry.holder, &path, written, share, site);
        let (own, all) = (one.headers.as_ref(), route.headers.as_ref());
        let blocks = |part: fn(&crate::spec::istio::Headers) -> Option<&crate::spec::istio::HeaderOperations>| {
            let (own, all) = (own.and_then(part), all.and_then(part));
            // What comes later wins: a single destination over its route, the route over one of several.
            if route.route.len() == 1 {
                action::operations(&[all, own])
            } else {
                [action::operations(&[own]), action::operations(&[all])].concat()
            }
        };
        resolved.request_headers = blocks(|headers| headers.request.as_ref());
        resolved.response_headers = blocks(|headers| headers.response.as_ref());
        destinations.push(resolved);
    }
    if destinations.is_empty() {
        refuse(
            output,
            entry,
            "route",
            "there is neither a destination nor another action; this route yields nothing".into(),
        );
        return None;
    }
    let mirrors = action::mirrors(route).into_iter().map(|(written, share, field)| {
        let path = format!("spec.http[{}].{field}", entry.index);
        let one = resolve(context, output, entry.holder, &path, written, 1, site);
        Mirror { cluster: one.cluster, broken: one.broken, share, place: one.place }
    });
    let mirrors = mirrors.collect();
    Some(Outcome::Forward {
        split: Split { destinations },
        rewrite,
        timeout: route.timeout.map(|time| time.to_std()).filter(|time| !time.is_zero()),
        retry: action::retry(route.retries.as_ref()),
        mirrors,
    })
}

/// A destination with the cluster behind it, which is added to those that the proxy uses.
pub(super) fn resolve<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &VirtualService,
    path: &str,
    written: &crate::spec::istio::Destination,
    weight: u32,
    site: Site<'_>,
) -> Destination {
    let Output { clusters, findings, .. } = output;
    let resolved = route::resolve(context, clusters, findings, (service, path), written, weight, site.port());
    upstream(context, clusters, &resolved.destination);
    destination(&resolved.destination)
}

/// Host names with what is built for each.
pub(super) type ByHost<T> = BTreeMap<String, T>;
