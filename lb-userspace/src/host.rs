//! What this host looks like: addresses of interfaces, ways to endpoints, and the few kernel switches the data path needs.
//! Reads and sets, decides only between snat and dnat.

mod local;

pub use local::deliver_nothing;

use crate::compile::{Host, Path};
use futures_util::{Stream, StreamExt, TryStreamExt};
use lb_common::table::Forwarding;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    pin::Pin,
};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum HostError {
    #[error("cannot ask the kernel for routes and addresses: {0}")]
    Netlink(#[from] rtnetlink::Error),
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    #[error("cannot write {path}: {source}")]
    Sysctl { path: String, source: io::Error },
}

/// How the user wants packets forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// dnat where the backend's replies pass this host on their own, else snat.
    Auto,
    Always(Forwarding),
}

/// A connection to the kernel's routing tables.
pub struct Network {
    handle: Handle,
}

/// What happened on the host's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link address was forgotten though its owner had not failed to answer: flushed, or its link was down.
    Forgotten { ifindex: u32, neighbour: IpAddr },
    /// An interface came up, perhaps made anew; or an address or a route came or went.
    Moved,
}

/// News of the host's interfaces.
pub struct News {
    messages: Pin<Box<dyn Stream<Item = NetlinkPayload<RouteNetlinkMessage>> + Send>>,
}

impl News {
    /// Must be called inside a tokio runtime, which then serves the socket.
    pub fn open() -> Result<Self, HostError> {
        let groups = [
            MulticastGroup::Neigh,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups).map_err(HostError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { messages: Box::pin(messages.map(|(message, _)| message.payload)) })
    }

    /// The next change; `None` where the kernel tells nothing any more.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let NetlinkPayload::InnerMessage(message) = self.messages.next().await? else { continue };
            let change = match message {
                RouteNetlinkMessage::DelNeighbour(message) => forgotten(&message),
                RouteNetlinkMessage::NewLink(message) if !message.header.flags.contains(LinkFlags::LowerUp) => None,
                RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewRoute(_)
                | RouteNetlinkMessage::DelRoute(_)
                | RouteNetlinkMessage::NewRule(_)
                | RouteNetlinkMessage::DelRule(_) => Some(Change::Moved),
                _ => None,
            };
            if change.is_some() {
                return change;
            }
        }
    }
}

/// A neighbour that did not answer was probed; asking for it again would never end.
fn forgotten(message: &NeighbourMessage) -> Option<Change> {
    let probed = message.attributes.iter().any(|one| matches!(one, NeighbourAttribute::Probes(1..)));
    let neighbour = message.attributes.iter().find_map(|one| match one {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    (!probed && !neighbour.is_multicast()).then_some(Change::Forgotten { ifindex: message.header.ifindex, neighbour })
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub nature: Nature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Hardware,
    /// veth, bridge, tunnel: frames may carry incomplete checksums and be larger than any MTU.
    Virtual,
}

/// A way out, as the kernel told it.
#[derive(Clone, Copy, Debug)]
struct Way {
    ifindex: u32,
    gateway: Option<IpAddr>,
    source: IpAddr,
}

impl Network {
    /// Must be called inside a tokio runtime, which then serves the socket.
    pub fn open() -> Result<Self, HostError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(HostError::Socket)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Addresses of `interfaces` and `vips`, and the way to each of `endpoints`; those without a route are left out.
    /// Asks for the link address of every next hop on the way, so that it is known when the first packet comes.
    pub async fn survey(
        &self,
        interfaces: &[String],
        vips: &[IpAddr],
        endpoints: &BTreeSet<IpAddr>,
        choice: Choice,
    ) -> Result<Host, HostError> {
        let links = self.links().await?;
        let attached: BTreeMap<u32, Nature> =
            links.iter().filter(|link| interfaces.contains(&link.name)).map(|link| (link.index, link.nature)).collect();
        let mut host = Host { addresses: self.addresses(&attached).await?, ..Host::default() };
        host.addresses.extend(vips);
        let mut asked = BTreeSet::new();
        for endpoint in endpoints {
            let Some(way) = self.way(*endpoint).await? else {
                continue;
            };
            let next = way.gateway.unwrap_or(*endpoint);
            if asked.insert((way.ifindex, next)) {
                self.meet(way.ifindex, next).await;
            }
            let forwarding = match choice {
                Choice::Always(forwarding) => forwarding,
                Choice::Auto if way.gateway.is_none() && attached.get(&way.ifindex) == Some(&Nature::Virtual) => {
                    Forwarding::Dnat
                }
                Choice::Auto => Forwarding::Snat,
            };
            host.paths.insert(*endpoint, Path { source: way.source, forwarding });
        }
        Ok(host)
    }

    /// Every interface of this network namespace.
    pub async fn links(&self) -> Result<Vec<Link>, HostError> {
        let mut messages = self.handle.link().get().execute();
        let mut links = Vec::new();
        while let Some(message) = messages.try_next().await? {
            let name = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            // Only devices made by software say what kind they are.
            let made = message.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(_)));
            let nature = if made { Nature::Virtual } else { Nature::Hardware };
            links.extend(name.map(|name| Link { index: message.header.index, name, nature }));
        }
        Ok(links)
    }

    /// Every address but link-local ones, which clients cannot name without an interface.
    async fn addresses(&self, interfaces: &BTreeMap<u32, Nature>) -> Result<BTreeSet<IpAddr>, HostError> {
        let mut messages = self.handle.address().get().execute();
        let mut addresses = BTreeSet::new();
        while let Some(message) = messages.try_next().await? {
            if !interfaces.contains_key(&message.header.index) {
                continue;
            }
            // Local is the own address where a peer's stands in Address.
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            addresses
                .extend(own.or(any).filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())));
        }
        Ok(addresses)
    }

    /// `None`: there is no route that leads out of this host.
    async fn way(&self, to: IpAddr) -> Result<Option<Way>, HostError> {
        let message: RouteMessage = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        let mut routes = self.handle.route().get(message).execute();
        let route = match routes.try_next().await {
            Ok(Some(route)) => route,
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The data path sees what comes in from outside, and a local endpoint's answers do not.
        if route.header.kind != RouteType::Unicast {
            return Ok(None);
        }
        let (mut ifindex, mut gateway, mut source) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => ifindex = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                RouteAttribute::PrefSource(address) => source = ip(address),
                _ => {}
            }
        }
        Ok(ifindex.zip(source).map(|(ifindex, source)| Way { ifindex, gateway, source }))
    }

    /// Has the kernel resolve a neighbour, or confirm one it has not heard of for a while. Whatever comes of it, the data
    /// path copes.
    pub async fn meet(&self, ifindex: u32, neighbour: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(ifindex, neighbour)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            tracing::debug!(%neighbour, %error, "cannot ask for a link address");
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The data path looks routes up as the loopback interface, which the kernel allows only where that interface forwards.
/// Returns a bit for each family that was off: 1 IPv4, 2 IPv6.
pub fn allow_lookups() -> Result<u64, HostError> {
    let mut changed = 0;
    for (bit, path) in [(1, IPV4_LO), (2, IPV6_LO)] {
        match fs::read_to_string(path) {
            Ok(value) if value.trim() == "0" => {
                fs::write(path, "1").map_err(|source| HostError::Sysctl { path: path.to_owned(), source })?;
                changed |= bit;
            }
            // IPv6 may be compiled out.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(changed)
}

/// Undoes [`allow_lookups`].
pub fn forbid_lookups(changed: u64) {
    for (bit, path) in [(1, IPV4_LO), (2, IPV6_LO)] {
        if changed & bit != 0 {
            let _ = fs::write(path, "0");
        }
    }
}

const IPV4_LO: &str = "/proc/sys/net/ipv4/conf/lo/forwarding";
const IPV6_LO: &str = "/proc/sys/net/ipv6/conf/lo/forwarding";

/// The host's own range of source ports, which the balancer must keep out of.
pub fn local_ports() -> Option<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
