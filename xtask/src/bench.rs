//! `cargo xtask bench`: set-up and build, then the bench binary takes over.
//!
//! What is measured, and how, lives with that binary in the tests crate.

use anyhow::Result;

use crate::{build, host, packages, sh, tools};

/// Everything given goes to the bench binary; `--help` after `--` shows its own options.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments for the bench binary
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Builds and becomes the bench binary.
pub fn bench(args: &Args) -> Result<()> {
    host::require_root("the bench loads programs and makes network namespaces", "cargo xtask bench")?;
    packages::ensure_world_tools()?;
    packages::ensure_bench_tools()?;
    let envoy = packages::ensure_envoy()?;
    let built = build::build(&build::Args::default())?;
    let bench_object = build::build_bench_bpf(&tools::obtain()?)?;
    host::mount_bpffs()?;
    let mut command = sh::command(built.bin.join("meltemi-bench"));
    command
        .args(&args.rest)
        .env("MELTEMI_BIN", built.bin.join("meltemi"))
        .env("MELTEMI_BENCH_OBJECT", &bench_object)
        .env("MELTEMI_ENVOY", envoy);
    Err(sh::exec(command))
}
