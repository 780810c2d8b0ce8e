//! Gateway servers to listeners: which Gateways are ours, who wins a port, and which route each server takes.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, sync::Arc};

use super::{
    Action, Door, Listener, Protocol,
    binding::gateway_name,
    host,
    parse::{Context, Identity, Output, Proxy},
    proxied::{self, Server},
    route::{self, VirtualService},
    workloads::matches,
};
use crate::{
    finding::{Severity, code},
    spec::{Object, ObjectName, istio},
};

pub(super) type Gateway = Arc<Object<istio::Gateway>>;

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

/// The servers that share a port, the one that had it first in front.
struct Holder<'s> {
    family: Family,
    protocol: Protocol,
    servers: Vec<Server<'s>>,
}

/// Adds the listeners of every Gateway that selects this agent.
pub fn listeners<'s>(context: &Context<'s>, output: &mut Output<'s>) {
    let mut gateways: Vec<&Gateway> = context.specs.gateways.iter().collect();
    gateways.sort_by_key(|gateway| (gateway.created, gateway.name().clone()));
    let mut holders: BTreeMap<(Option<IpAddr>, NonZeroU16), Holder<'s>> = BTreeMap::new();
    for gateway in gateways {
        if !matches(&gateway.spec.selector, &context.identity.gateway_labels) {
            let message = "this Gateway selects other gateways than this agent";
            let remedy = "Start the agent with `--gateway-labels` that its selector finds, if it should serve it.";
            output.findings.push(gateway.finding(Severity::Info, code::GATEWAY_IDLE, "spec.selector", message, remedy));
            continue;
        }
        for index in 0..gateway.spec.servers.len() {
            server(context, output, &mut holders, Server { gateway, index });
        }
    }
    for ((bind, port), holder) in &holders {
        listener(context, output, *bind, *port, holder);
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

/// Finds the port of a server, and whether it may have it.
fn server<'s>(
    context: &Context<'s>,
    output: &mut Output<'_>,
    holders: &mut BTreeMap<(Option<IpAddr>, NonZeroU16), Holder<'s>>,
    own: Server<'s>,
) {
    let (path, gateway, server) = (own.path(), own.gateway, own.spec());
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
    let holder = holders.entry((bind, number)).or_insert(Holder { family, protocol, servers: Vec::new() });
    if let Some(first) = holder.servers.first()
        && (family != holder.family || family == Family::Tcp)
    {
        let winner = format!("{} of Gateway {}", first.path(), first.gateway.name());
        let message = format!(
            "port {number} is already taken by {winner}, which is older or comes first; this server is dropped"
        );
        let remedy = "Use another port, or remove one of the two servers.";
        output.findings.push(gateway.finding(Severity::Error, code::GATEWAY_CONFLICT, path, message, remedy));
        return;
    }
    if protocol != Protocol::Tcp && context.identity.proxy == Proxy::Off {
        let message = format!("{} needs the proxy, which is off (`run --proxy off`)", port.protocol);
        output.findings.push(unsupported("port.protocol", message));
    }
    holder.servers.push(own);
}

/// What servers that share a port do together. A port that nothing is routed from gets no listener, but for HTTP, where every
/// request is answered with 404.
fn listener<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    bind: Option<IpAddr>,
    port: NonZeroU16,
    holder: &Holder<'s>,
) {
    let Some(first) = holder.servers.first() else { return };
    let action = match holder.family {
        Family::Tcp => tcp_action(context, output, first.gateway, first.index, port.get()),
        Family::Http | Family::Tls => {
            let chains = proxied::chains(context, output, &holder.servers, port.get());
            (!chains.is_empty()).then_some(Action::Proxy(chains))
        }
    };
    if let Some(action) = action {
        let door = Door::Gateway { gateway: first.gateway.name().clone(), bind, port };
        output.listeners.push(Listener { door, protocol: holder.protocol, action, origin: first.origin() });
    }
}

/// The first route that fits of the first VirtualService that has one. Without any, nothing listens.
pub(super) fn tcp_action<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
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
                    let Output { clusters, findings, .. } = &mut *output;
                    let name = gateway.name().to_string();
                    action = Some(route::action(context, clusters, findings, route, port, &name));
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
pub(super) fn bound<'s>(
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

/// Whether a server's hosts and the VirtualService's overlap.
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

/// The names for which a VirtualService is bound to a server: of each pair of hosts that overlap the narrower one.
pub(super) fn served(
    identity: &Identity,
    service: &VirtualService,
    gateway: &Gateway,
    server: &istio::Server,
) -> Vec<String> {
    let hosts = service.spec.hosts.iter();
    let own: Vec<String> =
        hosts.map(|host| host::expand(host, service.namespace(), &identity.cluster_domain)).collect();
    let mut names = Vec::new();
    for text in server.hosts.iter().filter(|text| sees(text, gateway.namespace(), service.namespace())) {
        let pattern = pattern(text);
        names.extend(own.iter().filter_map(|host| host::narrower(&pattern, host).map(str::to_owned)));
    }
    names.sort();
    names.dedup();
    names
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
