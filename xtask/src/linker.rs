//! bpf-linker: finding one whose LLVM reads what the compiler's LLVM writes, or installing one.
//!
//! LLVM reads bitcode of older versions, never of newer ones; so the linker's major version is the compiler's or above.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{packages, sh};

/// The version that is installed where none fits.
const VERSION: &str = "0.13.0";

/// LLVM versions that this version can be built against.
const BUILDABLE: std::ops::RangeInclusive<u32> = 21..=23;

/// A bpf-linker and the LLVM it was built against.
#[derive(Clone, Debug)]
pub struct Linker {
    pub path: PathBuf,
    pub llvm: u32,
}

/// The linkers on this machine that read bitcode of LLVM `llvm`, the best first.
pub fn find(llvm: u32) -> Result<Linker> {
    let places = places();
    ensure!(!places.is_empty(), "bpf-linker is not there");
    let linkers: Vec<Linker> = places.iter().filter_map(|path| probe(path).ok()).collect();
    let fitting = linkers.iter().filter(|linker| linker.llvm >= llvm).min_by_key(|linker| linker.llvm);
    fitting.cloned().with_context(|| {
        let had: Vec<String> =
            linkers.iter().map(|linker| format!("{} has LLVM {}", linker.path.display(), linker.llvm)).collect();
        format!(
            "no bpf-linker with LLVM {llvm} ({})",
            if had.is_empty() { "none that starts".to_owned() } else { had.join(", ") }
        )
    })
}

/// Asks one linker; an error says why it is of no use.
pub fn probe(path: &Path) -> Result<Linker> {
    sh::capture(sh::command(path).arg("--version")).with_context(|| format!("{} does not start", path.display()))?;
    let bytes = fs::read(path)?;
    let llvm = llvm_in(&bytes).with_context(|| format!("cannot tell the LLVM version of {}", path.display()))?;
    Ok(Linker { path: path.to_path_buf(), llvm })
}

/// Finds or installs.
pub fn obtain(llvm: u32) -> Result<Linker> {
    match find(llvm) {
        Ok(linker) => Ok(linker),
        Err(why) => {
            sh::say(format!("{why:#}"));
            install(llvm)?;
            find(llvm)
        }
    }
}

/// The commands for a person, for a compiler of that LLVM version.
pub fn typed(llvm: u32) -> String {
    let dev = format!("llvm-{llvm}-dev");
    format!(
        "{}\n  {}\n  (or, where the packages have no {dev}: cargo binstall bpf-linker)",
        packages::install_line(&[&dev, "g++"]),
        install_line(llvm)
    )
}

fn install_line(llvm: u32) -> String {
    format!(
        "LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --version {VERSION} --locked --no-default-features --features llvm-{llvm}"
    )
}

fn install(llvm: u32) -> Result<()> {
    ensure!(BUILDABLE.contains(&llvm), "bpf-linker {VERSION} cannot be built against LLVM {llvm}");
    let prefix = llvm_prefix(llvm).or_else(|why| {
        let dev = format!("llvm-{llvm}-dev");
        if !packages::can_install() || !packages::is_known(&dev) {
            return Err(why);
        }
        packages::install(&[&dev])?;
        llvm_prefix(llvm)
    })?;
    if sh::find("c++").is_none() {
        packages::install(&["g++"])?;
    }
    sh::say(format!("compiling bpf-linker {VERSION} against {} (about a minute)", prefix.display()));
    let mut command = sh::cargo();
    let feature = format!("llvm-{llvm}");
    command.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        &feature,
    ]);
    if !places().is_empty() {
        // A linker of another version is somebody's: it stays, ours goes beside our other files.
        command.arg("--root").arg(own_tools()).arg("--force");
    }
    sh::run(command.env("LLVM_PREFIX", &prefix))
}

/// Where LLVM's headers and libraries of that version are.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    let named = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let places = named.into_iter().chain([PathBuf::from(format!("/usr/lib/llvm-{llvm}")), PathBuf::from("/usr")]);
    for prefix in places {
        let config = prefix.join("bin/llvm-config");
        let version = sh::capture(sh::command(&config).arg("--version")).unwrap_or_default();
        if version.split('.').next().and_then(|major| major.trim().parse().ok()) == Some(llvm) {
            return Ok(prefix);
        }
    }
    bail!("no LLVM {llvm} development files")
}

fn own_tools() -> PathBuf {
    sh::state_dir().join("tools")
}

/// Every bpf-linker of this machine: our own first, then PATH, then cargo's directory.
fn places() -> Vec<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let own = own_tools().join("bin/bpf-linker");
    let in_cargo = cargo_home.map(|home| home.join("bin/bpf-linker"));
    let mut found: Vec<PathBuf> = Vec::new();
    for path in [Some(own), sh::find("bpf-linker"), in_cargo].into_iter().flatten() {
        if path.exists() && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// The LLVM version an executable was built against: by the library it asks for where that is shared, else by the
/// identification that LLVM's bitcode writer carries.
fn llvm_in(bytes: &[u8]) -> Option<u32> {
    major_after(bytes, b"libLLVM.so.")
        .or_else(|| major_after(bytes, b"libLLVM-"))
        .or_else(|| major_after(bytes, b"LLVM version "))
        .or_else(|| major_after(bytes, b"LLVM"))
}

/// The number after the first place where `mark` is followed by one and a dot.
fn major_after(bytes: &[u8], mark: &[u8]) -> Option<u32> {
    bytes.windows(mark.len()).enumerate().filter(|(_, window)| *window == mark).find_map(|(at, _)| {
        let rest = &bytes[at + mark.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ends = rest.get(digits).is_some_and(|byte| *byte == b'.' || *byte == 0);
        if (1..=2).contains(&digits) && ends { std::str::from_utf8(&rest[..digits]).ok()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::llvm_in;

    #[test]
    fn llvm_version_of_a_shared_and_of_a_static_linker() {
        assert_eq!(llvm_in(b"\0LLVM is a compiler\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_in(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(llvm_in(b"LLVMContext\0LLVM23.1.0-rust\0"), Some(23));
        assert_eq!(llvm_in(b"LLVMContext\0LLVM_22\0"), None);
        assert_eq!(llvm_in(b""), None);
    }
}
