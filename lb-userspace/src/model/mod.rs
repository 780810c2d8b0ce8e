//! Valid, resolved configuration: what the user's objects mean, with every reference followed.
//!
//! A `Model` comes only from [`parse`]. It knows nothing of ids, tables, interfaces or time; those are `compile`'s.
//! A broken reference is kept as a [`Target::Broken`] destination with its weight, because weights never shift silently.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

mod binding;
mod candidates;
mod clients;
mod gateway;
mod host;
mod lint;
mod mesh;
mod parse;
mod parser;
mod policy;
mod proxied;
mod reach;
mod registry;
mod route;
mod unsupported;
mod workloads;

#[cfg(test)]
mod tests;

pub use crate::snapshot::{Broken as BrokenReason, ClientClass, Clients, ClusterName};
pub use crate::spec::{ObjectName, Origin};
pub use candidates::{Candidate, Fate, candidates, unfit};
pub use lint::{analyze, excuse};
pub use parse::{Identity, Proxy, Services, parse};
pub use parser::{Extent, Parsed, Parser, Task, Whole};

use crate::snapshot::Chain;

/// Everything the configuration asks for, in a deterministic order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Sorted by door; shared between revisions in which they are the same.
    pub listeners: Vec<Arc<Listener>>,
    /// Every cluster some destination names, also those without endpoints.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// Those of them that the proxy uses, as it uses them.
    pub upstreams: BTreeMap<ClusterName, Arc<crate::snapshot::Cluster>>,
    /// Who is whose client, where some mesh rule asks.
    pub clients: Arc<Clients>,
}

/// Something clients connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub door: Door,
    /// `port.protocol` of the Gateway server or the Service port, upper case.
    pub protocol: Protocol,
    pub action: Action,
    pub origin: Origin,
}

/// Which addresses and port a listener accepts on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// A Gateway server. Without `bind` it listens on every address of the agent (interfaces and `--vip`).
    Gateway { gateway: ObjectName, bind: Option<IpAddr>, port: NonZeroU16 },
    /// A Service's ClusterIPs, or a ServiceEntry's addresses (mesh traffic).
    Service { service: ObjectName, addresses: Vec<IpAddr>, port: NonZeroU16, share: Share },
}

/// Which part of a Service port's traffic a listener is for, where not all of it goes one way. The default is for all that no other part
/// is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// The first of its addresses, where the Service's addresses are led apart.
    pub at: Option<IpAddr>,
    /// Clients of this class only.
    pub class: Option<Arc<ClientClass>>,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.map_or(Ok(()), |at| write!(f, " at {at}"))?;
        self.class.as_ref().map_or(Ok(()), |class| write!(f, " for {class}"))
    }
}

/// Identity of a listener, for people and for ids.
impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Door::Gateway { gateway, bind: Some(address), port } => {
                write!(f, "gateway {gateway} {}", SocketAddr::new(*address, port.get()))
            }
            Door::Gateway { gateway, bind: None, port } => write!(f, "gateway {gateway} :{port}"),
            Door::Service { service, port, share, .. } => write!(f, "service {service} :{port}{share}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Tls,
    Http,
    Https,
    Udp,
}

/// What happens to traffic of a listener.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Balanced per flow in the kernel.
    Tcp(Rule),
    /// Its bytes must be read. Never empty. Without the proxy its packets are passed to the host, and a finding says so.
    Proxy(Vec<Chain>),
}

/// The one `tcp` route a listener uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `namespace/name` of the VirtualService; `None` for a bare Service (`--services`).
    pub virtual_service: Option<ObjectName>,
    /// Index in `spec.tcp`, and the index of the match item that fitted (`None`: the route has no match).
    pub index: usize,
    pub match_index: Option<usize>,
    /// Position of the route entry.
    pub origin: Origin,
    pub hash: HashKey,
    /// Every destination in the user's order, zero weights included. A single destination has weight 1.
    pub destinations: Vec<Destination>,
}

/// What of a flow decides its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// Addresses and ports: flows of one client spread.
    Flow,
    /// `trafficPolicy.loadBalancer.consistentHash.useSourceIp`: a client keeps its version and its endpoint.
    SourceIp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Resolved host, such as `tcp-echo.default.svc.cluster.local`.
    pub host: Arc<str>,
    pub subset: Option<Arc<str>>,
    /// The resolved Service port; 0 where it could not be resolved.
    pub port: u16,
    pub weight: u32,
    pub target: Target,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Cluster(ClusterName),
    /// Answers RST with its full weight (Istio accepts and closes at once).
    Broken(BrokenReason),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Ready endpoints, sorted by address and port, each address and port once.
    pub endpoints: Vec<Endpoint>,
    /// Where the subset (or, without one, the host) is defined.
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: NonZeroU16,
    /// WorkloadEntry.weight, 1 everywhere else; share inside the cluster.
    pub weight: u32,
}
