//! Listeners for traffic to Services themselves: ClusterIPs and ServiceEntry addresses, routed by VirtualServices bound to
//! `mesh`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    Action, Door, Listener, Protocol, Share,
    binding::{MESH, for_mesh_by_default, lists_mesh},
    clients::{asked, asked_by},
    host,
    parse::{Context, Output, Services},
    proxied,
    registry::{Definition, Port, PortProtocol, Service},
    route::{self, VirtualService},
};
use crate::{
    finding::{Severity, code},
    snapshot::{Chain, ClientClass, Content},
    spec::istio,
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
    let door = |addresses, share| Door::Service { service: service.name().clone(), addresses, port: number, share };
    if let Some((protocol, chains)) = read(context, output, service, port, routed) {
        let door = door(service.addresses.clone(), Share::default());
        output.listeners.push(Listener { door, protocol, action: Action::Proxy(chains), origin });
        return;
    }
    let groups = groups(context, output, service, port, routed);
    let led_apart = |class: &Option<Arc<ClientClass>>| groups.iter().filter(|group| group.class == *class).count() > 1;
    for group in &groups {
        let action = match group.taken {
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
        if let (Some(class), Some((candidate, at, _)), Action::Proxy(_)) = (&group.class, group.taken, &action) {
            let message = format!(
                "the route is for some clients only ({class}), and the proxy is not for some only: it is left out for {}",
                service.host
            );
            let remedy = "Let the route hold for every client, or take the TLS setting from its destination.";
            let path = format!("spec.tcp[{at}]");
            output.findings.push(candidate.finding(Severity::Warning, code::UNSUPPORTED, path, message, remedy));
            continue;
        }
        let at = group.addresses.first().copied().filter(|_| led_apart(&group.class));
        let door = door(group.addresses.clone(), Share { at, class: group.class.clone() });
        output.listeners.push(Listener { door, protocol, action, origin: origin.clone() });
    }
}

/// Addresses of a Service, and clients, whose traffic goes one way.
struct Group<'s> {
    /// `None`: every client that no other group of the address is for.
    class: Option<Arc<ClientClass>>,
    addresses: Vec<IpAddr>,
    taken: Option<Taken<'s>>,
}

/// First those for all clients, then what is other for some.
fn groups<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &Service,
    port: &Port,
    routed: &[&'s VirtualService],
) -> Vec<Group<'s>> {
    let mut groups: Vec<Group<'s>> = Vec::new();
    let carries_tcp = port.protocol != PortProtocol::Http;
    let asks = routed.iter().any(|service| !asked_by(&service.spec).is_empty());
    let classes = context.clients.classes.iter().filter(|_| asks && carries_tcp).map(|class| Some(class.clone()));
    for class in std::iter::once(None).chain(classes) {
        for address in &service.addresses {
            let asked = (*address, port.number, class.as_deref());
            let taken = if carries_tcp { take(output, asked, routed) } else { None };
            let is_all = |group: &&Group<'_>| group.class.is_none() && group.addresses.contains(address);
            if class.is_some() && groups.iter().find(is_all).is_some_and(|group| same(&group.taken, &taken)) {
                continue;
            }
            match groups.iter_mut().find(|group| group.class == class && same(&group.taken, &taken)) {
                Some(group) => group.addresses.push(*address),
                None => groups.push(Group { class: class.clone(), addresses: vec![*address], taken }),
            }
        }
    }
    groups
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

/// An address, a port, and the class of the client; `None`: one of no class.
type Asked<'c> = (IpAddr, u16, Option<&'c ClientClass>);

/// The first route that fits, VirtualServices oldest first. Those after it are noted as unreachable.
fn take<'v>(output: &mut Output<'_>, asked: Asked<'_>, routed: &[&'v VirtualService]) -> Option<Taken<'v>> {
    let mut taken: Option<Taken<'v>> = None;
    for candidate in routed {
        for at in 0..candidate.spec.tcp.len() {
            let Some(item) = fits(candidate, at, asked) else {
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

/// `Some(match index)` where a route fits.
fn fits(candidate: &VirtualService, at: usize, (address, port, client): Asked<'_>) -> Option<Option<usize>> {
    let items = &candidate.spec.tcp[at].r#match;
    let default = for_mesh_by_default(&candidate.spec);
    if items.is_empty() {
        return default.then_some(None);
    }
    let fits = |item: &Option<istio::L4Match>| {
        let Some(item) = item else { return default };
        let mesh = if item.gateways.is_empty() { default } else { lists_mesh(&item.gateways) };
        let subnets = &item.destination_subnets;
        mesh && item.port.is_none_or(|wanted| wanted == 0 || wanted == u32::from(port))
            && (subnets.is_empty() || subnets.iter().any(|subnet| contains(subnet, address)))
            && asked(&item.source_labels, item.source_namespace.as_deref()).is_none_or(|asked| asked.fits(client))
    };
    items.iter().position(fits).map(Some)
}

pub(super) fn contains(subnet: &str, address: IpAddr) -> bool {
    match subnet.parse::<IpNet>() {
        Ok(net) => net.contains(&address),
        Err(_) => subnet.parse() == Ok(address),
    }
}
