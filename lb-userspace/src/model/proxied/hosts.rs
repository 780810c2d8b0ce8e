//! Virtual hosts: which VirtualServices speak for which host names on one port, and in which order their routes are asked.

use super::{
    place,
    routes::{ByHost, Site, routes},
    server::Server,
};
use crate::{
    model::{
        binding::for_mesh,
        gateway::{bound, served},
        host,
        parse::{Context, Output},
        registry::Service,
        route::VirtualService,
    },
    snapshot::{HttpsRedirect, Place, Route, VirtualHost},
};

struct Building<'s> {
    routes: Vec<Route>,
    https_redirect: HttpsRedirect,
    place: Place,
    /// Whose routes are in already, as bound to which Gateway.
    from: Vec<(&'s VirtualService, &'s str, &'s str)>,
}

impl Building<'_> {
    fn new(place: Place) -> Self {
        Building { routes: Vec::new(), https_redirect: HttpsRedirect::Off, place, from: Vec::new() }
    }
}

/// The virtual hosts of servers that share a port: of plaintext ones all together, of one that terminates TLS its own.
///
/// A host served is the narrower of the server's and the VirtualService's. Routes of several VirtualServices for one host
/// follow each other, catch-alls last.
pub fn gateway_hosts<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    servers: &[Server<'s>],
    port: u16,
) -> Vec<VirtualHost> {
    let mut hosts: ByHost<Building<'s>> = ByHost::new();
    for server in servers {
        let origin = place(&server.origin());
        let redirects = server.spec().tls.as_ref().is_some_and(|tls| tls.https_redirect);
        let gateway = server.gateway;
        for service in bound(context, output, gateway, server.index) {
            let site = Site::Gateway(gateway.name(), port);
            let own = routes(context, output, service, site);
            for name in served(context.identity, service, gateway, server.spec()) {
                let host = hosts.entry(name).or_insert_with(|| Building::new(origin.clone()));
                if redirects {
                    host.https_redirect = HttpsRedirect::Always;
                }
                let key = (service, gateway.namespace(), &*gateway.name().name);
                if !host.from.contains(&key) {
                    host.routes.extend(own.iter().cloned());
                    host.from.push(key);
                }
            }
        }
        if redirects {
            for name in server.names() {
                let host = hosts.entry(name).or_insert_with(|| Building::new(origin.clone()));
                host.https_redirect = HttpsRedirect::Always;
            }
        }
    }
    let finish = |(name, mut host): (String, Building<'_>)| {
        host.routes.sort_by_key(|route| route.condition.is_catch_all());
        VirtualHost { name: name.into(), https_redirect: host.https_redirect, routes: host.routes, place: host.place }
    };
    hosts
        .into_iter()
        .map(finish)
        .filter(|host| !host.routes.is_empty() || host.https_redirect == HttpsRedirect::Always)
        .collect()
}

/// The virtual host of a Service port of the mesh: that of the one VirtualService with the most specific host, the oldest of
/// several. Nothing is merged. `None`: none has an http route for the port, which is not ours then.
pub fn mesh_host<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &Service,
    port: u16,
    routed: &[&'s VirtualService],
) -> Option<VirtualHost> {
    let taken = mesh_owner(context, service, routed.iter().copied().filter(|one| !one.spec.http.is_empty()))?;
    let routes = routes(context, output, taken, Site::Mesh(port));
    let place = place(&service.origin(""));
    (!routes.is_empty()).then_some(VirtualHost { name: "*".into(), https_redirect: HttpsRedirect::Off, routes, place })
}

/// Of VirtualServices, oldest first, the one whose host is the most specific for a service.
pub(super) fn mesh_owner<'s>(
    context: &Context<'_>,
    service: &Service,
    routed: impl Iterator<Item = &'s VirtualService>,
) -> Option<&'s VirtualService> {
    let length = |one: &VirtualService| {
        let full = one.spec.hosts.iter().map(|host| context.full_host(host, one.namespace()));
        let lengths = full.filter(|full| host::covers(full, &service.host)).map(|full| match full.strip_prefix('*') {
            Some(suffix) => suffix.len(),
            None => usize::MAX,
        });
        lengths.max()
    };
    let mut best: Option<(usize, &'s VirtualService)> = None;
    for one in routed.filter(|one| for_mesh(&one.spec)) {
        if let Some(length) = length(one).filter(|length| best.is_none_or(|(most, _)| *length > most)) {
            best = Some((length, one));
        }
    }
    best.map(|(_, one)| one)
}
