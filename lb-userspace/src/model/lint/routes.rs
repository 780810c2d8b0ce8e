//! Routes of all three kinds seen alike: where their traffic comes from and where it goes.

use std::collections::BTreeSet;

use crate::{
    model::{
        ObjectName,
        binding::{self, gateway_name},
        parse::Context,
        route::VirtualService,
    },
    spec::istio::Destination,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http,
    Tls,
    Tcp,
}

impl Kind {
    pub const fn field(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Tls => "tls",
            Kind::Tcp => "tcp",
        }
    }
}

/// One route of a VirtualService.
pub struct Route<'s> {
    pub service: &'s VirtualService,
    pub kind: Kind,
    pub index: usize,
    /// Whether traffic of the mesh takes it.
    pub mesh: bool,
    /// The Gateways whose traffic takes it, whether they exist or not.
    pub gateways: BTreeSet<ObjectName>,
    pub destinations: Vec<Weighted<'s>>,
}

/// One entry of `route`.
pub struct Weighted<'s> {
    /// `spec.http[0].route[1]`
    pub path: String,
    pub destination: &'s Destination,
    /// The destination's host in full.
    pub host: String,
    pub weight: Option<i32>,
}

impl Weighted<'_> {
    pub fn subset(&self) -> Option<&str> {
        self.destination.subset.as_deref().filter(|subset| !subset.is_empty())
    }

    /// What people call it: the subset, or else the host as written.
    pub fn label(&self) -> &str {
        self.subset().unwrap_or(&self.destination.host)
    }
}

impl Route<'_> {
    pub fn path(&self) -> String {
        format!("spec.{}[{}]", self.kind.field(), self.index)
    }

    /// For messages about another object: the route, its VirtualService and its line.
    pub fn place(&self) -> String {
        place(self.service, &self.path())
    }

    /// Whether it tells versions or services apart, so that traffic which does not take it is treated otherwise.
    pub fn splits(&self) -> bool {
        let mut targets = self.destinations.iter().map(|one| (&one.host, one.subset()));
        targets.next().is_some_and(|first| targets.any(|other| other != first))
    }
}

/// `spec.tcp[0] of VirtualService default/echo (a.yaml:12)`
pub fn place(service: &VirtualService, path: &str) -> String {
    let at = service.origin(path);
    format!("{path} of VirtualService {} ({}:{})", service.name(), at.file, at.line)
}

/// The routes of a VirtualService in its own order.
pub fn of<'s>(context: &Context<'s>, service: &'s VirtualService) -> Vec<Route<'s>> {
    let spec = &service.spec;
    let new = |kind: Kind, index: usize, items: Vec<&'s [String]>, entries: Vec<(&'s Destination, Option<i32>)>| {
        let (mesh, gateways) = reach(service, &items);
        let destinations = entries.into_iter().enumerate().map(|(at, (destination, weight))| Weighted {
            path: format!("spec.{}[{index}].route[{at}]", kind.field()),
            destination,
            host: context.full_host(&destination.host, service.namespace()),
            weight,
        });
        Route { service, kind, index, mesh, gateways, destinations: destinations.collect() }
    };
    let mut routes = Vec::new();
    for (index, route) in spec.http.iter().enumerate() {
        let items = route.r#match.iter().map(|item| &*item.gateways).collect();
        let entries = route.route.iter().filter_map(|entry| Some((entry.destination.as_ref()?, entry.weight)));
        routes.push(new(Kind::Http, index, items, entries.collect()));
    }
    for (index, route) in spec.tls.iter().enumerate() {
        let items = route.r#match.iter().map(|item| &*item.gateways).collect();
        let entries = route.route.iter().filter_map(|entry| Some((entry.destination.as_ref()?, entry.weight)));
        routes.push(new(Kind::Tls, index, items, entries.collect()));
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        let items = route.r#match.iter().map(|item| item.as_ref().map_or(&[][..], |item| &*item.gateways)).collect();
        let entries = route.route.iter().filter_map(|entry| Some((entry.destination.as_ref()?, entry.weight)));
        routes.push(new(Kind::Tcp, index, items, entries.collect()));
    }
    routes
}

/// A match that lists gateways speaks for these alone; one that does not, and a route without matches, for those of the
/// VirtualService.
fn reach(service: &VirtualService, items: &[&[String]]) -> (bool, BTreeSet<ObjectName>) {
    let own = items.is_empty() || items.iter().any(|item| item.is_empty());
    let mut listed: Vec<&String> = items.iter().copied().flatten().collect();
    if own {
        listed.extend(&service.spec.gateways);
    }
    let mesh = own && service.spec.gateways.is_empty() || listed.iter().any(|name| *name == binding::MESH);
    (mesh, listed.into_iter().filter_map(|name| gateway_name(name, service.namespace())).collect())
}
