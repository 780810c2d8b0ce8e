//! http routes that no request can reach, because an earlier one takes all it would match.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    View,
    cover::{covers, is_catch_all},
    routes::{Kind, place},
};
use crate::{
    finding::{Finding, Severity, code},
    model::{ObjectName, gateway::export_rank, route::VirtualService},
    spec::istio::HttpMatch,
};

/// More entries than this for one host of one gateway are not compared with each other: their number counts twice.
const MOST: usize = 4_000;

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    let any = HttpMatch::default();
    let all = asked(view, &any);
    for one in all.values() {
        within(&one.entries, findings);
    }
    between(view, &all, findings);
}

/// One match of one http route; a route without matches has one that takes everything.
#[derive(Clone, Copy)]
struct Entry<'s> {
    service: &'s VirtualService,
    route: usize,
    item: Option<usize>,
    matcher: &'s HttpMatch,
    /// A delegate's routes may leave requests to the routes that follow.
    takes_all: bool,
}

impl Entry<'_> {
    fn path(&self) -> String {
        match self.item {
            Some(item) => format!("spec.http[{}].match[{item}]", self.route),
            None => format!("spec.http[{}]", self.route),
        }
    }

    fn is_over(&self, later: &Entry<'_>) -> bool {
        self.takes_all && covers(self.matcher, later.matcher)
    }
}

fn entries<'s>(service: &'s VirtualService, any: &'s HttpMatch) -> Vec<Entry<'s>> {
    let mut entries = Vec::new();
    for (route, spec) in service.spec.http.iter().enumerate() {
        let takes_all = spec.delegate.is_none();
        if spec.r#match.is_empty() {
            entries.push(Entry { service, route, item: None, matcher: any, takes_all });
        }
        let items = spec.r#match.iter().enumerate();
        entries.extend(items.map(|(at, matcher)| Entry { service, route, item: Some(at), matcher, takes_all }));
    }
    entries
}

/// Inside one VirtualService list order is law.
fn within(own: &[Entry<'_>], findings: &mut Vec<Finding>) {
    let mut covered: BTreeMap<usize, Vec<(Entry<'_>, Entry<'_>)>> = BTreeMap::new();
    for (at, entry) in own.iter().enumerate() {
        if let Some(by) = own[..at].iter().find(|earlier| earlier.is_over(entry)) {
            covered.entry(entry.route).or_default().push((*entry, *by));
        }
    }
    for (route, pairs) in covered {
        let all = own.iter().filter(|entry| entry.route == route).count();
        let dead = pairs.len() == all && pairs.iter().any(|(_, by)| by.route != route);
        if dead {
            findings.push(unreachable(&pairs));
            continue;
        }
        for (entry, by) in pairs {
            let line = by.service.origin(&by.path()).line;
            let message = format!("this match has no effect: {} (line {line}) takes all it could", by.path());
            let remedy = "Remove it, or move it in front of the wider one.";
            findings.push(entry.service.finding(
                Severity::Info,
                code::INEFFECTIVE_MATCH,
                entry.path(),
                message,
                remedy,
            ));
        }
    }
}

fn unreachable(pairs: &[(Entry<'_>, Entry<'_>)]) -> Finding {
    let (entry, _) = pairs[0];
    let mut winners: Vec<String> = Vec::new();
    for (_, by) in pairs {
        let line = by.service.origin(&by.path()).line;
        let winner = format!("{} (line {line})", by.path());
        if !winners.contains(&winner) {
            winners.push(winner);
        }
    }
    let takes = if winners.len() == 1 { "takes" } else { "take" };
    let message = format!("no request reaches this route: {} {takes} all it could match", winners.join(", "));
    let remedy = "Move the narrower route in front of the wider one, or remove it.";
    let path = format!("spec.http[{}]", entry.route);
    entry.service.finding(Severity::Warning, code::UNREACHABLE_RULE, path, message, remedy)
}

/// One VirtualService with its entries, and where they are asked.
struct Asked<'s> {
    entries: Vec<Entry<'s>>,
    gateways: BTreeSet<&'s ObjectName>,
    mesh: bool,
}

fn asked<'s>(view: &'s View<'s>, any: &'s HttpMatch) -> BTreeMap<&'s ObjectName, Asked<'s>> {
    let mut all = BTreeMap::new();
    for route in view.routes.iter().filter(|route| route.kind == Kind::Http) {
        let one = all.entry(route.service.name()).or_insert_with(|| Asked {
            entries: entries(route.service, any),
            gateways: BTreeSet::new(),
            mesh: false,
        });
        one.gateways.extend(&route.gateways);
        one.mesh |= route.mesh;
    }
    all
}

/// VirtualServices that share a host at a Gateway are asked oldest first, catch-alls of all of them last.
fn between(view: &View<'_>, all: &BTreeMap<&ObjectName, Asked<'_>>, findings: &mut Vec<Finding>) {
    let mut shared: BTreeMap<(&ObjectName, String), Vec<Entry<'_>>> = BTreeMap::new();
    for asked in all.values() {
        let Some(service) = asked.entries.first().map(|entry| entry.service) else { continue };
        for host in &service.spec.hosts {
            let host = view.context.full_host(host, service.namespace());
            for gateway in &asked.gateways {
                shared.entry((gateway, host.clone())).or_default().extend(&asked.entries);
            }
        }
    }
    let mut lost: BTreeMap<(&ObjectName, usize), Vec<(Entry<'_>, Entry<'_>)>> = BTreeMap::new();
    for entries in shared.values_mut().filter(|entries| entries.len() <= MOST) {
        entries.sort_by_key(|entry| {
            let rank = export_rank(&entry.service.spec.export_to, entry.service.namespace());
            (is_catch_all(entry.matcher), rank, entry.service.created, entry.service.name().clone(), entry.route)
        });
        for (at, entry) in entries.iter().enumerate() {
            let foreign =
                |earlier: &&Entry<'_>| earlier.service.name() != entry.service.name() && earlier.is_over(entry);
            if let Some(by) = entries[..at].iter().find(foreign) {
                lost.entry((entry.service.name(), entry.route)).or_default().push((*entry, *by));
            }
        }
    }
    for ((name, route), pairs) in lost {
        let (entry, by) = pairs[0];
        let asked = &all[name];
        let matches = asked.entries.iter().filter(|entry| entry.route == route).count();
        let places = asked.gateways.len() * entry.service.spec.hosts.len();
        // Else it is reached somewhere: at another host, at another gateway, or in the mesh.
        if !asked.mesh && pairs.len() == matches * places {
            findings.push(taken(&entry, &by));
        }
    }
}

fn taken(entry: &Entry<'_>, by: &Entry<'_>) -> Finding {
    let message = format!(
        "no request reaches this route: {} comes first for the same host and takes all it could match",
        place(by.service, &by.path())
    );
    let remedy =
        "Put the routes of both into one VirtualService, in the order that is meant, or give them different hosts.";
    let path = format!("spec.http[{}]", entry.route);
    entry.service.finding(Severity::Warning, code::HOST_TAKEN, path, message, remedy)
}
