//! The proxy as a process: how the agent starts, feeds and replaces it, and how it confines itself. What it does with
//! connections is `proxy`'s; which configuration it gets is the agent's.
//!
//! The agent makes the listening sockets and the control socket and hands them over; the proxy has no privilege of its own and
//! outlives the agent, which finds it again by its control socket in the run directory. One message each way at a time: see
//! `message`.

mod channel;
mod child;
mod confine;
mod directory;
mod keeper;
mod message;
mod sockets;

pub use child::{ChildError, ChildOptions, run};
pub use confine::Root;
pub use directory::Directory;
pub use keeper::{Keeper, Options, Output, Report, Reporter};
pub use message::Revision;
pub use sockets::Sockets;

use std::io;
use thiserror::Error;

/// As whom the proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// This user and group, which the agent must be allowed to become.
    Id(u32),
    /// The agent's own, without its capabilities.
    Same,
}

#[derive(Debug, Error)]
pub enum ProcessError {
    #[error("cannot make a listening socket for the proxy: {0}")]
    Socket(io::Error),
    #[error("{path}: {source}", path = path.display())]
    Directory { path: std::path::PathBuf, source: io::Error },
    #[error(
        "cannot start the proxy as user {user}: {source}; give another --proxy-user (`same`: the agent's own, without its capabilities)"
    )]
    Start { user: String, source: io::Error },
    #[error("the proxy refused the configuration: {0}")]
    Refused(String),
    #[error("the proxy did not answer within {} s", .0.as_secs())]
    Silent(std::time::Duration),
}
