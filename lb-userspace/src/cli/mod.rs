//! The commands, one file each. Nothing else in the crate sees this room.

pub mod check;
pub mod detach;
pub mod explain;
pub mod flows;
pub mod plan;
mod proxy;
pub mod run;
pub mod status;

mod ask;
mod client;
mod configuration;

use clap::{Parser, Subcommand};
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// An eBPF/XDP load balancer that carries out Istio's traffic configuration in the kernel.
#[derive(Debug, Parser)]
#[command(name = "meltemi", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Check(check::Args),
    Explain(Box<explain::Args>),
    Plan(Box<plan::Args>),
    Status(status::Args),
    Flows(flows::Args),
    Detach(detach::Args),
    #[command(hide = true)]
    Proxy(proxy::Args),
}

/// Exit statuses all commands share (0 fine, 1 the thing asked about is wrong).
pub(crate) const CANNOT_ASK: u8 = 2;
pub(crate) const NOT_PERMITTED: u8 = 3;

/// Prints a line of an answer. Who reads may have seen enough (`meltemi flows | head`): then the command ends, and nothing is wrong.
pub(crate) fn print(line: impl std::fmt::Display) {
    let written = writeln!(io::stdout().lock(), "{line}");
    match written.map_err(|error| error.kind()) {
        Ok(()) => {}
        Err(io::ErrorKind::BrokenPipe) => std::process::exit(0),
        Err(_) => std::process::exit(CANNOT_ASK.into()),
    }
}

/// Runs the command that the arguments name.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Flows(args) => flows::run(&args),
        Command::Detach(args) => detach::run(&args),
        Command::Proxy(args) => proxy::run(&args),
    }
}
