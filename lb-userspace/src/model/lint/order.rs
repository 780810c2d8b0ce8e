//! tls and tcp routes that no connection can reach, because earlier ones of the same VirtualService take all they would match.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{View, routes::Kind};
use crate::{
    finding::{Finding, Severity, code},
    model::route::{VirtualService, unreached},
    spec::istio::{L4Match, Labels, TlsMatch},
};

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    for service in &view.context.virtual_services {
        server_names(service, findings);
        connections(service, findings);
    }
}

/// One match of one route.
#[derive(Clone, Copy)]
struct Entry<M> {
    route: usize,
    item: Option<usize>,
    matcher: M,
}

impl<M> Entry<M> {
    fn path(&self, kind: Kind) -> String {
        match self.item {
            Some(item) => format!("spec.{}[{}].match[{item}]", kind.field(), self.route),
            None => format!("spec.{}[{}]", kind.field(), self.route),
        }
    }
}

/// At a gateway the first definition of a server name on a port wins.
fn server_names(service: &VirtualService, findings: &mut Vec<Finding>) {
    let mut own: Vec<Entry<&TlsMatch>> = Vec::new();
    for (route, spec) in service.spec.tls.iter().enumerate() {
        let items = spec.r#match.iter().enumerate();
        own.extend(items.map(|(at, matcher)| Entry { route, item: Some(at), matcher }));
    }
    let taken = |earlier: &[Entry<&TlsMatch>], entry: &Entry<&TlsMatch>| {
        let by = |name: &String| {
            earlier
                .iter()
                .position(|one| same_ports(one.matcher, entry.matcher) && one.matcher.sni_hosts.contains(name))
        };
        let names = &entry.matcher.sni_hosts;
        names.iter().all(|name| by(name).is_some()).then(|| by(names.first()?)).flatten()
    };
    for (route, pairs) in covered(&own, taken) {
        let (entry, by) = (&own[pairs[0].0], &own[pairs[0].1]);
        let line = service.origin(&by.path(Kind::Tls)).line;
        let by = format!("{} (line {line}) has its server names already", by.path(Kind::Tls));
        if pairs.len() == own.iter().filter(|one| one.route == route).count() && own[pairs[0].1].route != route {
            let message = format!("no connection reaches this route: {by}");
            let remedy = "Remove it, or give it server names of its own.";
            let path = format!("spec.tls[{route}]");
            findings.push(service.finding(Severity::Warning, code::UNREACHABLE_RULE, path, message, remedy));
        } else {
            let message = format!("this match has no effect: {by}");
            findings.push(ineffective(service, entry.path(Kind::Tls), message));
        }
    }
}

/// For TCP the first route that fits is the only one.
fn connections(service: &VirtualService, findings: &mut Vec<Finding>) {
    let mut own: Vec<Entry<Option<&L4Match>>> = Vec::new();
    for (route, spec) in service.spec.tcp.iter().enumerate() {
        if spec.r#match.is_empty() {
            own.push(Entry { route, item: None, matcher: None });
        }
        let items = spec.r#match.iter().enumerate();
        own.extend(items.map(|(at, matcher)| Entry { route, item: Some(at), matcher: matcher.as_ref() }));
    }
    let taken = |earlier: &[Entry<Option<&L4Match>>], entry: &Entry<Option<&L4Match>>| {
        earlier.iter().position(|one| takes(one.matcher, entry.matcher))
    };
    for (route, pairs) in covered(&own, taken) {
        let dead = pairs.len() == own.iter().filter(|one| one.route == route).count();
        let by = pairs.iter().map(|(_, by)| own[*by].route).find(|by| *by != route).filter(|_| dead);
        if let Some(by) = by {
            findings.push(unreached(service, route, (service, by)));
            continue;
        }
        for (entry, by) in pairs {
            let by = own[by].path(Kind::Tcp);
            let message =
                format!("this match has no effect: {by} (line {}) takes all it could", service.origin(&by).line);
            findings.push(ineffective(service, own[entry].path(Kind::Tcp), message));
        }
    }
}

fn ineffective(service: &VirtualService, path: String, message: String) -> Finding {
    let remedy = "Remove it, or move it in front of the wider one.";
    service.finding(Severity::Info, code::INEFFECTIVE_MATCH, path, message, remedy)
}

/// By route, the entries that are covered, each with the one that covers it, by their positions.
fn covered<M>(
    own: &[Entry<M>],
    taken: impl Fn(&[Entry<M>], &Entry<M>) -> Option<usize>,
) -> BTreeMap<usize, Vec<(usize, usize)>> {
    let mut all: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, entry) in own.iter().enumerate() {
        if let Some(by) = taken(&own[..at], entry) {
            all.entry(entry.route).or_default().push((at, by));
        }
    }
    all
}

/// What tls and tcp matches share.
struct Common<'s> {
    port: Option<u32>,
    gateways: &'s [String],
    subnets: &'s [String],
    labels: &'s Labels,
    namespace: Option<&'s str>,
}

impl<'s> Common<'s> {
    fn of_tls(item: &'s TlsMatch) -> Common<'s> {
        let TlsMatch { port, gateways, destination_subnets, source_labels, source_namespace, .. } = item;
        let namespace = source_namespace.as_deref();
        Common { port: *port, gateways, subnets: destination_subnets, labels: source_labels, namespace }
    }

    fn of_tcp(item: &'s L4Match) -> Common<'s> {
        let L4Match { port, gateways, destination_subnets, source_labels, source_namespace, .. } = item;
        let namespace = source_namespace.as_deref();
        Common { port: *port, gateways, subnets: destination_subnets, labels: source_labels, namespace }
    }

    /// Whether every connection that `later` is asked for is one that this is asked for.
    fn is_over(&self, later: &Common<'_>) -> bool {
        let port = self.port.is_none_or(|port| port == 0 || later.port == Some(port));
        let gateways = self.gateways.is_empty()
            || (!later.gateways.is_empty() && later.gateways.iter().all(|gateway| self.gateways.contains(gateway)));
        let inside = |subnet: &String| self.subnets.iter().any(|wide| wide == subnet || contains(wide, subnet));
        let subnets = self.subnets.is_empty() || (!later.subnets.is_empty() && later.subnets.iter().all(inside));
        let labels = self.labels.iter().all(|(key, value)| later.labels.get(key) == Some(value));
        port && gateways && subnets && labels && (self.namespace.is_none() || self.namespace == later.namespace)
    }
}

/// Whether a subnet lies inside another; an address is one of its own.
fn contains(wide: &str, narrow: &str) -> bool {
    let net =
        |text: &str| text.parse::<IpNet>().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)));
    net(wide).zip(net(narrow)).is_some_and(|(wide, narrow)| wide.contains(&narrow))
}

fn same_ports(earlier: &TlsMatch, later: &TlsMatch) -> bool {
    Common::of_tls(earlier).is_over(&Common::of_tls(later))
}

/// Whether a match, or its absence, fits every connection that another one fits.
fn takes(earlier: Option<&L4Match>, later: Option<&L4Match>) -> bool {
    let any = L4Match::default();
    Common::of_tcp(earlier.unwrap_or(&any)).is_over(&Common::of_tcp(later.unwrap_or(&any)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_what() {
        let item = |json: &str| -> L4Match { serde_json::from_str(json).unwrap() };
        for (a, b, expected) in [
            ("{}", r#"{"port": 1}"#, true),
            (r#"{"port": 1}"#, "{}", false),
            (r#"{"port": 1}"#, r#"{"port": 1, "gateways": ["g"]}"#, true),
            (r#"{"gateways": ["g"]}"#, r#"{"port": 1}"#, false),
            (
                r#"{"destinationSubnets": ["10.0.0.0/8"]}"#,
                r#"{"destinationSubnets": ["10.1.0.0/16", "10.2.0.1"]}"#,
                true,
            ),
            (
                r#"{"destinationSubnets": ["10.0.0.0/8"]}"#,
                r#"{"destinationSubnets": ["10.1.0.0/16", "11.0.0.1"]}"#,
                false,
            ),
            (r#"{"destinationSubnets": ["10.0.0.0/8"]}"#, "{}", false),
            (r#"{"sourceLabels": {"a": "b"}}"#, r#"{"sourceLabels": {"a": "b", "c": "d"}}"#, true),
            (r#"{"sourceNamespace": "n"}"#, r#"{"sourceNamespace": "m"}"#, false),
        ] {
            assert_eq!(takes(Some(&item(a)), Some(&item(b))), expected, "{a} over {b}");
        }
        assert!(takes(None, None) && takes(None, Some(&item(r#"{"port": 1}"#))));
    }
}
