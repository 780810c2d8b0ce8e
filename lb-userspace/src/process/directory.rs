//! Where the control sockets of proxies lie: a directory of the agent's own beside its lock. Everything in it that answers
//! is a living proxy.

use super::{
    ProcessError,
    channel::Channel,
    message::{FromProxy, Hello, ToProxy},
};
use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest time that a proxy which exists takes to say hello.
const HELLO: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// A proxy that was found.
#[derive(Debug)]
pub struct Found {
    pub channel: Channel,
    pub hello: Hello,
    pub sockets: Vec<OwnedFd>,
}

impl Directory {
    /// That of the agent with these pins.
    pub fn of(pins: &Path) -> Self {
        let name: String =
            pins.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Self { path: PathBuf::from(format!("/run/meltemi{name}")) }
    }

    /// Whether proxies may be there.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// A control socket by a new name, and its path.
    pub fn listen(&self) -> Result<(UnixListener, PathBuf), ProcessError> {
        let failed = |source| ProcessError::Directory { path: self.path.clone(), source };
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let taken = self.names();
        let number = taken.iter().filter_map(|path| number(path)).max().unwrap_or(0) + 1;
        let path = self.path.join(format!("proxy-{number}"));
        let listener = UnixListener::bind(&path).map_err(failed)?;
        Ok((listener, path))
    }

    /// Every proxy that lives, the youngest first. Names of dead ones are removed.
    pub fn living(&self) -> Vec<Found> {
        let mut names = self.names();
        names.sort_by_key(|path| std::cmp::Reverse(number(path)));
        names.iter().filter_map(|path| greet(path)).collect()
    }

    /// Tells every proxy to end at once, and removes the directory. How many there were.
    pub fn clear(&self) -> usize {
        let living = self.living();
        for found in &living {
            if found.channel.send(&ToProxy::Drain { within: Duration::ZERO }, &[]).is_ok() {
                // Gone when it says nothing any more, or not in time; there is no more to do.
                while matches!(found.channel.receive::<FromProxy>(), Ok(Some(_))) {}
            }
        }
        let _ = fs::remove_dir_all(&self.path);
        living.len()
    }

    fn names(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }
}

fn number(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix("proxy-")?.parse().ok()
}

fn greet(path: &Path) -> Option<Found> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(_) => {
            let _ = fs::remove_file(path);
            return None;
        }
    };
    let channel = Channel::new(stream).ok()?;
    channel.read_within(Some(HELLO)).ok()?;
    match channel.receive() {
        Ok(Some((FromProxy::Hello(hello), sockets))) => Some(Found { channel, hello, sockets }),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("the proxy at {} does not answer: {error}", path.display());
            None
        }
    }
}
