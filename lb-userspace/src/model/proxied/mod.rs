//! What needs its bytes read: http and tls routes, terminated TLS, and destinations that only a proxy can reach. From Istio's
//! objects to the vocabulary of `snapshot`.

mod action;
mod condition;
mod delegate;
mod hosts;
mod routes;
mod server;
mod tls;
mod upstream;

pub(super) use hosts::mesh_host;
pub(super) use server::{Server, chains};
pub(super) use tls::mesh_chains;
pub(super) use upstream::upstream;

use std::sync::Arc;

use super::{Origin, Rule, Target, parse::Context};
use crate::snapshot::{Chain, ClusterName, Content, Destination, Place, RouteKind, RuleSource, Split, TcpRoute};

pub(super) fn place(origin: &Origin) -> Place {
    Place { file: origin.file.clone(), line: origin.line }
}

/// A destination as the proxy has it, without header operations.
pub(super) fn destination(one: &super::Destination) -> Destination {
    let broken = match &one.target {
        Target::Cluster(_) => None,
        Target::Broken(reason) => Some(*reason),
    };
    Destination {
        cluster: ClusterName { host: one.host.clone(), subset: one.subset.clone(), port: one.port },
        weight: one.weight,
        broken,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        place: place(&one.origin),
    }
}

/// The weight that counts: a single destination gets everything.
pub(super) fn weight(of: usize, written: Option<i32>) -> u32 {
    if of == 1 { 1 } else { u32::try_from(written.unwrap_or(0)).unwrap_or(0) }
}

/// A tcp rule of whose destinations one can only be reached by a proxy.
pub(super) fn tcp_chain(context: &Context<'_>, rule: &Rule, gateway: &str) -> Chain {
    Chain {
        names: vec!["*".into()],
        tls: None,
        content: Content::Tcp(tcp_route(context, tcp_source(rule), &rule.destinations)),
        gateway: gateway.into(),
        place: place(&rule.origin),
    }
}

pub(super) fn tcp_source(rule: &Rule) -> RuleSource {
    RuleSource {
        kind: RouteKind::Tcp,
        virtual_service: rule.virtual_service.as_ref().map(|name| name.to_string().into()),
        index: rule.index as u32,
        item: rule.match_index.map(|item| item as u32),
        name: None,
        place: place(&rule.origin),
    }
}

/// Time-outs are those of the first destination's policy, as Istio has it.
pub(super) fn tcp_route(context: &Context<'_>, source: RuleSource, destinations: &[super::Destination]) -> TcpRoute {
    let first = destinations.first().and_then(|first| context.find(&first.host).map(|found| (first, found)));
    let pool = first.map(|(first, found)| {
        let subset = first.subset.as_deref().filter(|_| destinations.len() == 1);
        upstream::pool(found.policy.as_ref().map(|policy| policy.blocks(subset, first.port)).as_ref())
    });
    let pool = pool.unwrap_or_default();
    TcpRoute {
        source,
        split: Split { destinations: destinations.iter().map(destination).collect() },
        idle_timeout: pool.tcp_idle_timeout,
        max_duration: pool.max_connection_duration,
    }
}

/// Shared texts of a list.
pub(super) fn texts(all: &[String]) -> Vec<Arc<str>> {
    all.iter().map(|text| Arc::from(text.as_str())).collect()
}
