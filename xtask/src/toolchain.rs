//! The compiler for the BPF target: finding one that can build `core` from source, or installing one.
//!
//! The target bpfel-unknown-none is tier 3: no `core` is shipped for it, so a usable compiler brings the sources of
//! its own library and accepts unstable flags. The linker is another matter, see `linker.rs`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{packages, sh};

/// The Rust target of the programs.
pub const TARGET: &str = "bpfel-unknown-none";

/// Names the rustc to use for the BPF target instead of searching for one.
pub const OVERRIDE: &str = "MELTEMI_BPF_RUSTC";

/// Oldest compiler with edition 2024 and what aya-ebpf asks for: (1, minor).
const OLDEST_MINOR: u32 = 88;

/// Debian's compiler, its cargo and its library sources.
pub const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A download over a slow line may take this long; a dead line must not hold a newcomer longer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// The ways to a compiler, in the order they are tried: what is there before what must be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Override,
    Nightly,
    Debian,
    NightlyAddSources,
    NightlyInstall,
    DebianInstall,
}

impl Way {
    /// Ways that change nothing on this machine.
    pub const PRESENT: [Way; 3] = [Way::Override, Way::Nightly, Way::Debian];
    /// Ways that install something.
    pub const INSTALL: [Way; 3] = [Way::NightlyAddSources, Way::NightlyInstall, Way::DebianInstall];

    /// The commands that this way stands for, as one would type them.
    pub fn typed(self) -> Option<String> {
        match self {
            Way::Override => Some(format!("export {OVERRIDE}=/path/to/rustc")),
            Way::Nightly | Way::Debian => None,
            Way::NightlyAddSources => Some("rustup component add rust-src --toolchain nightly".into()),
            Way::NightlyInstall => {
                Some("rustup toolchain install nightly --profile minimal --component rust-src".into())
            }
            Way::DebianInstall => Some(packages::install_line(&DEBIAN_PACKAGES)),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Override => "the compiler named by MELTEMI_BPF_RUSTC",
            Way::Nightly => "rustup's nightly",
            Way::Debian => "Debian's rustc-web",
            Way::NightlyAddSources => "rustup's nightly with rust-src added",
            Way::NightlyInstall => "a newly installed rustup nightly",
            Way::DebianInstall => "Debian's rustc-web, newly installed",
        })
    }
}

/// Whether the compiler takes unstable flags by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Nightly,
    /// Takes them with RUSTC_BOOTSTRAP=1.
    Stable,
}

/// A compiler that can build `core` for the BPF target.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub way: Way,
    pub rustc: PathBuf,
    pub cargo: PathBuf,
    pub version: Version,
}

/// What `rustc -vV` says of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub release: String,
    pub channel: Channel,
    /// LLVM's major version: the linker must read what this one writes.
    pub llvm: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let release = field("release:")?.to_owned();
        let channel =
            if release.contains("nightly") || release.contains("-dev") { Channel::Nightly } else { Channel::Stable };
        let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Version { release, channel, llvm })
    }

    fn minor(&self) -> Option<u32> {
        self.release.strip_prefix("1.")?.split('.').next()?.parse().ok()
    }
}

impl Compiler {
    /// `cargo VERB` of this compiler, with its own rustc and none of rustup's choices.
    pub fn cargo(&self, verb: &str) -> Command {
        // Asked for a subcommand, cargo takes the first of PATH, which on a rustup host is another compiler's; so a
        // subcommand is started by its own path.
        let subcommand = self.rustc.with_file_name(format!("cargo-{verb}"));
        let mut command = if subcommand.exists() { sh::command(subcommand) } else { sh::command(&self.cargo) };
        command.arg(verb).env("CARGO", &self.cargo).env("RUSTC", &self.rustc);
        for name in ["RUSTUP_TOOLCHAIN", "RUSTDOC", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        self.unlock(&mut command);
        command
    }

    fn unlock(&self, command: &mut Command) {
        match self.version.channel {
            Channel::Nightly => command.env_remove("RUSTC_BOOTSTRAP"),
            Channel::Stable => command.env("RUSTC_BOOTSTRAP", "1"),
        };
    }
}

/// Where to look; a value of its own so that tests can look somewhere else.
pub struct Search {
    pub path: OsString,
    pub named: Option<PathBuf>,
    /// Directory of Debian's compiler.
    pub debian_bin: PathBuf,
}

impl Search {
    /// This process's environment.
    pub fn from_env() -> Self {
        Search {
            path: env::var_os("PATH").unwrap_or_default(),
            named: env::var_os(OVERRIDE).map(PathBuf::from),
            debian_bin: PathBuf::from("/usr/bin"),
        }
    }

    /// Follows one way to the end. An error says why it leads nowhere.
    pub fn try_way(&self, way: Way) -> Result<Compiler> {
        match way {
            Way::Override => {
                let rustc = self.named.clone().with_context(|| format!("{OVERRIDE} is not set"))?;
                let beside = rustc.with_file_name("cargo");
                let cargo = if beside.exists() {
                    beside
                } else {
                    PathBuf::from(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
                };
                probe(way, &rustc, &cargo)
            }
            Way::Nightly => self.nightly(way),
            Way::Debian => probe(way, &self.debian_bin.join("rustc"), &self.debian_bin.join("cargo")),
            Way::NightlyAddSources => {
                self.nightly_file("rustc")?;
                sh::run_within(
                    self.rustup()?.args(["component", "add", "rust-src", "--toolchain", "nightly"]),
                    RUSTUP_LIMIT,
                )?;
                self.nightly(way)
            }
            Way::NightlyInstall => {
                ensure!(self.nightly_file("rustc").is_err(), "a nightly is there already");
                let words = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
                sh::run_within(self.rustup()?.args(words), RUSTUP_LIMIT)?;
                self.nightly(way)
            }
            Way::DebianInstall => {
                packages::install(&DEBIAN_PACKAGES)?;
                probe(way, &self.debian_bin.join("rustc"), &self.debian_bin.join("cargo"))
            }
        }
    }

    fn rustup(&self) -> Result<Command> {
        let mut command = sh::command(sh::find_in(&self.path, "rustup").context("rustup is not there")?);
        // One retry is enough to tell a hiccup from a machine that cannot reach the release server.
        command.env("PATH", &self.path).env("RUSTUP_MAX_RETRIES", "1");
        Ok(command)
    }

    fn nightly_file(&self, name: &str) -> Result<PathBuf> {
        let told = sh::capture(self.rustup()?.args(["which", name, "--toolchain", "nightly"]))
            .context("no nightly toolchain")?;
        Ok(PathBuf::from(told.trim()))
    }

    fn nightly(&self, way: Way) -> Result<Compiler> {
        probe(way, &self.nightly_file("rustc")?, &self.nightly_file("cargo")?)
    }
}

/// Asks a compiler what it is, and whether its library sources are there.
pub fn probe(way: Way, rustc: &Path, cargo: &Path) -> Result<Compiler> {
    ensure!(rustc.exists(), "{} is not there", rustc.display());
    let text = sh::capture(sh::command(rustc).arg("-vV"))?;
    let version =
        Version::parse(&text).with_context(|| format!("cannot read the answer of {} -vV", rustc.display()))?;
    if version.minor().is_none_or(|minor| minor < OLDEST_MINOR) {
        bail!("{} is {}, older than 1.{OLDEST_MINOR}", rustc.display(), version.release);
    }
    let sysroot = PathBuf::from(sh::capture(sh::command(rustc).args(["--print", "sysroot"]))?.trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    ensure!(sources.exists(), "{} {} has no library sources (rust-src)", rustc.display(), version.release);
    sh::capture(sh::command(cargo).arg("--version")).with_context(|| format!("no cargo for {}", rustc.display()))?;
    Ok(Compiler { way, rustc: rustc.to_path_buf(), cargo: cargo.to_path_buf(), version })
}

#[cfg(test)]
#[path = "toolchain_tests.rs"]
mod tests;
