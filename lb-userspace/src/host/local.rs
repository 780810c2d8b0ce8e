//! Local routes: they make the host's stack take packets to addresses that are on none of its interfaces, for the proxy to
//! answer. Ours carry a protocol number of their own, so that nobody else's are touched.

use super::{HostError, Network};
use futures_util::TryStreamExt;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `proto 77` in `ip route show table local`.
const OURS: RouteProtocol = RouteProtocol::Other(77);
/// `local`: it is asked before all others.
const TABLE: u32 = 255;
const LOOPBACK: u32 = 1;

impl Network {
    /// Makes the host take packets to each of `addresses`; those that are its own already need nothing.
    pub async fn deliver(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), HostError> {
        for address in addresses {
            if !self.is_local(*address).await? {
                self.handle.route().add(local(*address)).replace().execute().await?;
                tracing::info!("{address} is delivered to this host (local route, proto 77)");
            }
        }
        Ok(())
    }

    /// Takes back every such route but those to `kept`.
    pub async fn deliver_only(&self, kept: &BTreeSet<IpAddr>) -> Result<(), HostError> {
        for address in self.delivered().await?.difference(kept) {
            self.handle.route().del(local(*address)).execute().await?;
        }
        Ok(())
    }

    /// Addresses that have a route of ours.
    pub async fn delivered(&self) -> Result<BTreeSet<IpAddr>, HostError> {
        let all = [
            RouteMessageBuilder::<Ipv4Addr>::new().table_id(TABLE).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().table_id(TABLE).build(),
        ];
        let mut found = BTreeSet::new();
        for request in all {
            let mut routes = self.handle.route().get(request).execute();
            while let Some(route) = routes.try_next().await? {
                if route.header.protocol == OURS && route.header.kind == RouteType::Local {
                    found.extend(destination(&route));
                }
            }
        }
        Ok(found)
    }

    async fn is_local(&self, address: IpAddr) -> Result<bool, HostError> {
        let mut routes = self.handle.route().get(to(address).build()).execute();
        match routes.try_next().await {
            Ok(route) => Ok(route.is_some_and(|route| route.header.kind == RouteType::Local)),
            // There is no way to it at all.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn to(address: IpAddr) -> RouteMessageBuilder<IpAddr> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    // It refuses only longer prefixes than these.
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, length).unwrap_or_default()
}

fn local(address: IpAddr) -> RouteMessage {
    to(address)
        .output_interface(LOOPBACK)
        .table_id(TABLE)
        .protocol(OURS)
        .scope(if address.is_ipv4() { RouteScope::Host } else { RouteScope::Universe })
        .kind(RouteType::Local)
        .build()
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

/// Takes back every such route, from outside of any runtime.
pub fn deliver_nothing() -> Result<(), HostError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HostError::Socket)?;
    runtime.block_on(async { Network::open()?.deliver_only(&BTreeSet::new()).await })
}
