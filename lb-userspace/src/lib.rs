//! The agent of Meltemi: Istio's configuration in, kernel tables out.
//!
//! The fuzz targets need what is pure: without the rest they build in a fraction of the time.

#[cfg(not(fuzzing))]
pub mod agent;
#[cfg(not(fuzzing))]
pub mod cli;
pub mod compile;
#[cfg(not(fuzzing))]
pub mod dataplane;
#[cfg(not(fuzzing))]
pub mod explain;
pub mod finding;
#[cfg(not(fuzzing))]
pub mod host;
pub mod image;
pub mod model;
#[cfg(not(fuzzing))]
pub mod observe;
pub mod plan;
#[cfg(not(fuzzing))]
pub mod process;
#[cfg(not(fuzzing))]
pub mod proxy;
pub mod router;
pub mod slots;
pub mod snapshot;
#[cfg(not(fuzzing))]
pub mod source;
pub mod spec;
