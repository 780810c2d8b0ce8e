//! How the user's objects fit together: what each of them says well and all of them together do not.
//!
//! [`references`] and [`endpoints`] are part of [`super::parse`], since they say what traffic is refused. The rest is for people
//! who ask ([`analyze`]): it compares object with object, which an agent has no need to do on every change.

mod annotations;
mod bypass;
mod cover;
mod doubles;
mod endpoints;
mod gateways;
mod hosts;
mod names;
mod order;
mod ports;
mod references;
mod routes;
mod services;
mod shadow;
mod tls;
mod weights;

use super::{
    binding::Bindings,
    parse::{Context, Identity},
    policy::Policies,
    registry::Registry,
    workloads::Workloads,
};
use crate::{
    finding::{self, Finding, Severity},
    spec::Specs,
};
use std::{collections::HashMap, sync::Arc};

pub(super) use endpoints::endpoints;
pub(super) use references::references;
use routes::Route;

/// What every analysis looks at.
struct View<'s> {
    context: &'s Context<'s>,
    workloads: &'s Workloads<'s>,
    /// Every route of every VirtualService, in the order in which VirtualServices are asked.
    routes: Vec<Route<'s>>,
    /// Those for the mesh, by each full host of their VirtualService.
    by_mesh_host: HashMap<String, Vec<usize>>,
}

impl<'s> View<'s> {
    fn new(context: &'s Context<'s>, workloads: &'s Workloads<'s>) -> View<'s> {
        let routes: Vec<Route<'s>> =
            context.virtual_services.iter().flat_map(|service| routes::of(context, service)).collect();
        let mut by_mesh_host: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, route) in routes.iter().enumerate().filter(|(_, route)| route.mesh) {
            for host in &route.service.spec.hosts {
                by_mesh_host.entry(context.full_host(host, route.service.namespace())).or_default().push(at);
            }
        }
        View { context, workloads, routes, by_mesh_host }
    }

    /// The routes that traffic of the mesh to this very host may take.
    fn mesh_routes(&self, host: &str) -> impl Iterator<Item = &Route<'s>> {
        self.by_mesh_host.get(host).into_iter().flatten().map(|at| &self.routes[*at])
    }
}

/// What [`super::parse`] does not say. Findings are in reading order, and do not depend on the order of files or objects.
pub fn analyze(specs: &Specs, identity: &Identity) -> Vec<Finding> {
    let registry = Registry::new(specs, identity);
    let workloads = Workloads::new(specs);
    let policies = Policies::new(specs, identity);
    let mut virtual_services: Vec<_> = specs.virtual_services.iter().collect();
    virtual_services.sort_by_key(|service| (service.created, service.name().clone()));
    let bindings = Bindings::new(&virtual_services, identity);
    let context = Context {
        bindings: &bindings,
        clients: Arc::default(),
        specs,
        identity,
        registry: &registry,
        policies: &policies,
        virtual_services,
    };
    let view = View::new(&context, &workloads);
    let mut findings = Vec::new();
    for analysis in [
        weights::check,
        bypass::check,
        shadow::check,
        order::check,
        ports::check,
        tls::check,
        hosts::check,
        gateways::check,
        services::check,
        doubles::check,
        annotations::check,
    ] {
        analysis(&view, &mut findings);
    }
    finding::sort(&mut findings);
    findings
}

/// Annotation by which an object is excused from findings, as for `istioctl analyze`: codes with commas between them, or `*`.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// Leaves out what objects are excused from. Errors stay.
pub fn excuse(specs: &Specs, findings: &mut Vec<Finding>) {
    let mut excused: HashMap<String, String> = HashMap::new();
    macro_rules! collect {
        ($($list:ident),*) => { $(for object in &specs.$list {
            if let Some(codes) = object.annotations.get(SUPPRESS) {
                excused.insert(object.key.to_string(), codes.clone());
            }
        })* };
    }
    collect!(gateways, virtual_services, destination_rules, service_entries, workload_entries, services, pods);
    if excused.is_empty() {
        return;
    }
    findings.retain(|finding| {
        let codes = excused.get(&finding.object).map(String::as_str).unwrap_or_default();
        let named = codes.split(',').any(|code| code.trim() == finding.code) || codes.trim() == "*";
        finding.severity == Severity::Error || !named
    });
}
