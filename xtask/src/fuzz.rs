//! `cargo xtask fuzz`: libFuzzer over the targets of `tests/fuzz`, for a given time, starting from the examples.
//!
//! The ordinary compiler will do: counting branches needs no unstable flag, and there is no unsafe code for a sanitizer to watch.
//! A crash leaves its input in `target/fuzz/findings`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{build, sh, tools};

/// The targets, each a file of `tests/fuzz/targets`.
const TARGETS: [&str; 2] = ["configuration", "expressions"];
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What libFuzzer reads: a counter for each branch, a table of their places, and the operands of comparisons.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
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
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the fuzz targets are built for {TRIPLE} only");
    }
    let object = build::build_bpf(&tools::obtain()?)?;
    let directory = sh::root().join("target/fuzz");
    sh::say("building the fuzz targets (some minutes the first time)");
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--target", TRIPLE]).current_dir(sh::root().join("tests/fuzz"));
    cargo.arg("--target-dir").arg(&directory);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")).env("MELTEMI_BPF_OBJECT", &object);
    sh::run(&mut cargo)?;
    let wanted = TARGETS.into_iter().filter(|target| args.target.as_deref().is_none_or(|only| only == *target));
    for target in wanted {
        run(&directory, target, args.seconds)?;
    }
    Ok(())
}

fn run(directory: &Path, target: &str, seconds: u64) -> Result<()> {
    let (seeds, corpus) = (directory.join("seeds").join(target), directory.join("corpus").join(target));
    let findings = directory.join("findings");
    for path in [&seeds, &corpus, &findings] {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    write_seeds(target, &seeds)?;
    let mut fuzzer = sh::command(directory.join(TRIPLE).join("release").join(target));
    fuzzer.args([&format!("-max_total_time={seconds}"), "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192"]);
    fuzzer.args(["-print_final_stats=1", "-verbosity=0"]);
    fuzzer.arg(format!("-artifact_prefix={}/{target}-", findings.display()));
    fuzzer.arg(&corpus).arg(&seeds);
    sh::run_within(&mut fuzzer, Duration::from_secs(seconds + 60))
        .with_context(|| format!("the input that does it is in {}", findings.display()))
}

/// Where the fuzzer starts: every example as one text, or a few expressions and hosts.
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
    Ok(())
}
