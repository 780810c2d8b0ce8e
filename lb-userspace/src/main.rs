//! The `meltemi` binary: parses arguments, runs a command, returns its status.

use clap::Parser;
use meltemi::cli::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(Cli::parse())
}
