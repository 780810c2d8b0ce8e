//! Where kernel objects are kept between agents: the pin directory, and the lock that lets one agent work on it.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum PinsError {
    #[error("cannot mount the BPF file system at {path}: {reason}; mount it with `mount -t bpf bpf {path}`")]
    Mount { path: PathBuf, reason: String },
    #[error("{path} is not on a BPF file system")]
    NotBpffs { path: PathBuf },
    #[error(
        "{path} belongs to user {owner} or is open to others (mode {mode:o}); it should be root's alone: remove it or choose another --pin"
    )]
    Unsafe { path: PathBuf, owner: u32, mode: u32 },
    #[error("another agent works on {path}; stop it, or give this one another --pin and other interfaces")]
    Locked { path: PathBuf },
    #[error("not permitted to write {path}: run as root or with CAP_BPF, CAP_NET_ADMIN and the right to write there")]
    NotPermitted { path: PathBuf },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The directory of one agent on the BPF file system.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

const BPFFS: &str = "/sys/fs/bpf";

impl Pins {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(name)
    }

    pub fn exists(&self) -> bool {
        self.map("META").exists()
    }

    /// Makes the directory, mounting the BPF file system where it is missing, and checks that nobody else can write there.
    pub fn prepare(&self) -> Result<(), PinsError> {
        if self.root.starts_with(BPFFS) && !is_mount(Path::new(BPFFS)) {
            mount()?;
        }
        for path in [self.root.clone(), self.root.join("maps"), self.links(), self.root.join("programs")] {
            match DirBuilder::new().mode(0o700).recursive(false).create(&path) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(PinsError::Io { path, source });
                }
                _ => self.check(&path)?,
            }
        }
        Ok(())
    }

    fn check(&self, path: &Path) -> Result<(), PinsError> {
        let meta = fs::symlink_metadata(path).map_err(|source| PinsError::Io { path: path.into(), source })?;
        let mode = meta.mode() & 0o777;
        if !meta.is_dir() || meta.uid() != 0 || mode & 0o077 != 0 {
            return Err(PinsError::Unsafe { path: path.into(), owner: meta.uid(), mode });
        }
        Ok(())
    }

    /// The agent's lock, held until the file is dropped. On another file system, since bpffs has no locks.
    pub fn lock(&self) -> Result<File, PinsError> {
        let name: String =
            self.root.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = PathBuf::from(format!("/run/meltemi{name}.lock"));
        let file = File::create(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => PinsError::NotPermitted { path: path.clone() },
            _ => PinsError::Io { path: path.clone(), source },
        })?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(PinsError::Locked { path: self.root.clone() }),
            Err(TryLockError::Error(source)) => Err(PinsError::Io { path, source }),
        }
    }

    /// Removes everything. Links first: with them goes every attachment.
    pub fn remove(&self) -> Result<(), PinsError> {
        for part in ["links", "programs", "maps", ""] {
            let path = self.root.join(part);
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(PinsError::Io { path, source }),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_mount(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next().is_some_and(|at| Path::new(at) == path) && fields.next() == Some("bpf")
    })
}

fn mount() -> Result<(), PinsError> {
    let error = |reason: String| PinsError::Mount { path: BPFFS.into(), reason };
    let output =
        Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).output().map_err(|source| error(source.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(error(String::from_utf8_lossy(&output.stderr).trim().to_owned())) }
}
