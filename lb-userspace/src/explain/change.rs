//! What a change of configuration changes: objects by name, and the exact share of new flows that go elsewhere. Compares
//! described and filled tables by name and address, so that numbers do not matter.

use super::moved::moved;
use crate::{
    image::{Image, RuleTable},
    model::{Action, Destination, Listener, Model, Origin, Rule},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

/// Tables of one side of a comparison, and the model they come from where it is known (a running agent tells its tables
/// only).
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub image: &'a Image,
    pub model: Option<&'a Model>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Listener,
    /// An address that a listener has.
    Vip,
    /// The VirtualService's rule that a listener takes.
    Route,
    /// What of a flow is hashed.
    Hash,
    Destination,
    Weight,
    Subset,
    Backend,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Listener => "listener",
            Kind::Vip => "vip",
            Kind::Route => "route",
            Kind::Hash => "hash",
            Kind::Destination => "destination",
            Kind::Weight => "weight",
            Kind::Subset => "subset",
            Kind::Backend => "backend",
        }
    }
}

/// One difference. `before` is null for what is new, `after` for what is gone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub kind: Kind,
    /// `Kind namespace/name`, a listener's or a cluster's name.
    pub object: String,
    /// In the new configuration; of what is gone, in the old one.
    pub file: Option<String>,
    pub line: Option<u32>,
    /// What of the object: a destination or an address; empty for the whole.
    pub what: String,
    pub before: Value,
    pub after: Value,
}

/// A rule some of whose new flows go elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleChange {
    pub rule: String,
    /// Share of the hash space, 0 to 1, whose destination or backend differs; of the two address families the larger.
    pub new_flows_moved: f64,
}

/// Every difference, listeners first.
pub fn changes(old: Side<'_>, new: Side<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let (before, after) = (listeners(old.image), listeners(new.image));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(before), Some(after)) => listener(name, (old, before), (new, after), &mut changes),
            (Some(gone), None) => changes.push(whole(name, old, gone, Value::from(summary(gone)), Value::Null)),
            (None, Some(added)) => changes.push(whole(name, new, added, Value::Null, Value::from(summary(added)))),
            (None, None) => {}
        }
    }
    clusters(old, new, &mut changes);
    changes.sort_by(|a, b| (a.kind, &a.object, &a.what).cmp(&(b.kind, &b.object, &b.what)));
    changes
}

/// Rules of both sides whose tables differ.
pub fn rules(old: &Image, new: &Image) -> Vec<RuleChange> {
    let by_name = |image: &'_ Image| -> BTreeMap<Arc<str>, Arc<RuleTable>> {
        image.rules.values().map(|table| (table.name.clone(), table.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, table) in &after {
        let Some(former) = before.get(name) else { continue };
        if let Some(share) = moved((old, former), (new, table)) {
            let most = shares.entry(without_family(name)).or_default();
            *most = most.max(share);
        }
    }
    shares.into_iter().map(|(rule, new_flows_moved)| RuleChange { rule: rule.to_owned(), new_flows_moved }).collect()
}

/// Rule and subset names end with the address family.
fn without_family(name: &str) -> &str {
    name.strip_suffix(" V4").or_else(|| name.strip_suffix(" V6")).unwrap_or(name)
}

/// A listener's tables; destinations and weights are those of either family.
fn listeners(image: &Image) -> BTreeMap<&str, &RuleTable> {
    image.rules.values().map(|table| (without_family(&table.name), &**table)).collect()
}

fn summary(table: &RuleTable) -> String {
    let one = |destination: &crate::image::RuleDestination| format!("{} {}", destination.weight, destination.name);
    table.destinations.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn origin(at: Option<&Origin>) -> (Option<String>, Option<u32>) {
    (at.map(|at| at.file.to_string()), at.map(|at| at.line))
}

fn whole(name: &str, side: Side<'_>, table: &RuleTable, before: Value, after: Value) -> Change {
    let (file, line) = origin(listener_of(side, table).map(|listener| &listener.origin));
    Change { kind: Kind::Listener, object: name.to_owned(), file, line, what: String::new(), before, after }
}

fn listener_of<'a>(side: Side<'a>, table: &RuleTable) -> Option<&'a Listener> {
    let (id, _) = side.image.rules.iter().find(|(_, known)| std::ptr::eq(&***known, table))?;
    side.model?.listeners.get(*side.image.listeners.get(id)?).map(|listener| &**listener)
}

fn rule_of<'a>(side: Side<'a>, table: &RuleTable) -> Option<&'a Rule> {
    match &listener_of(side, table)?.action {
        Action::Tcp(rule) => Some(rule),
        Action::Proxy(_) => None,
    }
}

fn listener(
    name: &str,
    (old, before): (Side<'_>, &RuleTable),
    (new, after): (Side<'_>, &RuleTable),
    changes: &mut Vec<Change>,
) {
    let rules = (rule_of(old, before), rule_of(new, after));
    let (file, line) = origin(rules.1.map(|rule| &rule.origin));
    let object = rules.1.and_then(|rule| rule.virtual_service.as_ref());
    let object = object.map_or_else(|| name.to_owned(), |service| format!("VirtualService {service}"));
    if let (Some(before), Some(after)) = rules
        && (route(before) != route(after))
    {
        let (before, after) = (json!(route(before)), json!(route(after)));
        let (file, line, object) = (file.clone(), line, name.to_owned());
        changes.push(Change { kind: Kind::Route, object, file, line, what: String::new(), before, after });
    }
    if before.hash != after.hash {
        let (object, before, after) = (name.to_owned(), json!(hash(before)), json!(hash(after)));
        changes.push(Change { kind: Kind::Hash, object, file: file.clone(), line, what: String::new(), before, after });
    }
    let (weights, next) = (weights(before), weights(after));
    let names: BTreeSet<&str> = weights.keys().chain(next.keys()).copied().collect();
    for name in names {
        let (was, is) = (weights.get(name), next.get(name));
        let written = destination(rules.1, name).or_else(|| destination(rules.0, name));
        let (file, line) = match origin(written.map(|written| &written.origin)) {
            (None, None) => (file.clone(), line),
            found => found,
        };
        let mut push = |kind, before: Value, after: Value| {
            let (object, file, what) = (object.clone(), file.clone(), name.to_owned());
            changes.push(Change { kind, object, file, line, what, before, after });
        };
        let weight = |of: Option<&(u64, bool)>| of.map_or(Value::Null, |(weight, _)| json!(weight));
        match (was, is) {
            (Some((was, served)), Some((is, serves))) => {
                if was != is {
                    push(Kind::Weight, json!(was), json!(is));
                }
                if served != serves {
                    let state = |serves: bool| if serves { "served" } else { "refused" };
                    push(Kind::Destination, json!(state(*served)), json!(state(*serves)));
                }
            }
            _ => push(Kind::Destination, weight(was), weight(is)),
        }
    }
    vips(name, (old, before), (new, after), (file, line), changes);
}

fn route(rule: &Rule) -> String {
    let item = rule.match_index.map(|item| format!(".match[{item}]")).unwrap_or_default();
    match &rule.virtual_service {
        Some(service) => format!("VirtualService {service} spec.tcp[{}]{item}", rule.index),
        None => "all endpoints of the Service".to_owned(),
    }
}

fn hash(table: &RuleTable) -> &'static str {
    match table.hash {
        lb_common::flow::HashKey::Flow => "flow",
        lb_common::flow::HashKey::SourceIp => "sourceIp",
    }
}

/// Weight by destination, and whether it exists. A destination that is written twice has both weights.
fn weights(table: &RuleTable) -> BTreeMap<&str, (u64, bool)> {
    let mut weights: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    for destination in &table.destinations {
        let entry = weights.entry(&destination.name).or_default();
        entry.0 += u64::from(destination.weight);
        entry.1 |= destination.subset.is_some();
    }
    weights
}

fn destination<'a>(rule: Option<&'a Rule>, name: &str) -> Option<&'a Destination> {
    let same = |destination: &&Destination| {
        let subset = destination.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
        name == format!("{}:{}{subset}", destination.host, destination.port)
    };
    rule?.destinations.iter().find(same)
}

fn vips(
    name: &str,
    (old, before): (Side<'_>, &RuleTable),
    (new, after): (Side<'_>, &RuleTable),
    (file, line): (Option<String>, Option<u32>),
    changes: &mut Vec<Change>,
) {
    let of = |side: Side<'_>, table: &RuleTable| -> BTreeSet<SocketAddr> {
        let own = |id: &crate::image::RuleId| {
            side.image.rules.get(id).is_some_and(|rule| without_family(&rule.name) == without_family(&table.name))
        };
        let own = side.image.vips.iter().filter(|(_, to)| own(&to.rule));
        own.map(|(vip, _)| vip.socket()).collect()
    };
    let (before, after) = (of(old, before), of(new, after));
    for vip in before.symmetric_difference(&after) {
        let text = |set: &BTreeSet<SocketAddr>| if set.contains(vip) { json!(vip.to_string()) } else { Value::Null };
        changes.push(Change {
            kind: Kind::Vip,
            object: name.to_owned(),
            file: file.clone(),
            line,
            what: vip.to_string(),
            before: text(&before),
            after: text(&after),
        });
    }
}

type Members = BTreeMap<SocketAddr, u32>;

fn members(image: &Image) -> BTreeMap<&str, Members> {
    let mut all: BTreeMap<&str, Members> = BTreeMap::new();
    for table in image.subsets.values() {
        let own = all.entry(without_family(&table.name)).or_default();
        own.extend(table.members.iter().map(|member| (member.address, member.weight)));
    }
    all
}

fn clusters(old: Side<'_>, new: Side<'_>, changes: &mut Vec<Change>) {
    let (before, after) = (members(old.image), members(new.image));
    let place = |side: Side<'_>, name: &str| {
        let cluster = side.model?.clusters.iter().find(|(cluster, _)| cluster.to_string() == name);
        cluster.map(|(_, cluster)| cluster.origin.clone())
    };
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    for name in names {
        let (was, is) = (before.get(name), after.get(name));
        if was == is {
            continue;
        }
        let (file, line) = origin(place(new, name).or_else(|| place(old, name)).as_ref());
        let mut push = |kind, what: String, before: Value, after: Value| {
            changes.push(Change { kind, object: name.to_owned(), file: file.clone(), line, what, before, after });
        };
        let (Some(was), Some(is)) = (was, is) else {
            let count = |members: Option<&Members>| members.map_or(Value::Null, |members| json!(members.len()));
            push(Kind::Subset, String::new(), count(was), count(is));
            continue;
        };
        let addresses: BTreeSet<&SocketAddr> = was.keys().chain(is.keys()).collect();
        for address in addresses.into_iter().filter(|address| was.get(address) != is.get(address)) {
            let weight = |members: &Members| members.get(address).map_or(Value::Null, |weight| json!(weight));
            push(Kind::Backend, address.to_string(), weight(was), weight(is));
        }
    }
}
