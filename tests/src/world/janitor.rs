//! Removing a world, whatever became of its maker.
//!
//! A process of its own waits for its stdin to end, which happens when the maker drops the world, panics, is
//! interrupted or is killed. It stands in its own process group, so that Ctrl-C on the terminal does not reach it.

use std::fs;
use std::io::{self, BufRead as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::netns::run;
use super::{PREFIX, helper_program};
use crate::poll;

/// The line by which a maker says that the world shall outlive it.
const KEEP: &str = "keep";

/// The waiting process.
pub(super) struct Janitor {
    child: Child,
}

impl Janitor {
    pub(super) fn start(id: &str) -> Result<Janitor> {
        let program = helper_program()?;
        let child = Command::new(&program)
            .args(["world-janitor", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Janitor { child })
    }

    /// The world stays; somebody removes it later by [`remove`].
    pub(super) fn dismiss(&mut self) -> Result<()> {
        use std::io::Write as _;
        if let Some(mut stdin) = self.child.stdin.take() {
            writeln!(stdin, "{KEEP}")?;
        }
        self.child.wait()?;
        Ok(())
    }

    /// Lets it do its work, and waits for the end of it.
    pub(super) fn finish(&mut self) {
        drop(self.child.stdin.take());
        if let Err(error) = self.child.wait() {
            eprintln!("world: {error}");
        }
    }
}

/// The janitor's own life; `id` is the world's.
///
/// # Errors
/// When something of the world cannot be removed.
pub fn wait_and_remove(id: &str) -> Result<()> {
    for line in io::stdin().lock().lines() {
        if line.is_ok_and(|line| line.trim() == KEEP) {
            return Ok(());
        }
    }
    remove(id)
}

/// Removes a world: its processes, its pins, its namespaces with their links, its directory. What is not there is
/// fine; what cannot be removed does not keep the rest from being removed.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove(id: &str) -> Result<()> {
    let names = namespaces(id);
    let mut results = Vec::new();
    for name in &names {
        results.push(end_processes(name));
    }
    results.push(remove_dir(&pin_dir(id)));
    results.push(remove_dir(&run_dir(id)));
    results.push(expect_gone(fs::remove_file(lock_file(id)), &lock_file(id)));
    for name in &names {
        results.push(run(Command::new("ip").args(["netns", "delete", name])).map(|_| ()));
    }
    results.push(remove_dir(&directory(id)));
    results.into_iter().collect()
}

/// Where the agent of a world pins.
pub(super) fn pin_dir(id: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("meltemi-{id}"))
}

/// Where the agent of a world has the control sockets of its proxies: named after its pins.
pub(super) fn run_dir(id: &str) -> PathBuf {
    Path::new("/run").join(format!("meltemi-sys-fs-bpf-meltemi-{id}"))
}

/// What the agent of a world held for its life.
fn lock_file(id: &str) -> PathBuf {
    run_dir(id).with_extension("lock")
}

/// Where a world keeps its files.
pub(super) fn directory(id: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{id}"))
}

fn namespaces(id: &str) -> Vec<String> {
    let prefix = format!("{PREFIX}{id}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

/// Every process inside a namespace of ours was started for it.
fn end_processes(namespace: &str) -> Result<()> {
    let inside = || run(Command::new("ip").args(["netns", "pids", namespace]));
    poll::until(Duration::from_secs(10), "the end of a world's processes", || {
        let pids = inside()?;
        for pid in pids.split_whitespace() {
            // It may have ended meanwhile; the next look tells.
            let _ = run(Command::new("sh").args(["-c", "kill -KILL \"$1\"", "sh", pid]));
        }
        Ok(pids.trim().is_empty().then_some(()))
    })
}

fn remove_dir(dir: &Path) -> Result<()> {
    expect_gone(fs::remove_dir_all(dir), dir)
}

/// What was not there is gone too.
fn expect_gone(removed: io::Result<()>, path: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
