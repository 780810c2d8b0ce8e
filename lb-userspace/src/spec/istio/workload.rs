//! ServiceEntry, WorkloadEntry and WorkloadGroup: services and workloads that no Kubernetes object describes.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Labels, Port};
use crate::spec::value::filled;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntry {
    pub hosts: Vec<String>,
    pub addresses: Vec<String>,
    pub ports: Vec<Port>,
    /// MESH_EXTERNAL when left out.
    pub location: Option<Location>,
    pub resolution: Resolution,
    pub endpoints: Vec<WorkloadEntry>,
    pub workload_selector: Option<WorkloadSelector>,
    pub export_to: Vec<String>,
    pub subject_alt_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    MeshExternal,
    MeshInternal,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct WorkloadSelector {
    pub labels: Labels,
}

/// A WorkloadEntry object's spec, an endpoint of a ServiceEntry, and the template of a WorkloadGroup.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntry {
    pub address: String,
    pub ports: BTreeMap<String, u32>,
    pub labels: Labels,
    #[serde(deserialize_with = "filled")]
    pub network: Option<String>,
    /// `region/zone/subzone`.
    #[serde(deserialize_with = "filled")]
    pub locality: Option<String>,
    /// Share inside its set of endpoints; 0 counts as 1.
    pub weight: Option<u32>,
    #[serde(deserialize_with = "filled")]
    pub service_account: Option<String>,
}

/// What WorkloadEntries of machines that register themselves are made of. It describes no workload itself.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct WorkloadGroup {
    pub metadata: Option<GroupMetadata>,
    pub template: Option<WorkloadEntry>,
    pub probe: Option<Probe>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GroupMetadata {
    pub labels: Labels,
    pub annotations: Labels,
}

/// Times in seconds; one way to probe at most.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Probe {
    pub initial_delay_seconds: i32,
    pub timeout_seconds: i32,
    pub period_seconds: i32,
    pub success_threshold: i32,
    pub failure_threshold: i32,
    pub http_get: Option<HttpProbe>,
    pub tcp_socket: Option<TcpProbe>,
    pub exec: Option<ExecProbe>,
    pub grpc: Option<GrpcProbe>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpProbe {
    #[serde(deserialize_with = "filled")]
    pub path: Option<String>,
    pub port: u32,
    #[serde(deserialize_with = "filled")]
    pub host: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub scheme: Option<String>,
    pub http_headers: Vec<ProbeHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ProbeHeader {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpProbe {
    #[serde(deserialize_with = "filled")]
    pub host: Option<String>,
    pub port: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ExecProbe {
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct GrpcProbe {
    pub port: u32,
    #[serde(deserialize_with = "filled")]
    pub service: Option<String>,
}
