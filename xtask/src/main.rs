//! `cargo xtask`: the project's own commands, so that a newcomer types one line and gets a working world.
//!
//! Not a part of the product: nothing here is linked into `meltemi`. It starts other programs and reads their
//! answers; it has two dependencies so that it is compiled in seconds.

mod bench;
mod build;
mod check;
mod clean_host;
mod doctor;
mod fuzz;
mod host;
mod linker;
mod packages;
mod run;
mod sh;
mod test;
mod tidy;
mod toolchain;
mod tools;

use clap::{Parser, Subcommand};

/// Set-up, build, check, test, run, bench: every command does the set-up it needs by itself.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Say what is there, what is missing and what would be installed; changes nothing
    Doctor,
    /// Install what the build needs, then build the BPF programs, `meltemi` and the demonstration
    Build(build::Args),
    /// Format, clippy (host and BPF target), tidy, cargo-deny: what a reviewer would run first
    Check(check::Args),
    /// The project's own rules: import arrows, sizes, unsafe, words that must not be committed
    Tidy,
    /// Set up, build, then run every test: unit, property, golden, packets, flows (root for the last two)
    Test(test::Args),
    /// Set up, build, then show traffic shifting in throw-away namespaces; after `--`: run the agent on this host
    Run(run::Args),
    /// Set up, build, then measure; figures are printed as ratios to baselines of the same run
    Bench(bench::Args),
    /// Set up, build, then fuzz what reads configurations, for 30 seconds a target
    Fuzz(fuzz::Args),
    /// Remove every namespace, link, process, pin and temporary directory that a run of ours left behind
    CleanHost,
}

fn main() {
    let done = match Cli::parse().command {
        Task::Doctor => doctor::doctor(),
        Task::Build(args) => build::build(&args).map(|_| ()),
        Task::Check(args) => check::check(&args),
        Task::Tidy => tidy::tidy(),
        Task::Test(args) => test::test(&args),
        Task::Run(args) => run::run(&args),
        Task::Bench(args) => bench::bench(&args),
        Task::Fuzz(args) => fuzz::fuzz(&args),
        Task::CleanHost => clean_host::clean_host(),
    };
    if let Err(error) = done {
        eprintln!("\nxtask: {error:#}");
        std::process::exit(1);
    }
}
