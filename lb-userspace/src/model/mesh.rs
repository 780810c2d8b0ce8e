//! Listeners for traffic to Services themselves: ClusterIPs and ServiceEntry addresses, routed by VirtualServices bound to
//! `mesh`.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    Action, Door, Listener, Protocol,
    binding::{MESH, for_mesh_by_default, lists_mesh},
    host,
    parse::{Context, Output, Services},
    proxied,
    registry::{Definition, Port, PortProtocol, Service},
    route::{self, VirtualService},
};
use crate::{
    finding::{Severity, code},
    snapshot::{Chain, Content},
};

/// A tcp route that takes traffic to one address, and the match item by which it fits.
type Taken<'s> = (&'s VirtualService, usize, Option<usize>);

/// Adds the listeners of every Service port that is ours.
pub fn listeners<'s>(context: &Context<'s>, output: &mut Output<'s>) {
    conflicts(context, output);
    for service in context.registry.all().iter().filter(|service| !service.addresses.is_empty()) {
        let routed = context.bindings.to_mesh_host(&service.host);
        let all = context.identity.services == Services::All && matches!(service.definition, Definition::Service(_));
        if routed.is_empty() && !all {
            continue;
        }
        for port in service.ports.iter().filter(|port| port.protocol != PortProtocol::Udp) {
            service_port(context, output, service, port, &routed);
        }
    }
}

fn conflicts(context: &Context<'_>, output: &mut Output<'_>) {
    let mut owners: BTreeMap<String, Vec<&VirtualService>> = BTreeMap::new();
    for service in context.virtual_services.iter().filter(|service| for_mesh_by_default(&service.spec)) {
        for (at, host) in service.spec.hosts.iter().enumerate() {
            let full = context.full_host(host, service.namespace());
            let own = (&*service.spec.export_to, service.namespace());
            let older = owners.entry(full).or_default();
            // Two that no namespace sees both of are each other's concern nowhere.
            let owner = older.iter().find(|owner| {
                owner.name() == service.name()
                    || host::exported_together((&owner.spec.export_to, owner.namespace()), own)
            });
            let Some(owner) = owner.copied().filter(|owner| owner.name() != service.name()) else {
                older.push(service);
                continue;
            };
            let message = format!(
                "VirtualService {} claims this host for the mesh too, is older or comes first, and wins",
                owner.name()
            );
            let remedy = "Put the routes of both into one VirtualService.";
            let path = format!("spec.hosts[{at}]");
            output.findings.push(service.finding(Severity::Error, code::MESH_HOST_CONFLICT, path, message, remedy));
        }
    }
}

fn service_port<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &Service,
    port: &Port,
    routed: &[&'s VirtualService],
) {
    let at = service.ports.iter().position(|other| other.number == port.number && other.name == port.name);
    let origin = service.origin(&format!("spec.ports[{}]", at.unwrap_or(0)));
    let Some(number) = std::num::NonZeroU16::new(port.number) else {
        return;
    };
    let door = |addresses| Door::Service { service: service.name().clone(), addresses, port: number };
    if let Some((protocol, chains)) = read(context, output, service, port, routed) {
        let door = door(service.addresses.clone());
        output.listeners.push(Listener { door, protocol, action: Action::Proxy(chains), origin });
        return;
    }
    let carries_tcp = port.protocol != PortProtocol::Http;
    let mut groups: Vec<(Option<Taken<'_>>, Vec<IpAddr>)> = Vec::new();
    for address in &service.addresses {
        let taken = if carries_tcp { take(output, service, *address, port.number, routed) } else { None };
        match groups.iter_mut().find(|(other, _)| same(other, &taken)) {
            Some((_, addresses)) => addresses.push(*address),
            None => groups.push((taken, vec![*address])),
        }
    }
    for (taken, addresses) in groups {
        let action = match taken {
            Some(route) => {
                let Output { clusters, findings, .. } = &mut *output;
                route::action(context, clusters, findings, route, port.number, MESH)
            }
            None if context.identity.services == Services::All => {
                route::plain_action(context, &mut output.clusters, service, port, origin.clone())
            }
            None => continue,
        };
        let protocol = if matches!(action, Action::Proxy(_)) { protocol(port.protocol) } else { Protocol::Tcp };
        output.listeners.push(Listener { door: door(addresses), protocol, action, origin: origin.clone() });
    }
}

fn same(a: &Option<Taken<'_>>, b: &Option<Taken<'_>>) -> bool {
    let key = |taken: &Option<Taken<'_>>| taken.map(|(service, at, item)| (service.name().clone(), at, item));
    key(a) == key(b)
}

fn protocol(protocol: PortProtocol) -> Protocol {
    match protocol {
        PortProtocol::Tcp | PortProtocol::Unknown => Protocol::Tcp,
        PortProtocol::Http => Protocol::Http,
        PortProtocol::Https => Protocol::Https,
        PortProtocol::Tls => Protocol::Tls,
        PortProtocol::Udp => Protocol::Udp,
    }
}

/// What is done to a port whose bytes its routes need: `http` routes on an HTTP port or on one whose protocol is not known,
/// `tls` routes on a TLS one. `None`: no such route is for it.
fn read<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &Service,
    port: &Port,
    routed: &[&'s VirtualService],
) -> Option<(Protocol, Vec<Chain>)> {
    match port.protocol {
        PortProtocol::Http | PortProtocol::Unknown => {
            let host = proxied::mesh_host(context, output, service, port.number, routed)?;
            let chain = Chain {
                names: vec!["*".into()],
                tls: None,
                gateway: MESH.into(),
                place: host.place.clone(),
                content: Content::Http(vec![host]),
            };
            Some((Protocol::Http, vec![chain]))
        }
        PortProtocol::Https | PortProtocol::Tls => {
            let chains = proxied::mesh_chains(context, output, service, port, routed);
            (!chains.is_empty()).then_some((protocol(port.protocol), chains))
        }
        PortProtocol::Tcp | PortProtocol::Udp => None,
    }
}

/// The first route that fits an address and port, VirtualServices oldest first. Those after it are noted as unreachable.
fn take<'v>(
    output: &mut Output<'_>,
    service: &Service,
    address: IpAddr,
    port: u16,
    routed: &[&'v VirtualService],
) -> Option<Taken<'v>> {
    let mut taken: Option<Taken<'v>> = None;
    for candidate in routed {
        for at in 0..candidate.spec.tcp.len() {
            let Some(item) = fits(output, service, candidate, at, address, port) else {
                continue;
            };
            match taken {
                Some((by, index, _)) => output.usage.shadow(candidate, at, (by, index)),
                None => {
                    output.usage.take(candidate, at);
                    taken = Some((candidate, at, item));
                }
            }
        }
    }
    taken
}

/// `Some(match index)` where a route fits. Matches on the client are left out, never widened.
fn fits(
    output: &mut Output<'_>,
    service: &Service,
    candidate: &VirtualService,
    at: usize,
    address: IpAddr,
    port: u16,
) -> Option<Option<usize>> {
    let items = &candidate.spec.tcp[at].r#match;
    let default = for_mesh_by_default(&candidate.spec);
    if items.is_empty() {
        return default.then_some(None);
    }
    for (index, item) in items.iter().enumerate() {
        let Some(item) = item else {
            if default {
                return Some(Some(index));
            }
            continue;
        };
        let mesh = if item.gateways.is_empty() { default } else { lists_mesh(&item.gateways) };
        let port_fits = item.port.is_none_or(|wanted| wanted == 0 || wanted == u32::from(port));
        let subnets = &item.destination_subnets;
        if !mesh || !port_fits || !(subnets.is_empty() || subnets.iter().any(|subnet| contains(subnet, address))) {
            continue;
        }
        if item.source_labels.is_empty() && item.source_namespace.as_deref().unwrap_or_default().is_empty() {
            return Some(Some(index));
        }
        let field = if item.source_labels.is_empty() { "sourceNamespace" } else { "sourceLabels" };
        let message =
            format!("matching on the client ({field}) is not carried out; this match is left out for {}", service.host);
        let path = format!("spec.tcp[{at}].match[{index}].{field}");
        let remedy = "Remove it to let the route hold for every client.";
        output.findings.push(candidate.finding(Severity::Warning, code::UNSUPPORTED, path, message, remedy));
    }
    None
}

pub(super) fn contains(subnet: &str, address: IpAddr) -> bool {
    match subnet.parse::<IpNet>() {
        Ok(net) => net.contains(&address),
        Err(_) => subnet.parse() == Ok(address),
    }
}
