//! `cargo xtask clean-host`: removes what a run of ours left behind when it was killed. Prints what it removes.
//!
//! Only things by our names are touched: namespaces and links `mlt-*`, pins `meltemi*` with their proxies and the local routes to
//! these (protocol 77), run directories and locks `meltemi*`, temporary directories `mlt-*`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{host, sh};

/// Prefix of every namespace, link and temporary directory that tests, demonstration and bench make.
const PREFIX: &str = "mlt-";
const NAMESPACES: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";
/// Control sockets of proxies lie in it, in directories called after the pins; beside them the agents' locks.
const RUN: &str = "/run";
const RUN_PREFIX: &str = "meltemi-sys-fs-bpf-meltemi";

/// Removes all of it.
pub fn clean_host() -> Result<()> {
    host::require_root("removing namespaces and pinned programs", "cargo xtask clean-host")?;
    let namespaces = named(Path::new(NAMESPACES), PREFIX);
    for namespace in &namespaces {
        end_processes(namespace);
    }
    for pin in named(Path::new(BPFFS), "meltemi") {
        remove_pin(&pin)?;
    }
    for namespace in &namespaces {
        let name = namespace.file_name().unwrap_or_default();
        sh::run(sh::command("ip").args(["netns", "delete"]).arg(name))?;
    }
    for link in named(Path::new("/sys/class/net"), PREFIX) {
        sh::run(sh::command("ip").args(["link", "delete"]).arg(link.file_name().unwrap_or_default()))?;
    }
    // Those whose pins are gone; detaching has ended the proxies of the others.
    for path in named(&env::temp_dir(), PREFIX).into_iter().chain(named(Path::new(RUN), RUN_PREFIX)) {
        sh::say(format!("removing {}", path.display()));
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    sh::say("clean");
    Ok(())
}

fn named(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found
}

/// Every process inside a namespace of ours is ours: nobody else knows its name.
fn end_processes(namespace: &Path) {
    let name = namespace.file_name().unwrap_or_default();
    let pids = sh::capture(sh::command("ip").args(["netns", "pids"]).arg(name)).unwrap_or_default();
    for pid in pids.split_whitespace() {
        // It may have ended by itself meanwhile; then there is nothing to do.
        if let Err(error) = sh::run(sh::command("kill").args(["-9", pid])) {
            sh::say(format!("{error:#}"));
        }
    }
}

/// By the agent's own command where it is built, else by removing the pins, which detaches as well.
fn remove_pin(pin: &Path) -> Result<()> {
    let agent = sh::root().join("target/release/meltemi");
    if agent.exists()
        && let Err(error) = sh::run(sh::command(&agent).arg("detach").arg("--pin").arg(pin))
    {
        sh::say(format!("{error:#}; removing the pins instead"));
    }
    if pin.exists() {
        sh::say(format!("removing {}", pin.display()));
        fs::remove_dir_all(pin).with_context(|| format!("cannot remove {}", pin.display()))?;
    }
    Ok(())
}
