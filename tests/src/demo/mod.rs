//! The demonstration: traffic shifting of an example, seen from a client in a throw-away world. Two examples of `http` routes have
//! demonstrations of their own, `bookinfo` and `fleetman`.
//!
//! Shares are counted by the client (who answered?) and by the backends' servers (how many came?), never taken from
//! the agent. The agent's status tells only which destinations and backends to expect, and its weights are compared
//! with those written in the file.

mod bookinfo;
mod fleetman;
mod shares;
mod web;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::agent::{self, Agent, Forwarding, Mode};
use crate::example::Example;
use crate::world::helper::Helper;
use crate::world::{Family, LB_V4, Options, World, helper_program};
use shares::{Rule, Shares};

/// How the demonstration is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The example under manifests/examples to show
    #[arg(long, value_name = "NAME", default_value = "tcp-echo")]
    pub example: String,
    /// Leave the world up at the end and say how to send traffic of your own
    #[arg(long)]
    pub keep: bool,
    /// How many connections the client makes for each table
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Where the programs are attached
    #[arg(long, value_enum, default_value = "auto")]
    pub mode: Mode,
    /// How packets are rewritten
    #[arg(long, value_enum, default_value = "auto")]
    pub forwarding: Forwarding,
}

/// Time between two echoes of the long connection.
const PACE: Duration = Duration::from_millis(20);

/// Shares that are right fall below this once in a thousand runs.
const LEAST_P: f64 = 0.001;

/// Runs it. Everything is removed at the end, also after an error, unless `--keep` was given.
///
/// # Errors
/// When something cannot be set up, a connection fails, the long connection breaks or moves, or the observed shares
/// fail the chi-squared test.
pub fn run(args: &Args) -> Result<()> {
    match args.example.as_str() {
        "bookinfo" => bookinfo::show(args),
        "fleetman-canary" => fleetman::show(args),
        _ => connections(args),
    }
}

/// An example of `tcp` routes.
fn connections(args: &Args) -> Result<()> {
    let mut stage = Stage::set_up(args)?;
    let outcome = stage.play(args);
    if args.keep {
        stage.keep()?;
        return outcome;
    }
    step("cleaning up");
    drop(stage);
    outcome?;
    println!("\nEvery flow went where the configuration says.");
    Ok(())
}

/// Client addresses where the client's address decides: one connection each, for a second one would add nothing.
const CLIENTS: u8 = 240;

/// Which connections are independent draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draw {
    EachConnection,
    /// `consistentHash.useSourceIp`.
    EachClient,
}

/// The world with a running agent.
struct Stage {
    // Fields are dropped in this order: traffic ends before the agent, the agent before its world.
    held: Vec<Helper>,
    agent: Agent,
    example: Example,
    rules: Vec<Rule>,
    world: World,
    revision: u64,
    draw: Draw,
}

impl Stage {
    fn set_up(args: &Args) -> Result<Stage> {
        step("making a client, a balancer host and a network between them (namespaces mlt-*)");
        let mut world = World::new(Options { backends: Vec::new(), ..Options::default() })?;
        let example = Example::copy(&args.example, &world.dir())?;
        step(&format!("starting the agent with {} (mode {})", example.dir().display(), args.mode.name()));
        let mut options = agent::Options::new(example.dir());
        (options.mode, options.forwarding) = (args.mode, args.forwarding);
        let mut agent = Agent::start(&world, &options)?;
        let revision = agent.wait_ready()?;
        let status = agent.status()?;
        for interface in status["interfaces"].as_array().into_iter().flatten() {
            println!("      {} attached as {}", text(&interface["name"]), text(&interface["mode"]));
        }
        let rules = shares::rules(&status)?;
        step("starting an echo server for each backend of the configuration");
        for (host, greeting, address) in shares::backends(&rules)? {
            world.add_backend_at(host, &greeting)?;
            println!("      {address} answers `{greeting} hello`");
        }
        let draw = if example.mentions("useSourceIp: true")? { Draw::EachClient } else { Draw::EachConnection };
        if draw == Draw::EachClient {
            step(&format!("giving the client {CLIENTS} addresses, because the example hashes them"));
            world.many_clients(CLIENTS)?;
        }
        Ok(Stage { held: Vec::new(), draw, agent, example, rules, world, revision })
    }

    fn play(&mut self, args: &Args) -> Result<()> {
        let written = self.example.weights()?;
        self.compare_weights(&written)?;
        step("opening one long connection");
        for rule in &self.rules {
            self.held.push(long_connection(&self.world, rule.address)?);
        }
        let long = self.held.iter().map(|held| held.first["greetings"].to_string()).collect::<Vec<_>>().join(", ");
        println!("      answered by {long}");
        self.measure(args)?;
        if written.len() > 1 {
            self.shift(args, &written)?;
        }
        step("looking at the long connection");
        for held in std::mem::take(&mut self.held) {
            let last = held.stop()?;
            ensure!(last["broken"] == 0, "the long connection broke: {last}");
            ensure!(last["moved"] == 0, "the long connection moved: {last}");
            println!("      never broke, never moved: {} echoes, all by {}", last["echoes"], last["greetings"]);
        }
        Ok(())
    }

    /// Even weights instead of the written ones, changed in the file under the running agent.
    fn shift(&mut self, args: &Args, written: &[u64]) -> Result<()> {
        let whole: u64 = written.iter().sum();
        let even = vec![whole.div_ceil(written.len() as u64).max(1); written.len()];
        step(&format!("changing the weights in the file: {written:?} -> {even:?}"));
        let began = Instant::now();
        self.example.set_weights(&even)?;
        self.revision = self.agent.wait_applied(self.revision + 1)?;
        println!("      revision {} in force after {} ms", self.revision, began.elapsed().as_millis());
        self.rules = shares::rules(&self.agent.status()?)?;
        self.compare_weights(&even)?;
        self.measure(args)
    }

    /// The agent must have read what is written; the rest of the demonstration relies on it.
    fn compare_weights(&self, written: &[u64]) -> Result<()> {
        let mut told: Vec<u64> =
            self.rules.iter().flat_map(|rule| rule.destinations.iter().map(|it| it.weight)).collect();
        let mut written = written.to_vec();
        told.sort_unstable();
        written.sort_unstable();
        // A single destination may be written without a weight.
        if !written.is_empty() && told != written {
            bail!("the file has the weights {written:?}, the agent's status tells {told:?}");
        }
        Ok(())
    }

    fn measure(&mut self, args: &Args) -> Result<()> {
        for rule in self.rules.clone() {
            let count = match self.draw {
                Draw::EachConnection => args.connections,
                Draw::EachClient => CLIENTS.into(),
            };
            step(&format!("{count} connections to {}", rule.address));
            let before = self.accepted()?;
            let (to, count) = (rule.address.to_string(), count.to_string());
            let told = self.world.run_client(&["sequence", "--to", &to, "--count", &count])?;
            let after = self.accepted()?;
            let shares = Shares::new(&rule, &told, |host| after[host] - before[host]);
            shares.print();
            shares.judge(LEAST_P)?;
        }
        Ok(())
    }

    /// Connections accepted so far, by the last byte of the backend's address.
    fn accepted(&mut self) -> Result<Vec<u64>> {
        let mut counts = vec![0; 256];
        for backend in &mut self.world.backends {
            let host = usize::from(backend.v4.octets()[3]);
            counts[host] = backend.report()?["accepted"].as_u64().context("a server's report has no count")?;
        }
        Ok(counts)
    }

    fn keep(self) -> Result<()> {
        let Stage { held, agent, example, rules, world, .. } = self;
        drop(held);
        agent.leave_running();
        let (client, lb) = (world.client.path(), world.lb.path());
        let (demo, meltemi) = (helper_program()?, agent::program()?);
        let id = world.keep()?;
        println!("\nThe world stays. Send traffic of your own, as root:");
        for rule in &rules {
            println!(
                "  nsenter --net={} {} world-client sequence --to {} --count 10",
                client.display(),
                demo.display(),
                rule.address
            );
        }
        println!("or start any program of yours with `nsenter --net={} PROGRAM`.", client.display());
        println!("Change the configuration under {}", example.dir().display());
        println!("Ask the agent:\n  nsenter --net={} {} status", lb.display(), meltemi.display());
        println!("Remove it:\n  {} world-remove {id}", demo.display());
        Ok(())
    }
}

/// A held connection that is answered. Where a destination has no backends its share of the tries is refused.
fn long_connection(world: &World, to: SocketAddr) -> Result<Helper> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        let held = world.hold(to, 1, PACE)?;
        if held.first["broken"] == 0 {
            return Ok(held);
        }
    }
    bail!("{TRIES} connections to {to} got no answer")
}

/// The address a client in the world uses for a listener: the listener's own where it has one.
fn reachable(listener: &str, family: Family) -> Option<SocketAddr> {
    let digits_from = listener.rfind(':')? + 1;
    let rest = &listener[digits_from..];
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let port: u16 = rest[..digits].parse().ok()?;
    let own = listener[..digits_from - 1].trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let own = own.filter(|ip| !ip.is_unspecified());
    let default = match family {
        Family::V4 => IpAddr::from(LB_V4),
        Family::V6 => IpAddr::from(crate::world::LB_V6),
    };
    Some(SocketAddr::new(own.unwrap_or(default), port))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn step(line: &str) {
    println!("\n==> {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_listeners() {
        let v4 = |listener| reachable(listener, Family::V4).map(|address| address.to_string());
        assert_eq!(v4("10.0.0.1:31400").as_deref(), Some("10.0.0.1:31400"));
        assert_eq!(v4("0.0.0.0:31400").as_deref(), Some("10.0.0.1:31400"));
        assert_eq!(v4("default/gateway:31400/TCP").as_deref(), Some("10.0.0.1:31400"));
        assert_eq!(v4("[fd00::1]:80").as_deref(), Some("[fd00::1]:80"));
        assert_eq!(v4("*:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(v4("nothing"), None);
    }
}
