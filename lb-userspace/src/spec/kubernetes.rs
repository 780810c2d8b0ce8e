//! Kubernetes' kinds as written, as far as they say something about traffic, its endpoints or its keys. Other fields are
//! not here, and are no finding.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use super::{istio::Labels, value::Bytes};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Service {
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub selector: Labels,
    /// ClusterIP when left out.
    pub r#type: Option<String>,
    pub external_name: Option<String>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    pub load_balancer_class: Option<String>,
    pub load_balancer_source_ranges: Vec<String>,
    /// Whether a LoadBalancer's ports get node ports too; true when left out.
    pub allocate_load_balancer_node_ports: Option<bool>,
    pub health_check_node_port: Option<u16>,
    /// `ClientIP` or `None`.
    pub session_affinity: Option<String>,
    /// `Local` or `Cluster`.
    pub external_traffic_policy: Option<String>,
    /// `Local` or `Cluster`.
    pub internal_traffic_policy: Option<String>,
    pub traffic_distribution: Option<String>,
    pub ip_families: Vec<String>,
    pub ip_family_policy: Option<String>,
    pub publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    pub name: Option<String>,
    /// `TCP` when left out.
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
    pub port: u16,
    pub target_port: Option<TargetPort>,
    pub node_port: Option<u16>,
}

/// A port number, or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a port number or the name of a container port")]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

/// `v1 Endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    pub subsets: Vec<EndpointSubset>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSubset {
    pub addresses: Vec<EndpointAddress>,
    pub not_ready_addresses: Vec<EndpointAddress>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointAddress {
    pub ip: String,
    pub hostname: Option<String>,
    pub node_name: Option<String>,
    pub target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointPort {
    pub name: Option<String>,
    pub port: Option<u16>,
    pub protocol: Option<String>,
    pub app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    pub kind: Option<String>,
    pub name: Option<String>,
    pub namespace: Option<String>,
}

/// `discovery.k8s.io/v1 EndpointSlice`. Its Service is named by the label `kubernetes.io/service-name`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    pub address_type: String,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SliceEndpoint {
    pub addresses: Vec<String>,
    pub conditions: Conditions,
    pub hostname: Option<String>,
    pub node_name: Option<String>,
    pub zone: Option<String>,
    pub target_ref: Option<TargetRef>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// Left out means ready.
    pub ready: Option<bool>,
    /// Left out means as `ready`.
    pub serving: Option<bool>,
    /// Left out means not.
    pub terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub containers: Vec<Container>,
    pub host_network: bool,
    pub node_name: Option<String>,
    pub service_account_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Container {
    pub name: String,
    pub ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Option<String>,
    pub container_port: u16,
    pub host_port: Option<u16>,
    pub protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    pub r#type: String,
    pub status: String,
}

/// `v1 Namespace`: what it says is in its labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    pub status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active` or `Terminating`.
    pub phase: Option<String>,
}

/// `v1 Secret`. No value of it is ever printed.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Secret {
    pub r#type: Option<String>,
    pub data: BTreeMap<String, Bytes>,
    /// As text; wins over `data`.
    pub string_data: BTreeMap<String, String>,
    pub immutable: Option<bool>,
}

impl Secret {
    /// The value of a key; an empty one is the same as none.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(String::as_bytes);
        text.or_else(|| self.data.get(key).map(|bytes| bytes.0.as_slice())).filter(|value| !value.is_empty())
    }

    /// Every key, each once.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let more = self.string_data.keys().filter(|key| !self.data.contains_key(*key));
        self.data.keys().chain(more).map(String::as_str)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("type", &self.r#type).field("keys", &self.keys().collect::<Vec<_>>()).finish()
    }
}
