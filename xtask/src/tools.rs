//! A compiler and a linker that fit each other: found, installed, remembered.
//!
//! A compiler without a linker for its LLVM is of no use, so the two are looked for as a pair, way by way.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::linker::{self, Linker};
use crate::sh;
use crate::toolchain::{self, Compiler, Search, Way};

/// What builds the BPF programs.
#[derive(Debug)]
pub struct Tools {
    pub compiler: Compiler,
    pub linker: Linker,
}

impl Tools {
    /// One line for people.
    pub fn line(&self) -> String {
        let Compiler { way, rustc, version, .. } = &self.compiler;
        format!(
            "{way} ({}, {}, LLVM {}) with {} (LLVM {})",
            rustc.display(),
            version.release,
            version.llvm,
            self.linker.path.display(),
            self.linker.llvm
        )
    }
}

/// What was taken, and why each earlier way was not.
pub type Refusals = Vec<String>;

/// Finds a pair without changing anything.
pub fn find(search: &Search) -> (Option<Tools>, Refusals) {
    let mut refusals = Refusals::new();
    for way in Way::PRESENT {
        let pair = search.try_way(way).and_then(|compiler| Ok((linker::find(compiler.version.llvm)?, compiler)));
        match pair {
            Ok((linker, compiler)) => return (Some(Tools { compiler, linker }), refusals),
            Err(why) => refusals.push(format!("{way}: {why:#}")),
        }
    }
    (None, refusals)
}

/// Finds a pair, installs what is missing, and remembers the result under target/xtask.
pub fn obtain() -> Result<Tools> {
    let search = Search::from_env();
    if let Some(tools) = recall(&search) {
        return Ok(tools);
    }
    sh::say("looking for a compiler for the BPF target");
    let (found, mut refusals) = find(&search);
    let tools = match found {
        Some(tools) => tools,
        None => install(&search, &mut refusals)?,
    };
    for refusal in &refusals {
        sh::say(format!("  not {refusal}"));
    }
    sh::say(format!("taking {}", tools.line()));
    remember(&tools)?;
    Ok(tools)
}

/// Compilers that are there but lack a linker come first, then compilers that must be installed.
fn install(search: &Search, refusals: &mut Refusals) -> Result<Tools> {
    for way in Way::PRESENT.into_iter().chain(Way::INSTALL) {
        let pair = search.try_way(way).and_then(|compiler| Ok((linker::obtain(compiler.version.llvm)?, compiler)));
        match pair {
            Ok((linker, compiler)) => return Ok(Tools { compiler, linker }),
            Err(why) if Way::PRESENT.contains(&way) => sh::say(format!("  not {way}: {why:#}")),
            Err(why) => refusals.push(format!("{way}: {why:#}")),
        }
    }
    bail!("{}", nothing_works(refusals))
}

fn nothing_works(refusals: &Refusals) -> String {
    let mut text = String::from("no compiler for the BPF target can be had here:\n");
    for refusal in refusals {
        text += &format!("  {refusal}\n");
    }
    text += "Type one of these, then try again:\n";
    for way in Way::INSTALL.into_iter().chain([Way::Override]) {
        text += &format!("  {}\n", way.typed().unwrap_or_default());
    }
    text += &format!(
        "and for the linker (22 stands for the LLVM version that `rustc -vV` of that compiler tells):\n  {}",
        linker::typed(22)
    );
    text
}

fn memory() -> PathBuf {
    sh::state_dir().join("bpf-tools")
}

fn remember(tools: &Tools) -> Result<()> {
    let Tools { compiler, linker } = tools;
    let lines =
        [compiler.rustc.display(), compiler.cargo.display(), linker.path.display()].map(|path| path.to_string());
    let text = format!("{}\n{}\n{}\n", lines.join("\n"), compiler.version.release, linker.llvm);
    fs::create_dir_all(sh::state_dir())
        .and_then(|()| fs::write(memory(), text))
        .context("cannot write under target/xtask")
}

/// The remembered pair, where it is still what it was. A named compiler is asked anew.
fn recall(search: &Search) -> Option<Tools> {
    if search.named.is_some() {
        return None;
    }
    let text = fs::read_to_string(memory()).ok()?;
    let [rustc, cargo, path, release, llvm] = text.lines().collect::<Vec<_>>().try_into().ok()?;
    let way = if rustc.starts_with("/usr/") { Way::Debian } else { Way::Nightly };
    let compiler = toolchain::probe(way, rustc.as_ref(), cargo.as_ref()).ok()?;
    let linker = Linker { path: PathBuf::from(path), llvm: llvm.parse().ok()? };
    let same = compiler.version.release == release && linker.path.exists() && linker.llvm >= compiler.version.llvm;
    same.then_some(Tools { compiler, linker })
}
