//! Why a listener has the route it has: every tcp route it could have taken, and what became of it. For people who ask;
//! nothing is decided here, [`super::parse`] has done that.

use std::{collections::BTreeSet, fmt};

use super::{
    Action, Door, Listener, ObjectName, Origin, binding, gateway, host, parse::Identity, route::VirtualService,
};
use crate::{
    snapshot::{Chain, Content},
    spec::Specs,
};

/// One `tcp` route of a VirtualService; where requests choose among routes, all routes of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub virtual_service: ObjectName,
    /// In its spec: `tcp[0]`, `http`.
    pub path: String,
    pub origin: Origin,
    pub fate: Fate,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Taken,
    /// Not for this gateway, or not for the mesh.
    NotBound,
    NotExported,
    /// No host in common with the Gateway server or the Service.
    HostsApart,
    /// Asked, and no match of it fits.
    NoMatch,
    /// Not asked: the route taken comes before it.
    After,
    /// Without hosts: another VirtualService lets it decide, where one does.
    Delegate,
    /// In the mesh one VirtualService speaks for a host, and it is not this one.
    Outranked,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fate::Taken => "taken",
            Fate::NotBound => "refused: not bound to this listener (spec.gateways)",
            Fate::NotExported => "refused: not exported to this agent's namespace (spec.exportTo)",
            Fate::HostsApart => "refused: none of its hosts is served here (spec.hosts)",
            Fate::NoMatch => "refused: no match of it fits this port, address and client",
            Fate::After => "refused: the route taken comes before it",
            Fate::Delegate => "refused: a delegate, and no route here delegates to it",
            Fate::Outranked => "refused: a more specific or older VirtualService speaks for this host",
        })
    }
}

/// Every tcp route there is, in the order in which this listener asks them; those it does not ask come last. Empty where the
/// listener takes no VirtualService's route.
pub fn candidates(specs: &Specs, identity: &Identity, listener: &Listener) -> Vec<Candidate> {
    let rule = match &listener.action {
        Action::Tcp(rule) => rule,
        Action::Proxy(chains) => return barred_services(specs, identity, listener, chains),
    };
    let Some(taken) = &rule.virtual_service else {
        return Vec::new();
    };
    let mut services: Vec<(Option<Fate>, &VirtualService)> = specs
        .virtual_services
        .iter()
        .map(|service| (barred(specs, identity, &listener.door, service), service))
        .collect();
    services.sort_by_key(|(barred, service)| {
        let rank = match listener.door {
            Door::Gateway { .. } => gateway::export_rank(&service.spec.export_to, service.namespace()),
            Door::Service { .. } => 0,
        };
        (barred.is_some(), rank, service.created, service.name().clone())
    });
    let mut asked = Fate::NoMatch;
    let mut found = Vec::new();
    for (barred, service) in services {
        for index in 0..service.spec.tcp.len() {
            let is_taken = service.name() == taken && index == rule.index;
            let fate = match barred {
                Some(barred) => barred,
                None if is_taken => Fate::Taken,
                None => asked,
            };
            if is_taken {
                asked = Fate::After;
            }
            let origin = service.origin(&format!("spec.tcp[{index}]"));
            let path = format!("tcp[{index}]");
            found.push(Candidate { virtual_service: service.name().clone(), path, origin, fate });
        }
    }
    found
}

/// VirtualServices with routes of a kind that this listener uses, and that it does not ask.
fn barred_services(specs: &Specs, identity: &Identity, listener: &Listener, chains: &[Chain]) -> Vec<Candidate> {
    let is_http = chains.iter().any(|chain| matches!(chain.content, Content::Http(_)));
    let is_sni = chains.iter().any(|chain| matches!(chain.content, Content::Tcp(_)) && chain.tls.is_none());
    let asked: BTreeSet<&str> = chains.iter().flat_map(holders).collect();
    let mut found = Vec::new();
    for service in &specs.virtual_services {
        let is_asked = asked.contains(service.name().to_string().as_str());
        let fate = match barred(specs, identity, &listener.door, service) {
            _ if is_asked => continue,
            Some(_) if service.spec.hosts.is_empty() => Fate::Delegate,
            Some(fate) => fate,
            None if matches!(listener.door, Door::Service { .. }) && is_http => Fate::Outranked,
            None => continue,
        };
        let kinds =
            [("http", is_http && !service.spec.http.is_empty()), ("tls", is_sni && !service.spec.tls.is_empty())];
        for (kind, _) in kinds.into_iter().filter(|(_, there)| *there) {
            let origin = service.origin(&format!("spec.{kind}"));
            found.push(Candidate { virtual_service: service.name().clone(), path: kind.to_owned(), origin, fate });
        }
    }
    found
}

/// The routes that speak for a Service or ServiceEntry in the mesh, where none of them fits the door, so that it has no listener.
pub fn unfit(specs: &Specs, identity: &Identity, door: &Door) -> Vec<Candidate> {
    let mut found = Vec::new();
    for service in specs.virtual_services.iter().filter(|service| barred(specs, identity, door, service).is_none()) {
        let tcp = (0..service.spec.tcp.len()).map(|at| format!("tcp[{at}]"));
        let kinds = [("http", service.spec.http.is_empty()), ("tls", service.spec.tls.is_empty())];
        let others = kinds.into_iter().filter(|(_, none)| !none).map(|(kind, _)| kind.to_owned());
        found.extend(others.chain(tcp).map(|path| Candidate {
            virtual_service: service.name().clone(),
            origin: service.origin(&format!("spec.{path}")),
            path,
            fate: Fate::NoMatch,
        }));
    }
    found
}

/// The VirtualServices that hold the http routes of a chain.
fn holders(chain: &Chain) -> impl Iterator<Item = &str> {
    let hosts = match &chain.content {
        Content::Http(hosts) => &hosts[..],
        Content::Tcp(_) | Content::AutoPassthrough => &[],
    };
    hosts.iter().flat_map(|host| &host.routes).filter_map(|route| route.source.virtual_service.as_deref())
}

/// Why a listener does not ask a VirtualService at all.
fn barred(specs: &Specs, identity: &Identity, door: &Door, service: &VirtualService) -> Option<Fate> {
    let bound = match door {
        Door::Gateway { gateway, .. } => binding::gateways(service).contains(gateway),
        Door::Service { .. } => binding::for_mesh(&service.spec),
    };
    if !bound {
        return Some(Fate::NotBound);
    }
    if !host::exported(&service.spec.export_to, service.namespace(), &identity.namespace) {
        return Some(Fate::NotExported);
    }
    (!meets(specs, identity, door, service)).then_some(Fate::HostsApart)
}

fn meets(specs: &Specs, identity: &Identity, door: &Door, service: &VirtualService) -> bool {
    match door {
        Door::Gateway { gateway: name, port, .. } => {
            specs.gateways.iter().filter(|gateway| gateway.name() == name).any(|gateway| {
                let here = |number: u32| number == u32::from(port.get());
                let servers = gateway.spec.servers.iter();
                let mut servers = servers.filter(|server| server.port.as_ref().is_some_and(|port| here(port.number)));
                servers.any(|server| gateway::shares_host(identity, service, gateway, server))
            })
        }
        Door::Service { service: name, .. } => {
            let own = host::expand(&name.name, &name.namespace, &identity.cluster_domain);
            let entries = specs.service_entries.iter().filter(|entry| entry.name() == name);
            let hosts: Vec<&String> = entries.flat_map(|entry| &entry.spec.hosts).chain([&own]).collect();
            let covers = |pattern: &String| {
                let pattern = host::expand(pattern, service.namespace(), &identity.cluster_domain);
                hosts.iter().any(|host| host::covers(&pattern, host))
            };
            service.spec.hosts.iter().any(covers)
        }
    }
}
