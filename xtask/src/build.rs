//! `cargo xtask build`: the BPF programs, then everything for this host with the programs embedded.
//!
//! The BPF build has a target directory of its own: another compiler, other flags, so nothing could be shared.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::sh;
use crate::toolchain::TARGET;
use crate::tools::{self, Tools};

/// Which profile the programs for this host get. The BPF programs are always optimised: the verifier asks for it.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Build for this host with the dev profile, into target/debug
    #[arg(long)]
    debug: bool,
}

/// What a build leaves behind.
pub struct Built {
    /// Directory with `meltemi`, `meltemi-demo`, ...
    pub bin: PathBuf,
    /// The BPF object, for MELTEMI_BPF_OBJECT.
    pub object: PathBuf,
}

/// Sets up and builds all.
pub fn build(args: &Args) -> Result<Built> {
    let object = build_bpf(&tools::obtain()?)?;
    let started = Instant::now();
    sh::say("building for this host (some minutes the first time)");
    let mut cargo = sh::cargo();
    cargo.args(["build", "--package", "lb-userspace", "--package", "meltemi-tests"]).env("MELTEMI_BPF_OBJECT", &object);
    if !args.debug {
        cargo.arg("--release");
    }
    sh::run(&mut cargo)?;
    let bin = sh::root().join("target").join(if args.debug { "debug" } else { "release" });
    sh::say(format!("built {} in {:.0} s", bin.join("meltemi").display(), started.elapsed().as_secs_f32()));
    Ok(Built { bin, object })
}

/// Builds the BPF programs and puts them at target/bpf/meltemi.bpf.o.
pub fn build_bpf(tools: &Tools) -> Result<PathBuf> {
    let target_dir = sh::root().join("target/bpf");
    let first = !target_dir.join(TARGET).join("release/lb-ebpf").exists();
    sh::say(format!(
        "building the BPF programs{}",
        if first { " (about 40 s the first time: core is built from source)" } else { "" }
    ));
    build_object(tools, "lb-ebpf", &[], &target_dir.join("meltemi.bpf.o"))
}

/// Builds the bench's own BPF programs and puts them at target/bpf/bench.bpf.o.
pub fn build_bench_bpf(tools: &Tools) -> Result<PathBuf> {
    let object = sh::root().join("target/bpf/bench.bpf.o");
    build_object(tools, "lb-ebpf-bench", &["--features", "bench"], &object)
}

fn build_object(tools: &Tools, binary: &str, more: &[&str], object: &Path) -> Result<PathBuf> {
    let started = Instant::now();
    let built = sh::root().join("target/bpf").join(TARGET).join("release").join(binary);
    let mut cargo = bpf_cargo(tools, "build")?;
    cargo.args(["--release", "--bin", binary]).args(more);
    sh::run(&mut cargo)?;
    let bytes = fs::read(&built).with_context(|| format!("the build left no {}", built.display()))?;
    // An unchanged object keeps its time, so that the agent which embeds it is not built again.
    if fs::read(object).ok().as_ref() != Some(&bytes) {
        fs::write(object, &bytes).with_context(|| format!("cannot write {}", object.display()))?;
    }
    sh::say(format!(
        "built {} ({} KiB) in {:.0} s",
        object.display(),
        bytes.len() / 1024,
        started.elapsed().as_secs_f32()
    ));
    Ok(object.to_owned())
}

/// `cargo VERB` for lb-ebpf: BPF target, core from source, our flags.
pub fn bpf_cargo(tools: &Tools, verb: &str) -> Result<std::process::Command> {
    let mut cargo = tools.compiler.cargo(verb);
    cargo.args(["--package", "lb-ebpf", "--target", TARGET, "-Z", "build-std=core"]);
    cargo.arg("--target-dir").arg(sh::root().join("target/bpf"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(tools).join("\x1f"));
    Ok(cargo)
}

fn flags(tools: &Tools) -> Vec<String> {
    // aya-ebpf's bindings are per host architecture.
    vec![
        format!("--cfg=bpf_target_arch=\"{}\"", ARCH),
        format!("-Clinker={}", tools.linker.path.display()),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Cpanic=abort".into(),
        // v3 would add 32-bit registers, into which the compiler moves packet pointers; the verifier refuses that.
        "-Ctarget-cpu=v2".into(),
    ]
}
