//! Two objects that claim one name or address: who wins, and what the other loses.

use std::collections::BTreeMap;

use super::View;
use crate::{
    finding::{Finding, Severity, code},
    model::registry::{Definition, PortProtocol, Service},
    spec::{
        Object,
        istio::{DestinationRule, Port},
    },
};

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    hosts(view, findings);
    addresses(view, findings);
    rules(view, findings);
}

fn place(service: &Service) -> String {
    let kind = match &service.definition {
        Definition::Service(_) => "Service",
        Definition::Entry(_) => "ServiceEntry",
    };
    let at = service.origin("");
    format!("{kind} {} ({}:{})", service.name(), at.file, at.line)
}

fn report(loser: &Service, code: &'static str, path: &str, message: String, remedy: &str) -> Finding {
    match &loser.definition {
        Definition::Service(object) => object.finding(Severity::Warning, code, path, message, remedy),
        Definition::Entry(object) => object.finding(Severity::Warning, code, path, message, remedy),
    }
}

/// One host of two definitions: the registry takes the first.
fn hosts(view: &View<'_>, findings: &mut Vec<Finding>) {
    for service in view.context.registry.all() {
        let Some(winner) = view.context.registry.get(&service.host) else { continue };
        if std::ptr::eq(winner, service) {
            continue;
        }
        let differ = disagree(winner, service);
        let (code, message) = match differ {
            Some(port) => (
                code::ENTRIES_DISAGREE,
                format!(
                    "host {} is also that of {}, which wins and says that port {port} carries another protocol",
                    service.host,
                    place(winner)
                ),
            ),
            None => (
                code::HOST_DEFINED_TWICE,
                format!(
                    "host {} is also that of {}, which wins; this definition of it is not used",
                    service.host,
                    place(winner)
                ),
            ),
        };
        let at = match &service.definition {
            Definition::Entry(entry) => {
                entry.spec.hosts.iter().position(|host| host.eq_ignore_ascii_case(&service.host))
            }
            Definition::Service(_) => None,
        };
        let path = at.map(|at| format!("spec.hosts[{at}]")).unwrap_or_default();
        let remedy = "Remove one of the two, or give them different hosts.";
        findings.push(report(service, code, &path, message, remedy));
    }
}

/// A port of which two ServiceEntries say different protocols.
fn disagree(a: &Service, b: &Service) -> Option<u32> {
    let (Definition::Entry(a), Definition::Entry(b)) = (&a.definition, &b.definition) else { return None };
    let mut ports = a.spec.ports.iter();
    let other = |port: &Port| {
        b.spec
            .ports
            .iter()
            .any(|other| other.number == port.number && !other.protocol.eq_ignore_ascii_case(&port.protocol))
    };
    ports.find(|port| other(port)).map(|port| port.number)
}

/// One address and port of two services: whose connection is it?
fn addresses(view: &View<'_>, findings: &mut Vec<Finding>) {
    let mut taken: BTreeMap<(std::net::IpAddr, u16), &Service> = BTreeMap::new();
    for service in view.context.registry.all() {
        for (at, port) in service.ports.iter().enumerate().filter(|(_, port)| port.protocol != PortProtocol::Udp) {
            for address in &service.addresses {
                let winner = *taken.entry((*address, port.number)).or_insert(service);
                // HTTP on one address is told apart by the Host header, TLS by its server name.
                let apart = |service: &Service| {
                    let found = service.ports.iter().find(|other| other.number == port.number);
                    found.is_some_and(|port| !matches!(port.protocol, PortProtocol::Tcp | PortProtocol::Unknown))
                };
                if winner.host == service.host || winner.name() == service.name() || (apart(winner) && apart(service)) {
                    continue;
                }
                let to = std::net::SocketAddr::new(*address, port.number);
                let message = format!(
                    "{to} is also of {}, which comes first: connections to it cannot be told apart",
                    place(winner)
                );
                let path = format!("spec.ports[{at}]");
                let remedy = "Give the two different addresses or ports.";
                findings.push(report(service, code::ADDRESS_TAKEN, &path, message, remedy));
            }
        }
    }
}

/// DestinationRules for one host in one namespace are read as one.
fn rules(view: &View<'_>, findings: &mut Vec<Finding>) {
    let mut rules: Vec<&Object<DestinationRule>> =
        view.context.specs.destination_rules.iter().map(|rule| &**rule).collect();
    rules.sort_by_key(|rule| (rule.created, rule.name().clone()));
    let mut by_host: BTreeMap<(&str, String), Vec<&Object<DestinationRule>>> = BTreeMap::new();
    for rule in rules {
        let host = view.context.full_host(&rule.spec.host, rule.namespace());
        let older = by_host.entry((rule.namespace(), host)).or_default();
        let at = |rule: &Object<DestinationRule>, path: &str| {
            format!("DestinationRule {} ({}:{})", rule.name(), rule.file, rule.origin(path).line)
        };
        let remedy = "Put both into one DestinationRule.";
        if let Some(first) = older.iter().find(|older| older.spec.traffic_policy.is_some())
            && rule.spec.traffic_policy.is_some()
        {
            let message = format!(
                "{} has a trafficPolicy for the same host, is older or comes first, and wins",
                at(first, "spec.trafficPolicy")
            );
            findings.push(rule.finding(Severity::Warning, code::RULE_OVERLAPS, "spec.trafficPolicy", message, remedy));
        }
        for (index, subset) in rule.spec.subsets.iter().enumerate() {
            let same =
                |older: &&&Object<DestinationRule>| older.spec.subsets.iter().any(|other| other.name == subset.name);
            if let Some(first) = older.iter().find(same) {
                let message = format!(
                    "subset `{}` of the same host is in {} too, which is older or comes first, and wins",
                    subset.name,
                    at(first, "spec.subsets")
                );
                let path = format!("spec.subsets[{index}]");
                findings.push(rule.finding(Severity::Warning, code::RULE_OVERLAPS, path, message, remedy));
            }
        }
        older.push(rule);
    }
}
