//! The agent of Meltemi: Istio's configuration in, kernel tables out.

pub mod cli;
pub mod compile;
pub mod dataplane;
pub mod finding;
pub mod image;
pub mod model;
pub mod plan;
pub mod source;
pub mod spec;
