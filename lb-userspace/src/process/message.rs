//! What agent and proxy say to each other. `Hello` and `Drain` must be understood by every version: an agent meets the proxy
//! of the version before it.

use crate::{
    proxy::{Figures, Material},
    snapshot::Snapshot,
};
use serde::{Deserialize, Serialize};
use std::{fs, io, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

/// Changes when anything but `Hello` and `Drain` does, the snapshot included.
pub const PROTOCOL: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
pub enum ToProxy {
    /// The listening sockets come along; each worker gets an equal run of them.
    Listen { workers: u32 },
    /// The next revision. Answered by `Applied` or `Refused`.
    Apply(Arc<Revision>),
    /// Answered by `Counted`.
    Count,
    /// Accept nothing new, and end when the last connection has ended or `within` is over.
    Drain { within: Duration },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum FromProxy {
    /// The first thing said on a connection; the listening sockets come along where there are any.
    Hello(Hello),
    Applied {
        revision: u64,
        /// Certificates and keys that cannot be used; all else is in force.
        problems: Vec<String>,
    },
    Refused {
        revision: u64,
        reason: String,
    },
    /// What all workers have counted so far.
    Counted(Figures),
}

/// Everything the proxy needs of one revision.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    pub snapshot: Arc<Snapshot>,
    /// What the snapshot's credentials name, read by the agent: the proxy opens no key file.
    pub material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub pid: u32,
    pub program: Option<Program>,
    /// What it was started with, the agent's own among it left out.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// 0: it has no sockets yet.
    pub workers: u32,
    pub is_draining: bool,
}

/// Which file a process was started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    device: u64,
    inode: u64,
}

impl Program {
    pub fn own() -> io::Result<Program> {
        let meta = fs::metadata(OWN_PROGRAM)?;
        Ok(Program { device: meta.dev(), inode: meta.ino() })
    }
}

/// Leads to the running program also when its file has been replaced, and past directories that are closed to others.
pub const OWN_PROGRAM: &str = "/proc/self/exe";
