//! `cargo xtask check`: format, clippy for this host and for the BPF target, tidy, cargo-deny.
//!
//! All of them run even where an earlier one fails, so that one run tells everything.

use anyhow::{Context as _, Result, bail};

use crate::toolchain::Way;
use crate::tools::{self, Tools};
use crate::{build, packages, sh, tidy};

/// What is checked beyond format, clippy and tidy.
#[derive(clap::Args)]
pub struct Args {
    /// Install cargo-deny where it is missing (compiling it takes some minutes)
    #[arg(long)]
    deny: bool,
}

/// Runs every check, and fails where one fails.
pub fn check(args: &Args) -> Result<()> {
    let tools = tools::obtain()?;
    let checks: [(&str, &dyn Fn() -> Result<()>); 5] = [
        ("format", &format),
        ("tidy", &tidy::tidy),
        ("clippy, BPF target", &|| clippy_bpf(&tools)),
        ("clippy, this host", &|| clippy_host(&tools)),
        ("deny", &|| deny(args)),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        sh::say(format!("== {name}"));
        if let Err(error) = check() {
            sh::say(format!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    sh::say("all checks passed");
    Ok(())
}

fn format() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))
}

/// In the release profile: its build scripts and macros are there already where something was built or tested.
fn clippy_host(tools: &Tools) -> Result<()> {
    let object = build::build_bpf(tools).context("the agent embeds the programs")?;
    let mut cargo = sh::cargo();
    cargo.args(["clippy", "--release", "--all-targets", "--", "-D", "warnings"]);
    sh::run(cargo.env("MELTEMI_BPF_OBJECT", object))
}

/// With the BPF compiler's own clippy, which Debian packages apart from the compiler.
fn clippy_bpf(tools: &Tools) -> Result<()> {
    let driver = tools.compiler.rustc.with_file_name("clippy-driver");
    if !driver.exists() {
        match tools.compiler.way {
            Way::Debian | Way::DebianInstall => packages::install(&["rust-web-clippy"])?,
            _ => bail!("no {}: rustup component add clippy --toolchain nightly", driver.display()),
        }
    }
    let mut cargo = build::bpf_cargo(tools, "clippy")?;
    sh::run(cargo.args(["--release", "--", "-D", "warnings"]))
}

fn deny(args: &Args) -> Result<()> {
    if sh::find("cargo-deny").is_none() {
        if !args.deny {
            sh::say("cargo-deny is not there, so licences are not checked; --deny installs it");
            return Ok(());
        }
        sh::say("compiling cargo-deny (some minutes)");
        sh::run(sh::cargo().args(["install", "cargo-deny", "--locked"]))?;
    }
    sh::run(sh::cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}
