//! The agent of Meltemi: Istio's configuration in, kernel tables out.

pub mod agent;
pub mod cli;
pub mod compile;
pub mod dataplane;
pub mod explain;
pub mod finding;
pub mod host;
pub mod image;
pub mod model;
pub mod observe;
pub mod plan;
pub mod process;
pub mod proxy;
pub mod router;
pub mod slots;
pub mod snapshot;
pub mod source;
pub mod spec;
