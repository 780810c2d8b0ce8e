//! The VirtualService kind but for its http routes: hosts, gateways, tls and tcp routes, and what all routes share.

use serde::Deserialize;

use super::{HttpRoute, Labels, PortSelector};
use crate::spec::value::filled;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualService {
    pub hosts: Vec<String>,
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    pub export_to: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TlsRoute {
    pub r#match: Vec<TlsMatch>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsMatch {
    pub sni_hosts: Vec<String>,
    pub destination_subnets: Vec<String>,
    pub port: Option<u32>,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    #[serde(deserialize_with = "filled")]
    pub source_namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpRoute {
    /// A null item stands for a match of everything.
    pub r#match: Vec<Option<L4Match>>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4Match {
    pub destination_subnets: Vec<String>,
    pub port: Option<u32>,
    #[serde(deserialize_with = "filled")]
    pub source_subnet: Option<String>,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    #[serde(deserialize_with = "filled")]
    pub source_namespace: Option<String>,
}

/// A weighted destination of a tls or tcp route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteDestination {
    pub destination: Option<Destination>,
    pub weight: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Destination {
    pub host: String,
    #[serde(deserialize_with = "filled")]
    pub subset: Option<String>,
    pub port: Option<PortSelector>,
}
