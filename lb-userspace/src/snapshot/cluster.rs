//! Clusters: endpoints of one host, subset and port, and how they are used.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ClientTls, ClusterName, Place};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: ClusterName,
    /// Sorted by address, each address once.
    pub endpoints: Vec<Endpoint>,
    pub protocol: UpstreamProtocol,
    pub balancer: Balancer,
    pub locality: LocalityPolicy,
    pub warmup: Option<Warmup>,
    pub pool: Pool,
    pub outlier_detection: Option<OutlierDetection>,
    /// `None`: plain text.
    pub tls: Option<ClientTls>,
    /// Sent ahead of everything else on each connection.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// For connections that are not HTTP.
    pub tunnel: Option<Tunnel>,
    /// Of the Service, or of the subset.
    pub place: Place,
    /// `namespace/name` and place of the DestinationRule that speaks for it.
    pub policy: Option<(Arc<str>, Place)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// Share inside its locality, at least 1.
    pub weight: u32,
    pub locality: Locality,
    pub health: Health,
    /// SPIFFE id that its certificate must have with `ISTIO_MUTUAL`.
    pub identity: Option<Arc<str>>,
    /// Those by which failover priorities are told; empty where none are.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EndpointAddress {
    Ip(SocketAddr),
    /// A socket's path, or `@name` for an abstract one.
    Unix(Arc<str>),
    /// A name to be resolved, and the port.
    Name(Arc<str>, u16),
}

/// What others say of an endpoint; outlier detection comes on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    #[default]
    Ready,
    /// Keeps its connections, gets no new ones.
    Draining,
}

/// `region/zone/subzone`; empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// What is spoken to endpoints when the request is HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// `useClientProtocol`: whatever the client speaks.
    OfClient,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Balancer {
    /// Istio's default: the less busy of two random endpoints.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    /// The connection's original destination.
    Passthrough,
    ConsistentHash {
        on: HashOn,
        algorithm: HashAlgorithm,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HashOn {
    /// Of the first value; a random endpoint without one.
    Header(Arc<str>),
    Cookie {
        name: Arc<str>,
        path: Arc<str>,
        /// A missing cookie is made with this lifetime (zero: of the session); `None`: none is made.
        ttl: Option<Duration>,
        attributes: Vec<(Arc<str>, Arc<str>)>,
    },
    /// The client's address without port. The only one that means something for raw TCP.
    SourceIp,
    QueryParameter(Arc<str>),
    /// No key is given: random.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashAlgorithm {
    Ring { minimum_size: u64 },
    Maglev { table_size: u64 },
}

/// `localityLbSetting`, as it holds for this cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum LocalityPolicy {
    /// All localities alike.
    #[default]
    Off,
    /// Nearest first; region to region as listed.
    Failover(Vec<Failover>),
    /// Labels `key` or `key=value`, the more of them fit in order the earlier.
    Priority(Vec<Arc<str>>),
    Distribute(Vec<Distribution>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    pub from: Arc<str>,
    pub to: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `region/zone/subzone`, with `*` for any rest.
    pub from: Arc<str>,
    /// Shares of 100.
    pub to: Vec<(Arc<str>, u32)>,
}

/// A new endpoint's weight grows as `(elapsed / duration) ^ (1 / aggression)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warmup {
    pub duration: Duration,
    /// It begins with so many hundredths of its weight.
    pub minimum_percent: f64,
    pub aggression: f64,
}

/// `connectionPool`: limits per proxy and cluster. A limit of `None` is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    pub max_connections: Option<u32>,
    pub connect_timeout: Duration,
    pub keep_alive: Option<KeepAlive>,
    pub max_connection_duration: Option<Duration>,
    /// Of raw TCP; `None`: never.
    pub tcp_idle_timeout: Option<Duration>,
    pub max_pending_requests: Option<u32>,
    pub max_requests: Option<u32>,
    /// 1: no connection is used twice.
    pub max_requests_per_connection: Option<u32>,
    /// Retries at one time; not read where there is a [`RetryBudget`].
    pub max_retries: Option<u32>,
    pub retry_budget: Option<RetryBudget>,
    pub http_idle_timeout: Option<Duration>,
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2 PING: interval and how long an answer may take.
    pub http2_keep_alive: Option<(Duration, Duration)>,
}

impl Default for Pool {
    fn default() -> Pool {
        const HOUR: Duration = Duration::from_secs(3_600);
        Pool {
            max_connections: None,
            connect_timeout: Duration::from_secs(10),
            keep_alive: None,
            max_connection_duration: None,
            tcp_idle_timeout: Some(HOUR),
            max_pending_requests: None,
            max_requests: None,
            max_requests_per_connection: None,
            max_retries: None,
            retry_budget: None,
            http_idle_timeout: Some(HOUR),
            max_concurrent_streams: None,
            http2_keep_alive: None,
        }
    }
}

/// TCP keep-alive; what is not given is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetryBudget {
    /// Retries among all active requests, in hundredths.
    pub percent: f64,
    pub min_concurrency: u32,
    pub interval: Duration,
}

/// `outlierDetection`. A count of 0 is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_errors: u32,
    /// `Some`: errors made here are counted apart, and this many of them eject.
    pub consecutive_local_errors: Option<u32>,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_percent: u32,
    pub min_health_percent: u32,
    /// Instead of 500 to 599; empty: those.
    pub error_codes: Vec<u16>,
}

impl Default for OutlierDetection {
    fn default() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_errors: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
            error_codes: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// The endpoint is an HTTP proxy that is asked for a connection to the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub method: TunnelMethod,
    pub target_host: Arc<str>,
    pub target_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelMethod {
    Connect,
    Post,
}
