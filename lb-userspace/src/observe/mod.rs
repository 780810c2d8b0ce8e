//! Looking at what runs: status, metrics, flows, and the endpoint that serves them. Nothing here changes a table but the
//! sweep of flows that have ended.

pub mod admin;
pub mod flows;
pub mod metrics;
pub mod served;
pub mod shared;
pub mod status;
