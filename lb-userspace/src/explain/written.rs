//! What a change of configuration changes for traffic whose bytes are read: http and tls routes, and the listeners that need a
//! proxy. No table holds them, so the objects themselves are compared.

use super::change::{Change, Kind, RuleChange};
use crate::{
    model::{Action, Model},
    spec::{
        Object, Specs,
        istio::{Destination, VirtualService},
    },
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub specs: &'a Specs,
    pub model: &'a Model,
}

/// Every difference, listeners first, and for each route whose weights differ the share of new requests that go elsewhere.
pub fn changes(old: Side<'_>, new: Side<'_>) -> (Vec<Change>, Vec<RuleChange>) {
    let (mut changes, mut rules) = (listeners(old.model, new.model), Vec::new());
    let by_name = |specs: &'_ Specs| -> BTreeMap<String, Arc<Object<VirtualService>>> {
        specs.virtual_services.iter().map(|service| (service.name().to_string(), service.clone())).collect()
    };
    let (before, after) = (by_name(old.specs), by_name(new.specs));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let was = before.get(name).map(routes).unwrap_or_default();
        let is = after.get(name).map(routes).unwrap_or_default();
        let pairs = pairs(&was, &is);
        moved_places(&pairs, &mut changes);
        for (was, is) in pairs {
            route(was, is, &mut changes, &mut rules);
        }
    }
    changes.sort_by(|a, b| (a.kind, &a.object, &a.what).cmp(&(b.kind, &b.object, &b.what)));
    (changes, rules)
}

fn listeners(old: &Model, new: &Model) -> Vec<Change> {
    let all = |model: &Model| -> BTreeMap<String, (String, String, u32)> {
        let proxied = model.listeners.iter().filter(|listener| !matches!(listener.action, Action::Tcp(_)));
        let one = |listener: &Arc<crate::model::Listener>| {
            let protocol = format!("{:?}", listener.protocol).to_uppercase();
            (listener.door.to_string(), (protocol, listener.origin.file.to_string(), listener.origin.line))
        };
        proxied.map(one).collect()
    };
    let (before, after) = (all(old), all(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (was, is) = (before.get(name), after.get(name));
        let protocol =
            |side: Option<&(String, String, u32)>| side.map_or(Value::Null, |(protocol, ..)| json!(protocol));
        if protocol(was) == protocol(is) {
            continue;
        }
        let place = is.or(was);
        changes.push(Change {
            kind: Kind::Listener,
            object: name.clone(),
            file: place.map(|(_, file, _)| file.clone()),
            line: place.map(|(_, _, line)| *line),
            what: "proxy".to_owned(),
            before: protocol(was),
            after: protocol(is),
        });
    }
    changes
}

/// One http or tls route as written.
struct Route {
    service: Arc<Object<VirtualService>>,
    /// `spec.http[0]`
    path: String,
    /// Among the http, or after them the tls routes.
    place: usize,
    /// What a route is known by: its kind, name and matches.
    identity: String,
    /// Everything but the weighted destinations.
    rest: String,
    destinations: BTreeMap<String, u64>,
}

impl Route {
    fn object(&self) -> String {
        format!("{} {}", self.service.key, self.path)
    }

    fn sum(&self) -> u64 {
        self.destinations.values().sum()
    }
}

fn routes(service: &Arc<Object<VirtualService>>) -> Vec<Route> {
    let mut all = Vec::new();
    for (at, route) in service.spec.http.iter().enumerate() {
        let entries = route.route.iter().map(|entry| (entry.destination.as_ref(), entry.weight));
        let identity = format!("http {:?} {:?}", route.name, route.r#match);
        let headers: Vec<_> = route.route.iter().map(|entry| &entry.headers).collect();
        let rest = format!("{:?} {headers:?}", crate::spec::istio::HttpRoute { route: Vec::new(), ..route.clone() });
        let destinations = destinations(entries.collect());
        all.push(Route {
            service: service.clone(),
            path: format!("spec.http[{at}]"),
            place: at,
            identity,
            rest,
            destinations,
        });
    }
    for (at, route) in service.spec.tls.iter().enumerate() {
        let entries = route.route.iter().map(|entry| (entry.destination.as_ref(), entry.weight));
        let identity = format!("tls {:?}", route.r#match);
        let destinations = destinations(entries.collect());
        let rest = identity.clone();
        all.push(Route {
            service: service.clone(),
            path: format!("spec.tls[{at}]"),
            place: service.spec.http.len() + at,
            identity,
            rest,
            destinations,
        });
    }
    all
}

/// Weights by destination; a single one has everything whatever its weight.
fn destinations(entries: Vec<(Option<&Destination>, Option<i32>)>) -> BTreeMap<String, u64> {
    let alone = entries.len() == 1;
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (destination, weight) in entries {
        let Some(to) = destination else { continue };
        let port = to.port.map(|port| format!(":{}", port.number)).unwrap_or_default();
        let subset = to.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
        let weight = if alone { 100 } else { u64::try_from(weight.unwrap_or(0)).unwrap_or(0) };
        *all.entry(format!("{}{port}{subset}", to.host)).or_default() += weight;
    }
    all
}

/// Routes that are the same one before and after: by name and matches, in order; what is left over by its place.
fn pairs<'r>(was: &'r [Route], is: &'r [Route]) -> Vec<(Option<&'r Route>, Option<&'r Route>)> {
    let mut pairs = Vec::new();
    let mut left: Vec<&Route> = was.iter().collect();
    let mut new = Vec::new();
    for route in is {
        match left.iter().position(|other| other.identity == route.identity) {
            Some(at) => pairs.push((Some(left.remove(at)), Some(route))),
            None => new.push(route),
        }
    }
    for route in new {
        let at = left.iter().position(|other| other.path == route.path);
        pairs.push((at.map(|at| left.remove(at)), Some(route)));
    }
    pairs.extend(left.into_iter().map(|gone| (Some(gone), None)));
    pairs
}

/// Routes that stay and are asked in another order; which routes came or went between them does not matter.
fn moved_places(pairs: &[(Option<&Route>, Option<&Route>)], changes: &mut Vec<Change>) {
    let mut stay: Vec<(&Route, &Route)> = pairs.iter().filter_map(|(was, is)| Some(((*was)?, (*is)?))).collect();
    let place = |route: &Route| route.place;
    stay.sort_by_key(|(was, _)| place(was));
    let before: Vec<_> = stay.iter().map(|(_, is)| is.path.clone()).collect();
    stay.sort_by_key(|(_, is)| place(is));
    for ((was, is), former) in stay.iter().zip(before) {
        if is.path == former {
            continue;
        }
        let at = is.service.origin(&is.path);
        changes.push(Change {
            kind: Kind::Route,
            object: is.object(),
            file: Some(at.file.to_string()),
            line: Some(at.line),
            what: "place".to_owned(),
            before: json!(was.path),
            after: json!(is.path),
        });
    }
}

fn route(was: Option<&Route>, is: Option<&Route>, changes: &mut Vec<Change>, rules: &mut Vec<RuleChange>) {
    let Some(place) = is.or(was) else { return };
    let at = place.service.origin(&place.path);
    let mut push = |kind, what: &str, before: Value, after: Value| {
        let (file, line) = (Some(at.file.to_string()), Some(at.line));
        changes.push(Change { kind, object: place.object(), file, line, what: what.to_owned(), before, after });
    };
    let (Some(was), Some(is)) = (was, is) else {
        let summary = |route: Option<&Route>| route.map_or(Value::Null, |route| json!(summary(route)));
        return push(Kind::Route, "", summary(was), summary(is));
    };
    if was.identity != is.identity {
        push(Kind::Route, "match", json!("as it was"), json!("changed"));
    } else if was.rest != is.rest {
        push(Kind::Route, "settings", json!("as they were"), json!("changed"));
    }
    let names: BTreeSet<&String> = was.destinations.keys().chain(is.destinations.keys()).collect();
    for name in names {
        let (before, after) = (was.destinations.get(name), is.destinations.get(name));
        if before != after {
            let kind = if before.is_some() && after.is_some() { Kind::Weight } else { Kind::Destination };
            push(kind, name, json!(before), json!(after));
        }
    }
    if was.destinations != is.destinations {
        rules.push(RuleChange { rule: is.object(), new_flows_moved: moved(was, is) });
    }
}

/// Each request is drawn anew: what the two distributions do not share goes elsewhere.
fn moved(was: &Route, is: &Route) -> f64 {
    let share = |route: &Route, name: &String| match route.sum() {
        0 => 0.0,
        sum => route.destinations.get(name).copied().unwrap_or(0) as f64 / sum as f64,
    };
    // Whatever a route without destinations does (redirect, answer), it is not this.
    let stays: f64 = was.destinations.keys().map(|name| share(was, name).min(share(is, name))).sum();
    1.0 - stays
}

fn summary(route: &Route) -> String {
    let one = |(name, weight): (&String, &u64)| format!("{weight} {name}");
    match route.destinations.is_empty() {
        true => "no destination".to_owned(),
        false => route.destinations.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}
