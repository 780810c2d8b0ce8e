//! What the proxy carries out in one revision: plain immutable data that can go over a socket. It decides nothing (that is
//! `router`'s) and knows neither Istio's objects nor how they were merged (that is `model`'s).
//!
//! Everything in it is resolved: short names are full, matches on ports, gateways and a gateway's labels have been decided, and
//! lists of alternatives are routes of their own, in the order in which they are asked.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

mod action;
mod clients;
mod cluster;
mod condition;
mod route;
mod tls;

pub use self::{action::*, clients::*, cluster::*, condition::*, route::*, tls::*};

/// One revision of everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub revision: u64,
    /// In order of precedence: of several that accept on one address and port, the first has it.
    pub listeners: Vec<Listener>,
    /// Sorted by name; every cluster that some destination names and that exists.
    pub clusters: Vec<Arc<Cluster>>,
    pub clients: Arc<Clients>,
}

impl Snapshot {
    /// Everything outside of the snapshot that must be loaded for it: certificates, keys, authorities.
    pub fn credentials(&self) -> Credentials {
        let mut found = Credentials::default();
        for chain in self.listeners.iter().flat_map(|listener| &listener.chains) {
            if let Some(tls) = &chain.tls {
                found.certificates.extend(tls.certificates.iter().cloned());
                found.check(tls.client.check());
            }
        }
        for tls in self.clusters.iter().filter_map(|cluster| cluster.tls.as_ref()) {
            found.certificates.extend(tls.certificate.iter().cloned());
            found.check(Some(&tls.server));
        }
        found
    }
}

/// See [`Snapshot::credentials`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credentials {
    pub certificates: BTreeSet<Certificate>,
    pub authorities: BTreeSet<Authorities>,
    /// Files with certificate revocation lists.
    pub revocations: BTreeSet<Arc<str>>,
}

impl Credentials {
    fn check(&mut self, check: Option<&PeerCheck>) {
        self.authorities.extend(check.map(|check| check.authorities.clone()));
        self.revocations.extend(check.and_then(|check| check.revocations.clone()));
    }
}

/// Where a thing was written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something clients connect to whose bytes are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    /// For people and statistics; the same from one revision to the next.
    pub name: Arc<str>,
    pub addresses: Addresses,
    pub port: NonZeroU16,
    /// `namespace/name` of the Gateway, or `mesh`.
    pub gateway: Arc<str>,
    /// Whom the connection is for is decided by the SNI: see `router::names`. Never empty.
    pub chains: Vec<Chain>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addresses {
    /// Every address of this agent.
    Own,
    Listed(Vec<IpAddr>),
}

impl Addresses {
    /// Whether a connection to `address`, one that is steered to the proxy, is for this listener.
    pub fn contain(&self, address: IpAddr) -> bool {
        match self {
            Addresses::Own => true,
            Addresses::Listed(all) => all.contains(&address),
        }
    }
}

/// What happens to the connections of some server names: Envoy's filter chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// Lower case: names, `*.suffix`, or `*`, which is also for clients that send no SNI and for plain text.
    pub names: Vec<Arc<str>>,
    /// `None`: what the client sends is not decrypted.
    pub tls: Option<Arc<ServerTls>>,
    pub content: Content,
    /// `namespace/name` of the Gateway whose server this is, or `mesh`.
    pub gateway: Arc<str>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// HTTP requests, each routed on its own. A client's protocol is told by ALPN or its first bytes.
    Http(Vec<VirtualHost>),
    /// Bytes of whatever kind. With TLS in them when the chain does not terminate it.
    Tcp(TcpRoute),
    /// `AUTO_PASSTHROUGH`: the SNI `outbound_.PORT_.SUBSET_.HOST` names the cluster.
    AutoPassthrough,
}

/// Names one cluster: host, subset and Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterName {
    pub host: Arc<str>,
    pub subset: Option<Arc<str>>,
    /// 0 where a destination's port could not be resolved; no cluster has it.
    pub port: u16,
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        match &self.subset {
            Some(subset) => write!(f, "/{subset}"),
            None => Ok(()),
        }
    }
}

/// Where a listener accepts, for people.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.addresses {
            Addresses::Own => write!(f, "{} :{}", self.name, self.port),
            Addresses::Listed(all) => {
                let all: Vec<_> =
                    all.iter().map(|address| SocketAddr::new(*address, self.port.get()).to_string()).collect();
                write!(f, "{} {}", self.name, all.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests;
