//! The agent of Meltemi: Istio's configuration in, kernel tables out.

pub mod cli;
pub mod finding;
pub mod model;
pub mod source;
pub mod spec;
