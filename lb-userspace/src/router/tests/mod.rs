//! Each field of the snapshot by itself, and the index against the plain list.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::snapshot::*;

mod actions;
mod conditions;
mod whole;

pub(super) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

pub(super) fn request<'r>(method: &'r str, url: &'r str, headers: &'r HeaderMap) -> Request<'r> {
    let (scheme, rest) = url.split_once("://").unwrap();
    let at = rest.find('/').unwrap();
    let (path, query) = rest[at..].split_once('?').map_or((&rest[at..], None), |(path, query)| (path, Some(query)));
    Request { scheme, method, authority: &rest[..at], path, query, headers, client: None }
}

pub(super) fn destination(host: &str, weight: u32) -> Destination {
    Destination {
        cluster: ClusterName { host: host.into(), subset: None, port: 80 },
        weight,
        broken: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        place: Place::default(),
    }
}

pub(super) fn forward(destinations: Vec<Destination>, rewrite: Rewrite) -> Outcome {
    Outcome::Forward { split: Split { destinations }, rewrite, timeout: None, retry: None, mirrors: Vec::new() }
}

pub(super) fn route(index: u32, condition: Condition, outcome: Outcome) -> Route {
    let source = RuleSource {
        kind: RouteKind::Http,
        virtual_service: Some("shop/web".into()),
        index,
        item: None,
        name: None,
        place: Place { file: "web.yaml".into(), line: index + 1 },
    };
    let action = Action { outcome, fault: None, cors: None, response_headers: Vec::new() };
    Route { source, condition, action: Arc::new(action) }
}

pub(super) fn host(name: &str, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: name.into(), https_redirect: HttpsRedirect::Off, routes, place: Place::default() }
}

pub(super) fn listener(port: u16, addresses: Addresses, chains: Vec<(&[&str], Content)>) -> Listener {
    let chain = |(names, content): (&[&str], Content)| snapshot::Chain {
        names: names.iter().map(|name| Arc::from(*name)).collect(),
        tls: None,
        content,
        gateway: "shop/gate".into(),
        place: Place::default(),
    };
    Listener {
        name: format!("gateway shop/gate :{port}").into(),
        addresses,
        port: NonZeroU16::new(port).unwrap(),
        gateway: "shop/gate".into(),
        chains: chains.into_iter().map(chain).collect(),
        place: Place::default(),
    }
}

pub(super) fn router(listeners: Vec<Listener>) -> Router {
    Router::new(Arc::new(Snapshot { revision: 1, listeners, clusters: Vec::new(), ..Snapshot::default() })).unwrap()
}

/// A router with one host for everything on port 8080.
pub(super) fn only(routes: Vec<Route>) -> Router {
    router(vec![listener(8080, Addresses::Own, vec![(&["*"], Content::Http(vec![host("*", routes)]))])])
}

pub(super) fn only_host(router: &Router) -> super::Host<'_> {
    router.door("10.0.0.1:8080".parse().unwrap()).unwrap().chain(None).unwrap().host("any").unwrap()
}

pub(super) fn uri(text: StringMatch) -> Condition {
    Condition { uri: Some(UriMatch { text, case: Case::Sensitive }), ..Condition::default() }
}

pub(super) const SECOND: Duration = Duration::from_secs(1);
