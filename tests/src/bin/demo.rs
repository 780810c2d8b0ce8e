//! `meltemi-demo`: the demonstration that `cargo xtask run` shows.
//!
//! Hidden subcommands are the processes inside a world's namespaces (echo server, echo client, janitor), so that one
//! binary is all a world needs.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use meltemi_tests::demo;
use meltemi_tests::echo::client::{self, Closing, Direction, Ports};
use meltemi_tests::echo::{flood, server};
use meltemi_tests::web;
use meltemi_tests::world::{self, World, janitor};

/// Shows TCP traffic shifting in throw-away network namespaces: shares as configured, a change of weights under way,
/// one long connection that stays where it is.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    demo: demo::Args,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Echo server: answers each line with greeting and line; ends when stdin ends
    #[command(hide = true, name = "world-server")]
    Server {
        #[arg(long)]
        greeting: String,
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Echo client; prints JSON
    #[command(hide = true, name = "world-client")]
    Client {
        #[command(subcommand)]
        traffic: Traffic,
    },
    /// One HTTP request; prints JSON with status and body
    #[command(hide = true, name = "world-http")]
    Http { method: String, to: SocketAddr, path: String },
    /// HTTP server: answers each request with JSON that tells who answers and what came; ends when stdin ends
    #[command(hide = true, name = "world-web-server")]
    WebServer(web::server::Args),
    /// HTTP client; prints JSON
    #[command(hide = true, name = "world-web")]
    Web {
        #[command(subcommand)]
        requests: Requests,
    },
    /// Removes the world with that id when stdin ends
    #[command(hide = true, name = "world-janitor")]
    Janitor { id: String },
    /// Removes the world with that id
    #[command(hide = true, name = "world-remove")]
    Remove { id: String },
    /// Makes a world with two echo servers, prints its id and keeps it until stdin ends
    #[command(hide = true, name = "world-idle")]
    Idle,
}

#[derive(Subcommand)]
enum Traffic {
    /// Connections one after the other: hello, answer, close
    Sequence {
        #[command(flatten)]
        many: Many,
        /// How each ends
        #[arg(long, value_enum, default_value = "at-once")]
        closing: Closing,
    },
    /// Connections that are all open at the same moment
    AtOnce(Many),
    /// Long connections that go on echoing; stdin takes `report` and `stop`
    Hold {
        #[command(flatten)]
        many: Many,
        /// Milliseconds between two echoes of a connection
        #[arg(long, default_value_t = 100)]
        every: u64,
    },
    /// Connections one after the other until stopped; stdin takes `report` and `stop`
    Churn {
        #[arg(long)]
        to: SocketAddr,
        /// Milliseconds between two connections
        #[arg(long, default_value_t = 0)]
        every: u64,
        /// Longest time for a connection or an answer, milliseconds
        #[arg(long, default_value_t = 10_000)]
        limit: u64,
    },
    /// SYNs from random sources
    Flood {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        count: u64,
    },
    /// One transfer with a hash at both ends
    Bulk {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
        #[arg(long, value_enum)]
        direction: Direction,
        /// Longest time without any progress, milliseconds
        #[arg(long, default_value_t = 10_000)]
        limit: u64,
    },
}

#[derive(Subcommand)]
enum Requests {
    /// One, with all of its answer
    One(web::client::Request),
    /// One after the other
    Many {
        #[command(flatten)]
        request: web::client::Request,
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
    /// On several threads until stopped; stdin takes `report` and `stop`
    Steady {
        #[command(flatten)]
        request: web::client::Request,
        #[arg(long, default_value_t = 1)]
        threads: u32,
        /// Milliseconds between an answer and the next request of a thread
        #[arg(long, default_value_t = 0)]
        every: u64,
    },
}

#[derive(clap::Args)]
struct Many {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Longest time for a connection or an answer, milliseconds
    #[arg(long, default_value_t = 10_000)]
    limit: u64,
    /// Tell which local port got which greeting
    #[arg(long, value_enum, default_value = "unreported")]
    ports: Ports,
}

fn main() -> ExitCode {
    match part(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace, whatever the environment says: the chain tells a user what happened.
            eprintln!("\nmeltemi-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn part(cli: Cli) -> Result<()> {
    match cli.part {
        None => demo::run(&cli.demo),
        Some(Part::Server { greeting, listen }) => server::serve(listen, &greeting),
        Some(Part::Client { traffic }) => make(traffic),
        Some(Part::Http { method, to, path }) => client::http(&method, to, &path),
        Some(Part::WebServer(args)) => web::server::serve(args),
        Some(Part::Web { requests }) => ask(&requests),
        Some(Part::Janitor { id }) => janitor::wait_and_remove(&id),
        Some(Part::Remove { id }) => janitor::remove(&id),
        Some(Part::Idle) => idle(),
    }
}

fn make(traffic: Traffic) -> Result<()> {
    let limit = Duration::from_millis;
    match traffic {
        Traffic::Sequence { many, closing } => {
            client::sequence(many.to, many.count, limit(many.limit), many.ports, closing);
        }
        Traffic::AtOnce(many) => client::at_once(many.to, many.count, limit(many.limit), many.ports)?,
        Traffic::Hold { many, every } => {
            client::hold(many.to, many.count, Duration::from_millis(every), limit(many.limit))?;
        }
        Traffic::Churn { to, every, limit: most } => client::churn(to, limit(every), limit(most))?,
        Traffic::Flood { to, count } => flood::flood(to, count)?,
        Traffic::Bulk { to, bytes, direction, limit: most } => client::bulk(to, bytes, direction, limit(most)),
    }
    Ok(())
}

fn ask(requests: &Requests) -> Result<()> {
    match requests {
        Requests::One(request) => {
            web::client::one(request);
            Ok(())
        }
        Requests::Many { request, count } => web::client::many(request, *count),
        Requests::Steady { request, threads, every } => {
            web::client::steady(request, *threads, Duration::from_millis(*every))
        }
    }
}

fn idle() -> Result<()> {
    let world = World::new(world::Options::default())?;
    println!("{}", world.id());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
