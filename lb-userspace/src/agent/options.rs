//! What the agent is told to do, and why it cannot.

use crate::{
    dataplane::{
        MapsError,
        limits::Limits,
        load::{LoadError, Mode},
    },
    host::{Choice, HostError},
    model::Identity,
    observe::flows::Removed,
    process::{self, ProcessError},
    source::watch::WatchError,
};
use lb_common::conntrack::Timeouts;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};
use thiserror::Error;

/// Everything the user says on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: Vec<PathBuf>,
    pub interfaces: Vec<String>,
    /// `None`: by kind of interface.
    pub mode: Option<Mode>,
    pub forwarding: Choice,
    pub vips: Vec<IpAddr>,
    pub identity: Identity,
    pub pin: PathBuf,
    pub admin: Option<SocketAddr>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub snat_ports: (u16, u16),
    pub removed: Removed,
    /// `None`: what needs the proxy is left to the host.
    pub proxy: Option<process::Options>,
    pub on_exit: OnExit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The kernel goes on without an agent.
    Leave,
    Detach,
}

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("{0}")]
    Unreadable(String),
    #[error(
        "{0}\nthe configuration is broken and a former agent's tables are in force: they stay as they are; repair it, or `meltemi detach` first"
    )]
    Broken(String),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("--snat-ports {}-{} overlaps the host's own ports {}-{} (net.ipv4.ip_local_port_range): a local connection could clash with a client's", snat.0, snat.1, local.0, local.1)]
    Ports { snat: (u16, u16), local: (u16, u16) },
    #[error("the admin endpoint {address}: {source}")]
    Admin { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Proxy(#[from] ProcessError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
}
