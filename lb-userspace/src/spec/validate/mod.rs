//! What admission says about one object alone: refusals, warnings, and fields that do nothing where they stand.
//!
//! The verdict is that of Istio's webhook and CRD schemas (and the API server's for Kubernetes' kinds): what they accept is
//! never an error here. References to other objects are `model`'s to check: a file may come before what it refers to.

mod check;
mod client_tls;
mod destination_rule;
mod gateway;
mod headers;
mod hosts;
mod http;
mod http_action;
mod http_match;
mod kubernetes;
mod load_balancer;
mod pool;
mod server_tls;
mod service_entry;
mod virtual_service;
mod workload;

pub use check::{Judgement, Subject};
pub use destination_rule::destination_rule;
pub use gateway::gateway;
pub use kubernetes::{endpoint_slice, endpoints, pod, service};
pub use service_entry::{allocates_address, service_entry};
pub use virtual_service::virtual_service;
pub use workload::{workload_entry, workload_group};
