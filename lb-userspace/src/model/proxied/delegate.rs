//! Delegates: http routes of one VirtualService that another one's route lets decide.

use std::borrow::Cow;

use super::super::{
    host,
    parse::{Context, Output},
    route::VirtualService,
};
use crate::{
    finding::{Severity, code},
    spec::{
        ObjectName,
        istio::{HttpMatch, HttpRoute},
        value::StringMatch,
    },
};

/// An http route as it is asked: of a VirtualService itself, or of its delegate with the root's fields merged in.
pub struct Entry<'s> {
    /// The object that holds the rule, and the rule's position there.
    pub holder: &'s VirtualService,
    pub index: usize,
    pub route: Cow<'s, HttpRoute>,
    /// For each item of the route's `match`: its position in the holder's list.
    pub items: Vec<Option<usize>>,
}

/// All http routes of a VirtualService in their order, delegates in place of the routes that name them.
pub fn entries<'s>(context: &Context<'s>, output: &mut Output<'_>, root: &'s VirtualService) -> Vec<Entry<'s>> {
    let mut all = Vec::new();
    for (index, route) in root.spec.http.iter().enumerate() {
        let Some(delegate) = &route.delegate else {
            let items = (0..route.r#match.len()).map(Some).collect();
            all.push(Entry { holder: root, index, route: Cow::Borrowed(route), items });
            continue;
        };
        let namespace = delegate.namespace.as_deref().unwrap_or(root.namespace());
        let name = ObjectName { namespace: namespace.into(), name: delegate.name.as_str().into() };
        let known = &context.specs.virtual_services;
        let found = known.binary_search_by(|other| other.name().cmp(&name)).ok().map(|at| &known[at]);
        // That it is not there at all is said of every reference.
        let Some(found) = found else { continue };
        let found = Some(found).filter(|other| other.spec.hosts.is_empty());
        match found.filter(|found| host::exported(&found.spec.export_to, namespace, root.namespace())) {
            Some(found) => delegated(route, found, &mut all),
            None => {
                let message = format!(
                    "there is no VirtualService {namespace}/{} without hosts that is exported to {}; this route yields nothing",
                    delegate.name,
                    root.namespace()
                );
                let path = format!("spec.http[{index}].delegate");
                let remedy = "Define it, leave its `hosts` empty, and export it to this namespace.";
                output.findings.push(root.finding(Severity::Error, code::NOT_FOUND, path, message, remedy));
            }
        }
    }
    all
}

fn delegated<'s>(root: &'s HttpRoute, holder: &'s VirtualService, all: &mut Vec<Entry<'s>>) {
    for (index, leaf) in holder.spec.http.iter().enumerate() {
        // One level only: a delegate of a delegate yields nothing.
        if leaf.delegate.is_some() {
            continue;
        }
        let Some((matches, items)) = merge_matches(&root.r#match, &leaf.r#match) else {
            continue;
        };
        let route = HttpRoute {
            name: join(&root.name, &leaf.name),
            r#match: matches,
            rewrite: leaf.rewrite.clone().or_else(|| root.rewrite.clone()),
            direct_response: leaf.direct_response.clone().or_else(|| root.direct_response.clone()),
            timeout: leaf.timeout.or(root.timeout),
            retries: leaf.retries.clone().or_else(|| root.retries.clone()),
            fault: leaf.fault.clone().or_else(|| root.fault.clone()),
            mirror: leaf.mirror.clone().or_else(|| root.mirror.clone()),
            mirrors: if leaf.mirrors.is_empty() { root.mirrors.clone() } else { leaf.mirrors.clone() },
            mirror_percent: leaf.mirror_percent.or(root.mirror_percent),
            mirror_percentage: leaf.mirror_percentage.or(root.mirror_percentage),
            cors_policy: leaf.cors_policy.clone().or_else(|| root.cors_policy.clone()),
            headers: leaf.headers.clone().or_else(|| root.headers.clone()),
            ..leaf.clone()
        };
        all.push(Entry { holder, index, route: Cow::Owned(route), items });
    }
}

/// Matches with the leaf's position of each; `None` where a match of the leaf is outside of all of the root's.
type Merged = Option<(Vec<HttpMatch>, Vec<Option<usize>>)>;

fn merge_matches(root: &[HttpMatch], leaf: &[HttpMatch]) -> Merged {
    if leaf.is_empty() {
        return Some((root.to_vec(), vec![None; root.len()]));
    }
    if root.is_empty() {
        return Some((leaf.to_vec(), (0..leaf.len()).map(Some).collect()));
    }
    let mut merged = (Vec::new(), Vec::new());
    for (at, narrow) in leaf.iter().enumerate() {
        let before = merged.0.len();
        for wide in root.iter().filter(|wide| refines(wide, narrow)) {
            merged.0.push(merge(wide, narrow));
            merged.1.push(Some(at));
        }
        if merged.0.len() == before {
            return None;
        }
    }
    Some(merged)
}

/// Whether all that `leaf` says lies within what `root` says.
fn refines(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let equal_or_one = |root: Option<&str>, leaf: Option<&str>| root.is_none() || leaf.is_none() || root == leaf;
    texts.iter().all(|(root, leaf)| narrower(root.as_ref(), leaf.as_ref()))
        && maps.iter().all(|(root, leaf)| root.iter().all(|(key, text)| narrower(Some(text), leaf.get(key))))
        && (root.port.is_none() || leaf.port.is_none() || root.port == leaf.port)
        && (root.uri.is_none() || leaf.uri.is_none() || root.ignore_uri_case == leaf.ignore_uri_case)
        && root.source_labels.iter().all(|(key, value)| leaf.source_labels.get(key).is_none_or(|own| own == value))
        && equal_or_one(root.source_namespace.as_deref(), leaf.source_namespace.as_deref())
        && (root.gateways.is_empty() || leaf.gateways.iter().all(|gateway| root.gateways.contains(gateway)))
}

fn narrower(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    use StringMatch::{Exact, Prefix, Present};
    match (root, leaf) {
        (None | Some(Present), _) | (_, None) => true,
        (Some(Prefix(root)), Some(Exact(leaf) | Prefix(leaf))) => leaf.starts_with(root.as_str()),
        (Some(Exact(root)), Some(Exact(leaf))) => root == leaf,
        _ => false,
    }
}

fn merge(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let mut merged = leaf.clone();
    merged.name = join(&root.name, &leaf.name);
    if leaf.uri.is_none() {
        merged.uri = root.uri.clone();
        merged.ignore_uri_case = root.ignore_uri_case;
    }
    merged.scheme = leaf.scheme.clone().or_else(|| root.scheme.clone());
    merged.method = leaf.method.clone().or_else(|| root.method.clone());
    merged.authority = leaf.authority.clone().or_else(|| root.authority.clone());
    merged.port = leaf.port.or(root.port);
    for (into, from) in [
        (&mut merged.headers, &root.headers),
        (&mut merged.without_headers, &root.without_headers),
        (&mut merged.query_params, &root.query_params),
    ] {
        for (key, text) in from {
            into.entry(key.clone()).or_insert_with(|| text.clone());
        }
    }
    merged.source_labels.extend(root.source_labels.clone());
    merged.source_namespace = leaf.source_namespace.clone().or_else(|| root.source_namespace.clone());
    if leaf.gateways.is_empty() {
        merged.gateways = root.gateways.clone();
    }
    merged
}

fn join(root: &Option<String>, leaf: &Option<String>) -> Option<String> {
    match (root, leaf) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (root, leaf) => leaf.clone().or_else(|| root.clone()),
    }
}
