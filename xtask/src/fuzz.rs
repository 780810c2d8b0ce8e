//! `cargo xtask fuzz`: libFuzzer over the targets of `tests/fuzz`, for a given time, starting from the examples.
//!
//! The ordinary compiler will do: counting branches needs no unstable flag, and there is no unsafe code for a sanitizer to watch.
//! Only crates of this workspace are counted, so that all others are those that were built for the tests; a wrapper around the
//! compiler tells the two apart. A crash leaves its input in `target/fuzz/findings`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::packages::{self, Tool};
use crate::{build, sh, tools};

/// The targets, each a file of `tests/fuzz/targets`.
const TARGETS: [&str; 2] = ["configuration", "expressions"];
/// Seconds for each target where fuzzing is one of many tests.
pub const BRIEF: u64 = 20;
/// libFuzzer is C++.
pub const COMPILER: Tool = Tool { program: "c++", package: "g++" };

/// What is added for crates of this workspace: what libFuzzer reads (a counter for each branch, a table of their places, the operands of
/// comparisons), wrong arithmetic as a crash, and less optimising, which halves the build.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Copt-level=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "--cfg=fuzzing",
];

/// Which targets, and for how long.
#[derive(clap::Args)]
pub struct Args {
    /// One target; both where nothing is said
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// Builds the targets and runs them. Fails at the first crash, hang or use of more than 2 GiB.
pub fn fuzz(args: &Args) -> Result<()> {
    let object = build::build_bpf(&tools::obtain()?)?;
    let wanted: Vec<&str> =
        TARGETS.into_iter().filter(|target| args.target.as_deref().is_none_or(|only| only == *target)).collect();
    build_and_run(&object, &wanted, args.seconds)
}

/// Both targets for a short while, as a part of all tests.
pub fn brief(object: &Path) -> Result<()> {
    build_and_run(object, &TARGETS, BRIEF)
}

fn build_and_run(object: &Path, targets: &[&str], seconds: u64) -> Result<()> {
    if sh::find(COMPILER.program).is_none() {
        packages::install(&[COMPILER.package]).context("libFuzzer is compiled from C++")?;
    }
    let directory = sh::root().join("target/fuzz");
    sh::say("building the fuzz targets (a minute or two the first time)");
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--package", "meltemi-fuzz"]);
    cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper(&directory)?).env("MELTEMI_BPF_OBJECT", object);
    // A compiler cache would have to understand the wrapper.
    cargo.env("RUSTC_WRAPPER", "");
    sh::run(&mut cargo).with_context(|| {
        format!("the fuzz targets need a C++ compiler: {}", packages::install_line(&[COMPILER.package]))
    })?;
    targets.iter().try_for_each(|target| run(&directory, target, seconds))
}

/// A compiler that adds [`FLAGS`], but not for build scripts: they are linked without libFuzzer. Its name changes with the flags,
/// because that is how cargo tells that something must be built again.
fn wrapper(directory: &Path) -> Result<PathBuf> {
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' --crate-name build_script_'*) exec \"$@\" ;;\n*) exec \"$@\" {} ;;\nesac\n",
        FLAGS.join(" ")
    );
    let sum = text.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let path = directory.join(format!("rustc-{sum:08x}"));
    if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, &text))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

fn run(directory: &Path, target: &str, seconds: u64) -> Result<()> {
    let (seeds, corpus) = (directory.join("seeds").join(target), directory.join("corpus").join(target));
    let findings = directory.join("findings");
    for path in [&seeds, &corpus, &findings] {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    write_seeds(target, &seeds)?;
    let mut fuzzer = sh::command(sh::root().join("target/release").join(target));
    fuzzer.args([&format!("-max_total_time={seconds}"), "-timeout=10", "-rss_limit_mb=2048", "-max_len=16384"]);
    fuzzer.args(["-print_final_stats=1", "-verbosity=0", "-print_funcs=0"]);
    fuzzer.arg(format!("-artifact_prefix={}/{target}-", findings.display()));
    fuzzer.arg(&corpus).arg(&seeds);
    sh::run_within(&mut fuzzer, Duration::from_secs(seconds + 60))
        .with_context(|| format!("the input that does it is in {}", findings.display()))
}

/// Where the fuzzer starts: every example as one text and every case of `check` as one, or a few expressions and hosts.
fn write_seeds(target: &str, into: &Path) -> Result<()> {
    if target == "expressions" {
        for (at, text) in ["/api/v[0-9]+(.*)", r"(?i)^(.*?;)?user=\pL{2,5}$", "*.a.b c.d", "[[:alpha:]\\d-]+? *"]
            .into_iter()
            .enumerate()
        {
            fs::write(into.join(at.to_string()), text)?;
        }
        return Ok(());
    }
    for example in fs::read_dir(sh::root().join("manifests/examples"))? {
        let example = example?;
        let mut text = String::new();
        for file in fs::read_dir(example.path())? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "yaml") {
                text.push_str("---\n");
                text.push_str(&fs::read_to_string(&file)?);
            }
        }
        fs::write(into.join(example.file_name()), text)?;
    }
    for directory in ["tests/golden/check", "tests/golden/explain"] {
        for case in fs::read_dir(sh::root().join(directory))? {
            let case = case?;
            if case.path().extension().is_some_and(|extension| extension == "yaml") {
                fs::copy(case.path(), into.join(case.file_name()))?;
            }
        }
    }
    Ok(())
}
