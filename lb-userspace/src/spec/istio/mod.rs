//! Istio's kinds exactly as written (networking.istio.io v1, v1beta1, v1alpha3). Meaning and defaults are `model`'s.
//!
//! As in protobuf's JSON an empty text is the same as one left out, so optional texts are never `Some("")`.

mod destination_rule;
mod gateway;
mod http;
mod virtual_service;
mod workload;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use destination_rule::*;
pub use gateway::*;
pub use http::*;
pub use virtual_service::*;
pub use workload::*;

/// Labels, or a selector over labels: every pair must be there.
pub type Labels = BTreeMap<String, String>;

/// `Gateway.servers[].port` and `ServiceEntry.ports[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    pub number: u32,
    pub protocol: String,
    pub name: String,
    pub target_port: Option<u32>,
}

/// A port by its number; the CRDs know no names here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PortSelector {
    pub number: u32,
}
