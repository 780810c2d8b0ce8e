//! `meltemi-bench`: the measurements that `cargo xtask bench` shows.
//!
//! Hidden subcommands are the parts that run inside a world's namespaces.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use meltemi_tests::bench::packets;

/// Measures the data plane and the agent; every target is a ratio to a baseline of the same run where it can be one.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Nanoseconds a packet
    #[command(hide = true, name = "part-packets")]
    Packets {
        #[command(flatten)]
        effort: packets::Effort,
        #[arg(long)]
        out: u32,
        #[arg(long)]
        backend: Vec<SocketAddr>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nmeltemi-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.part {
        Part::Packets { effort, out, backend } => packets::run(&effort, out, &backend),
    }
}
