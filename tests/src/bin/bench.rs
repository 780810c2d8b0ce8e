//! `meltemi-bench`: the measurements that `cargo xtask bench` shows.
//!
//! Hidden subcommands are the parts that run inside a world's namespaces.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use meltemi_tests::bench::{check, control, endtoend, http, idle, inside, packets, router, scale, served, veth};
use meltemi_tests::world::{BACK_SIDE, Options, World};

/// Measures the data plane and the agent. A target is a ratio to a baseline of the same run wherever it can be one; a
/// missed one is shown and is no failure. A quiet machine gives steadier figures.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    /// What to measure; everything where nothing is named
    #[arg(value_enum)]
    names: Vec<Name>,
    #[command(flatten)]
    effort: packets::Effort,
    /// Rounds of `veth`, `end-to-end` and `served`; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each load of `end-to-end` and `served`
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// Of `end-to-end`: these loads alone
    #[arg(long, value_enum)]
    load: Vec<http::Load>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Nanoseconds a packet, by BPF_PROG_TEST_RUN
    Packets,
    /// Packets per second through XDP on veth
    Veth,
    /// HTTP through TC mode, beside routing and haproxy
    EndToEnd,
    /// HTTP and TLS through the proxy, beside haproxy, nginx and Envoy
    Served,
    /// Time from a parsed model to its being in force
    Control,
    /// Time from files to tables, with up to 100,000 endpoints
    Scale,
    /// Time to find a request's route among a thousand
    Router,
    /// Time of `meltemi check` of one example
    Check,
    /// CPU and memory of an agent that has nothing to do
    Idle,
}

#[derive(Subcommand)]
enum Part {
    #[command(hide = true, name = "part-packets")]
    Packets {
        #[command(flatten)]
        effort: packets::Effort,
        #[arg(long)]
        out: u32,
        #[arg(long)]
        backend: Vec<SocketAddr>,
    },
    #[command(hide = true, name = "part-sink")]
    Sink {
        #[arg(long)]
        interface: String,
    },
    #[command(hide = true, name = "part-generate")]
    Generate {
        #[arg(long)]
        interface: u32,
        #[arg(long)]
        link: String,
        #[arg(long)]
        to: IpAddr,
        #[arg(long)]
        port: u16,
    },
    #[command(hide = true, name = "part-between")]
    Between {
        #[arg(long, value_enum)]
        path: veth::Path,
        #[arg(long)]
        out: u32,
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
    match &cli.part {
        Some(Part::Packets { effort, out, backend }) => return packets::run(effort, *out, backend),
        Some(Part::Sink { interface }) => return veth::sink(interface),
        Some(Part::Generate { interface, link, to, port }) => return veth::generate(*interface, link, *to, *port),
        Some(Part::Between { path, out }) => return veth::hold(*path, *out),
        None => {}
    }
    let names = if cli.names.is_empty() { Name::value_variants() } else { &cli.names };
    println!("machine load at the start: {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    for name in names {
        match name {
            Name::Packets => in_world(&cli.effort)?,
            Name::Veth => veth::run(cli.rounds)?,
            Name::EndToEnd => endtoend::run(cli.rounds, cli.seconds, &cli.load)?,
            Name::Served => served::run(cli.rounds, cli.seconds)?,
            Name::Control => control::run()?,
            Name::Scale => scale::run(&[100, 1_000, 10_000, 100_000])?,
            Name::Router => router::run()?,
            Name::Check => check::run()?,
            Name::Idle => idle::run(Duration::from_secs(20))?,
        }
    }
    println!("\nmachine load at the end: {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

/// Backends of the per-packet figures: enough that source ports do not run short among pending handshakes.
const BACKENDS: std::ops::Range<u8> = 100..120;

fn in_world(effort: &packets::Effort) -> Result<()> {
    let world = World::new(Options { backends: Vec::new(), ..Options::default() })?;
    let neighbours = BACKENDS
        .map(|host| format!("neighbour replace 10.1.0.{host} lladdr 02:00:00:00:00:01 dev {BACK_SIDE} nud permanent"));
    world.lb.ip(&neighbours.collect::<Vec<_>>())?;
    let text = world.lb.output("ip", &["-o", "link", "show", "dev", BACK_SIDE])?;
    let out = text.split(':').next().unwrap_or_default();
    let (passes, repeat) = (effort.passes.to_string(), effort.repeat.to_string());
    let (least, flows) = (effort.least.to_string(), effort.flows.to_string());
    let mut args = vec!["part-packets", "--passes", &passes, "--repeat", &repeat, "--out", out];
    args.extend(["--least", &least, "--flows", &flows]);
    let backends: Vec<String> = BACKENDS.map(|host| format!("10.1.0.{host}:9000")).collect();
    args.extend(backends.iter().flat_map(|backend| ["--backend", backend]));
    let status = inside::command(&world.lb, &args)?.status()?;
    ensure!(status.success(), "measuring packets ended with {status}");
    Ok(())
}
