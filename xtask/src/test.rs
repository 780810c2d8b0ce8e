//! `cargo xtask test`: set-up, build, then every test there is, with `cargo test`'s own report, and a short while of fuzzing.
//!
//! One profile for all: the release profile. What the agent was built from is then there already, and property tests
//! run at the speed of the product.

use std::process::Command;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::{build, fuzz, host, packages, sh};

/// Which tests to run; all where nothing is said.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this kind
    #[arg(long)]
    only: Option<Kind>,
}

/// The kinds of tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Unit and property tests of every crate; needs no root
    Unit,
    /// YAML to Image and Plan; needs no root
    Golden,
    /// Single packets through BPF_PROG_TEST_RUN
    Packets,
    /// Traffic in network namespaces
    Flows,
}

impl Kind {
    fn needs_root(only: Option<Kind>) -> bool {
        matches!(only, None | Some(Kind::Packets | Kind::Flows))
    }
}

/// Builds and tests. Fails where a test fails and where one cannot run.
pub fn test(args: &Args) -> Result<()> {
    if Kind::needs_root(args.only) {
        let why = "the tests of packets and flows load programs and make network namespaces";
        host::require_root(why, "cargo xtask test (or, without root: cargo xtask test --only unit)")?;
        packages::ensure_world_tools()?;
    }
    let built = build::build(&build::Args::default())?;
    if Kind::needs_root(args.only) {
        host::mount_bpffs()?;
    }
    sh::say("testing");
    let mut cargo = sh::cargo();
    cargo.args(["test", "--release", "--no-fail-fast"]);
    // One at a time: the stories in namespaces measure, and on two cores a neighbour would be measured with them.
    cargo.env("RUST_TEST_THREADS", "1");
    cargo.env("MELTEMI_BPF_OBJECT", &built.object).env("MELTEMI_BIN", built.bin.join("meltemi"));
    let modules: &[&str] = match args.only {
        None => &[],
        Some(Kind::Unit) => {
            cargo.args(["--lib", "--bins"]);
            &[]
        }
        Some(Kind::Golden) => &["golden::"],
        Some(Kind::Packets) => &["packets::"],
        Some(Kind::Flows) => &["flows::", "world_check::"],
    };
    if modules.is_empty() {
        let tested = sh::run(cargo.arg("--").args(&args.filter));
        // Also where a test fails: one run tells everything.
        let fuzzed = if args.only.is_none() && args.filter.is_none() { fuzz::brief(&built.object) } else { Ok(()) };
        return tested.and(fuzzed);
    }
    cargo.args(["--package", "meltemi-tests", "--test", "all", "--"]);
    let names = names(&mut cargo, modules, args.filter.as_deref().unwrap_or(""))?;
    ensure!(!names.is_empty(), "no test of that kind has such a name");
    // `--exact` because the harness would take several filters as alternatives, not as a narrowing.
    sh::run(cargo.arg("--exact").args(names))
}

/// The tests of these modules whose name contains the filter.
fn names(cargo: &mut Command, modules: &[&str], filter: &str) -> Result<Vec<String>> {
    let mut list = sh::again(cargo);
    let text = sh::capture(list.args(["--list", "--format", "terse"]))?;
    let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let wanted = |name: &&str| name.contains(filter) && modules.iter().any(|module| name.starts_with(module));
    Ok(tests.filter(wanted).map(str::to_owned).collect())
}
