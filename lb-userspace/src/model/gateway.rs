//! Gateway servers to listeners: which Gateways are ours, who wins a port, and which route each server takes.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, sync::Arc};

use super::{
    Action, Door, Listener, Protocol,
    binding::gateway_name,
    host,
    parse::{Context, Identity, Output},
    route::{self, VirtualService},
    workloads::matches,
};
use crate::{
    finding::{Severity, code},
    spec::{Object, ObjectName, istio},
};

type Gateway = Arc<Object<istio::Gateway>>;

/// What may share a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// One server a port.
    Tcp,
    /// Told apart by the Host header.
    Http,
    /// Told apart by SNI.
    Tls,
}

/// A server that has its port.
struct Holder<'s> {
    gateway: &'s Gateway,
    index: usize,
    family: Family,
}

/// Adds the listeners of every Gateway that selects this agent.
pub fn listeners<'s>(context: &Context<'s>, output: &mut Output<'_>) {
    let mut gateways: Vec<&Gateway> = context.specs.gateways.iter().collect();
    gateways.sort_by_key(|gateway| (gateway.created, gateway.name().clone()));
    let mut holders: BTreeMap<(Option<IpAddr>, u16), Holder<'s>> = BTreeMap::new();
    for gateway in gateways {
        if !matches(&gateway.spec.selector, &context.identity.gateway_labels) {
            let message = "this Gateway selects other gateways than this agent";
            let remedy = "Start the agent with `--gateway-labels` that its selector finds, if it should serve it.";
            output.findings.push(gateway.finding(Severity::Info, code::GATEWAY_IDLE, "spec.selector", message, remedy));
            continue;
        }
        for index in 0..gateway.spec.servers.len() {
            server(context, output, &mut holders, gateway, index);
        }
    }
}

fn family(protocol: &str) -> Option<(Family, Protocol)> {
    Some(match protocol.to_ascii_uppercase().as_str() {
        "TCP" | "MONGO" | "MYSQL" | "REDIS" => (Family::Tcp, Protocol::Tcp),
        "TLS" => (Family::Tls, Protocol::Tls),
        "HTTPS" => (Family::Tls, Protocol::Https),
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" => (Family::Http, Protocol::Http),
        _ => return None,
    })
}

fn server<'s>(
    context: &Context<'s>,
    output: &mut Output<'_>,
    holders: &mut BTreeMap<(Option<IpAddr>, u16), Holder<'s>>,
    gateway: &'s Gateway,
    index: usize,
) {
    let path = format!("spec.servers[{index}]");
    let server = &gateway.spec.servers[index];
    let Some(port) = &server.port else { return };
    let unsupported = |field: &str, message: String| {
        gateway.finding(
            Severity::Warning,
            code::UNSUPPORTED,
            format!("{path}.{field}"),
            message,
            "This server is not served.",
        )
    };
    let bind = server.bind.as_deref().filter(|bind| !bind.is_empty());
    if bind.is_some_and(|bind| bind.starts_with("unix:")) {
        output.findings.push(unsupported("bind", "a unix socket cannot be reached by packets".into()));
        return;
    }
    let Some((family, protocol)) = family(&port.protocol) else {
        output.findings.push(unsupported("port.protocol", format!("{} servers are not carried out", port.protocol)));
        return;
    };
    let Some(number) = u16::try_from(port.number).ok().and_then(NonZeroU16::new) else {
        return;
    };
    let bind: Option<IpAddr> = bind.and_then(|bind| bind.parse().ok()).filter(|bind: &IpAddr| !bind.is_unspecified());
    let holder = holders.entry((bind, number.get())).or_insert(Holder { gateway, index, family });
    let is_first = holder.gateway.name() == gateway.name() && holder.index == index;
    if !is_first {
        if family != holder.family || family == Family::Tcp {
            let winner = format!("spec.servers[{}] of Gateway {}", holder.index, holder.gateway.name());
            let message = format!(
                "port {number} is already taken by {winner}, which is older or comes first; this server is dropped"
            );
            let remedy = "Use another port, or remove one of the two servers.";
            output.findings.push(gateway.finding(Severity::Error, code::GATEWAY_CONFLICT, path, message, remedy));
        }
        return;
    }
    let origin = gateway.origin(&path);
    let action = match protocol {
        Protocol::Tcp => match tcp_action(context, output, gateway, index, number.get()) {
            Some(action) => action,
            None => return,
        },
        _ => {
            let message = format!("{} needs the userspace proxy, which this version does not have", port.protocol);
            output.findings.push(unsupported("port.protocol", message));
            Action::Proxy
        }
    };
    let door = Door::Gateway { gateway: gateway.name().clone(), bind, port: number };
    output.listeners.push(Listener { door, protocol, action, origin });
}

/// The first route that fits of the first VirtualService that has one. Without any, nothing listens.
fn tcp_action(
    context: &Context<'_>,
    output: &mut Output<'_>,
    gateway: &Gateway,
    index: usize,
    port: u16,
) -> Option<Action> {
    let mut taken: Option<(&VirtualService, usize)> = None;
    let mut action = None;
    for service in bound(context, output, gateway, index) {
        for at in 0..service.spec.tcp.len() {
            let Some(fit) = fits(&service.spec, service.namespace(), at, gateway.name(), port) else {
                continue;
            };
            match taken {
                Some(by) => output.usage.shadow(service, at, by),
                None => {
                    taken = Some((service, at));
                    output.usage.take(service, at);
                    let route = (service, at, fit.index);
                    action = Some(route::action(context, &mut output.clusters, &mut output.findings, route, port));
                }
            }
        }
    }
    if action.is_none() {
        let message = format!("no tcp route of any VirtualService fits port {port}: nothing listens on it");
        let remedy = format!("Bind a VirtualService with a `tcp` route to gateway {}.", gateway.name());
        let path = format!("spec.servers[{index}]");
        output.findings.push(gateway.finding(Severity::Info, code::GATEWAY_IDLE, path, message, remedy));
    }
    action
}

/// The VirtualServices bound to a server, in the order in which they are asked: those exported to their own namespace
/// only, then those exported to named ones, then public ones; each oldest first.
fn bound<'s>(
    context: &Context<'s>,
    output: &mut Output<'_>,
    gateway: &Gateway,
    index: usize,
) -> Vec<&'s VirtualService> {
    let mut bound = Vec::new();
    for service in context.bindings.to_gateway(gateway.name()) {
        if shares_host(context.identity, service, gateway, &gateway.spec.servers[index]) {
            bound.push(service);
        } else if !gateway.spec.servers.iter().any(|server| shares_host(context.identity, service, gateway, server)) {
            let message = format!("no host of this VirtualService is served by Gateway {}", gateway.name());
            let remedy = "Let a host of the VirtualService and a host of one of the Gateway's servers overlap.";
            output.findings.push(service.finding(
                Severity::Warning,
                code::HOST_NOT_IN_GATEWAY,
                "spec.hosts",
                message,
                remedy,
            ));
        }
    }
    bound.sort_by_key(|service| export_rank(&service.spec.export_to, service.namespace()));
    bound
}

/// Smaller is asked first.
pub(super) fn export_rank(export_to: &[String], own: &str) -> u8 {
    match export_to {
        [] => 2,
        all if all.iter().any(|namespace| namespace == "*") => 2,
        all if all.iter().all(|namespace| namespace == "." || namespace == own) => 0,
        _ => 1,
    }
}

/// Whether a server's hosts (`host`, `namespace/host`, `./host`) and the VirtualService's overlap.
pub(super) fn shares_host(
    identity: &Identity,
    service: &VirtualService,
    gateway: &Gateway,
    server: &istio::Server,
) -> bool {
    server.hosts.iter().any(|text| {
        let pattern = pattern(text);
        let overlaps =
            |host: &String| host::overlap(&pattern, &host::expand(host, service.namespace(), &identity.cluster_domain));
        sees(text, gateway.namespace(), service.namespace()) && service.spec.hosts.iter().any(overlaps)
    })
}

/// Whether a server's host, `[namespace/]host`, of a Gateway in namespace `own` lets VirtualServices of a namespace bind.
pub(super) fn sees(text: &str, own: &str, namespace: &str) -> bool {
    match text.split_once('/').map_or("*", |(namespace, _)| namespace) {
        "*" => true,
        "." => own == namespace,
        name => name == namespace,
    }
}

/// The host of a server's `[namespace/]host`.
pub(super) fn pattern(text: &str) -> String {
    text.split_once('/').map_or(text, |(_, host)| host).to_ascii_lowercase()
}

/// The match item by which a route fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// `None`: the route has no match list.
    pub index: Option<usize>,
}

/// Whether tcp route `at` fits a gateway's port. Only `port` and `gateways` of a match are looked at there.
pub fn fits(spec: &istio::VirtualService, namespace: &str, at: usize, gateway: &ObjectName, port: u16) -> Option<Fit> {
    let lists = |gateways: &[String]| {
        gateways.iter().any(|reference| gateway_name(reference, namespace).as_ref() == Some(gateway))
    };
    let by_default = lists(&spec.gateways);
    let matches = &spec.tcp[at].r#match;
    if matches.is_empty() {
        return by_default.then_some(Fit { index: None });
    }
    let fits = |item: &Option<istio::L4Match>| {
        let Some(item) = item else { return by_default };
        let gateway = if item.gateways.is_empty() { by_default } else { lists(&item.gateways) };
        gateway && item.port.is_none_or(|wanted| wanted == 0 || wanted == u32::from(port))
    };
    matches.iter().position(fits).map(|index| Fit { index: Some(index) })
}
