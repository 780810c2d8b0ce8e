//! Facts about this host, read from /proc and /sys: who we are, which kernel, what it offers.
//!
//! Only reads; [`mount_bpffs`] is the one exception.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::sh;

/// Capabilities that loading and attaching needs, by their bit in /proc/self/status (linux/capability.h).
pub const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Whether the effective user is root.
pub fn is_root() -> bool {
    status_field("Uid").is_some_and(|uids| uids.split_whitespace().nth(1) == Some("0"))
}

/// Fails with what to type where we are not root.
pub fn require_root(why: &str, retry: &str) -> Result<()> {
    if !is_root() {
        bail!("root is needed: {why}.\nType, as root (sudo -E keeps cargo's environment): {retry}");
    }
    Ok(())
}

/// Whether this process has the capability with that bit in force.
pub fn has_capability(bit: u32) -> bool {
    let mask = status_field("CapEff").and_then(|hex| u64::from_str_radix(&hex, 16).ok()).unwrap_or(0);
    mask & (1 << bit) != 0
}

/// The kernel's release text and its (major, minor).
pub fn kernel() -> (String, (u32, u32)) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let version = parse_kernel(&release).unwrap_or((0, 0));
    (release, version)
}

fn parse_kernel(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether a bpf file system is mounted at /sys/fs/bpf.
pub fn has_bpffs() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf") && line.split(' ').nth(2) == Some("bpf"))
}

/// Mounts the bpf file system where it is not mounted.
pub fn mount_bpffs() -> Result<()> {
    if has_bpffs() { Ok(()) } else { sh::run(sh::command("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"])) }
}

/// Whether the kernel tells its types, which the programs' BTF refers to.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

#[cfg(test)]
mod tests {
    use super::parse_kernel;

    #[test]
    fn kernel_releases_of_several_distributions() {
        assert_eq!(parse_kernel("6.1.0-25-amd64"), Some((6, 1)));
        assert_eq!(parse_kernel("6.18.44-fc-v445"), Some((6, 18)));
        assert_eq!(parse_kernel("5.15"), Some((5, 15)));
        assert_eq!(parse_kernel("unknown"), None);
    }
}
