//! `Specs` to `Model`: one pass over gateways, one over the mesh, one for what the user should know besides.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Listener, Model,
    binding::Bindings,
    clients, gateway, lint, mesh,
    policy::Policies,
    registry::Registry,
    route::{Clusters, Usage},
    unsupported,
    workloads::Workloads,
};
use crate::{
    finding::{self, Finding},
    snapshot::Clients,
    spec::{Object, Specs, istio},
};

/// Who the agent is: what selectors, `exportTo` and short names are measured against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The labels a Gateway's `selector` must find.
    pub gateway_labels: BTreeMap<String, String>,
    /// The namespace the agent counts as living in: the client's, for `exportTo` and DestinationRules.
    pub namespace: Arc<str>,
    /// The namespace whose DestinationRules hold for the whole mesh.
    pub root_namespace: Arc<str>,
    pub cluster_domain: Arc<str>,
    pub services: Services,
    pub proxy: Proxy,
}

impl Default for Identity {
    fn default() -> Identity {
        Identity {
            gateway_labels: BTreeMap::from([("istio".into(), "ingressgateway".into())]),
            namespace: "istio-system".into(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            services: Services::OnlyRouted,
            proxy: Proxy::On,
        }
    }
}

/// Whether what needs the userspace proxy is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    On,
    /// It is left to the host, and findings say so.
    Off,
}

/// Which Services' addresses are listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// Those that a VirtualService routes.
    OnlyRouted,
    /// Every Service with a ClusterIP.
    All,
}

/// Everything the passes read, and what they find.
pub(super) struct Context<'s> {
    pub specs: &'s Specs,
    pub identity: &'s Identity,
    pub registry: &'s Registry,
    pub policies: &'s Policies<'s>,
    pub bindings: &'s Bindings<'s>,
    pub clients: Arc<Clients>,
    /// In the order in which they are asked: oldest first.
    pub virtual_services: Vec<&'s Arc<Object<istio::VirtualService>>>,
}

/// What the passes build.
pub(super) struct Output<'s> {
    pub listeners: Vec<Listener>,
    pub clusters: Clusters<'s>,
    pub usage: Usage,
    pub findings: Vec<Finding>,
}

/// Gives the objects their meaning. Findings are in reading order.
pub fn parse(specs: &Specs, identity: &Identity) -> (Model, Vec<Finding>) {
    let registry = Registry::new(specs, identity);
    let workloads = Workloads::new(specs);
    let policies = Policies::new(specs, identity);
    let mut virtual_services: Vec<_> = specs.virtual_services.iter().collect();
    virtual_services.sort_by_key(|service| (service.created, service.name().clone()));
    let bindings = Bindings::new(&virtual_services, identity);
    let context = Context {
        bindings: &bindings,
        clients: Arc::new(clients::clients(specs)),
        specs,
        identity,
        registry: &registry,
        policies: &policies,
        virtual_services,
    };
    let mut output = Output {
        listeners: Vec::new(),
        clusters: Clusters::new(&workloads),
        usage: Usage::default(),
        findings: Vec::new(),
    };
    gateway::listeners(&context, &mut output);
    mesh::listeners(&context, &mut output);
    lint::references(&context, &mut output);
    lint::endpoints(&context, &mut output);
    unsupported::fields(&context, &output.listeners, &mut output.findings);
    clients::unmet(&context, &mut output.findings);
    output.usage.report(&context, &mut output.findings);
    let Output { mut listeners, clusters, mut findings, .. } = output;
    listeners.sort_by(|a, b| a.door.cmp(&b.door));
    finding::sort(&mut findings);
    let listeners = listeners.into_iter().map(Arc::new).collect();
    let (clusters, upstreams) = clusters.into_maps();
    (Model { listeners, clusters, upstreams, clients: context.clients.clone() }, findings)
}
