//! Demonstrations of what the proxy serves: a world with HTTP servers, requests, and tables of who answered.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Args, LEAST_P, step, text};
use crate::agent::{self, Agent};
use crate::example::{self, Example};
use crate::stats::chi_squared;
use crate::world::{LB_V4, Options, World, helper_program};

/// A server: the last byte of its address, what it is called, its port, and the services that it calls (`NAME=ADDR:PORT`).
pub(super) struct Server {
    pub host: u8,
    pub name: &'static str,
    pub port: u16,
    pub calls: &'static [&'static str],
}

/// The world with a running agent. Fields are dropped in this order.
pub(super) struct Web {
    pub agent: Agent,
    example: Example,
    pub world: World,
    revision: u64,
}

impl Web {
    pub fn set_up(args: &Args, servers: &[Server]) -> Result<Web> {
        step("making a client, a balancer host and a network between them (namespaces mlt-*)");
        let mut world = World::new(Options { backends: Vec::new(), ..Options::default() })?;
        step("starting the services");
        for (index, server) in servers.iter().enumerate() {
            world.add_backend_at(server.host, server.name)?;
            let calls: Vec<&str> = server.calls.iter().flat_map(|call| ["--call", *call]).collect();
            world.serve_web(index, server.port, &calls)?;
            let calls =
                if server.calls.is_empty() { String::new() } else { format!(", calls {}", server.calls.join(" and ")) };
            println!("      10.1.0.{}:{} is {}{calls}", server.host, server.port, server.name);
        }
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
        println!("      the proxy runs as process {}", status["proxy"]["pid"]);
        Ok(Web { agent, example, world, revision })
    }

    /// Puts a variant of the example in force: its files take the place of those of the same name.
    pub fn vary(&mut self, example: &str, variant: &str) -> Result<()> {
        let from = example::root().join("manifests/examples").join(example).join(variant);
        let began = Instant::now();
        for file in fs::read_dir(&from).with_context(|| from.display().to_string())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            self.example.replace(&name, &fs::read_to_string(file.path())?)?;
        }
        self.revision = self.agent.wait_applied(self.revision + 1)?;
        println!("      revision {} in force after {} ms", self.revision, began.elapsed().as_millis());
        Ok(())
    }

    /// One request to an address, with all of its answer.
    pub fn one(&self, to: &str, host: &str, path: &str, headers: &[&str]) -> Result<Value> {
        let mut args = vec!["one", "--to", to, "--host", host, "--path", path];
        headers.iter().for_each(|header| args.extend(["--header", header]));
        self.world.web(&args)
    }

    /// Requests to the gateway, none of which may fail or be answered by anything but 200.
    pub fn many(&self, host: &str, path: &str, count: u32, headers: &[&str]) -> Result<Value> {
        let (to, count) = (gateway(), count.to_string());
        let mut args = vec!["many", "--to", &to, "--host", host, "--path", path, "--count", &count];
        headers.iter().for_each(|header| args.extend(["--header", header]));
        let told = self.world.web(&args)?;
        ensure!(told["failed"] == 0, "requests failed: {told}");
        ensure!(told["statuses"]["200"] == told["requests"], "not every answer was 200: {told}");
        Ok(told)
    }

    /// Shows the counts of some servers beside their weights, and fails where chance does not explain the difference.
    pub fn judge(&self, counts: &Value, weights: &[(&str, u64)]) -> Result<()> {
        let observed: Vec<u64> = weights.iter().map(|(name, _)| counts[name].as_u64().unwrap_or(0)).collect();
        let whole: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let all: u64 = observed.iter().sum();
        println!("\n    {:<28}{:>17}{:>16}{:>13}", "version", "configured share", "observed share", "requests");
        for ((name, weight), count) in weights.iter().zip(&observed) {
            let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
            let (configured, seen) = (percent(*weight, whole), percent(*count, all));
            println!("    {name:<28}{configured:>15.1} %{seen:>14.1} %{count:>13}");
        }
        let test = chi_squared(&observed, &weights.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
        println!("    chi-squared {:.2}, p = {:.3}", test.statistic, test.p_value);
        ensure!(all > 0, "nobody was asked: {counts}");
        if test.p_value < LEAST_P {
            bail!("the observed shares are not the configured ones: p = {:.2e}", test.p_value);
        }
        Ok(())
    }

    /// The agent's own account of a rule, which must be that of the servers.
    pub fn compare_status(&self, rule: &str, counts: &Value, weights: &[(&str, u64)]) -> Result<()> {
        let status = self.agent.status()?;
        let mut routes = status["routes"].as_array().into_iter().flatten();
        let route = routes.find(|route| route["rule"] == rule).with_context(|| format!("status has no {rule}"))?;
        for (destination, (name, _)) in route["destinations"].as_array().into_iter().flatten().zip(weights) {
            let expected = counts[name].as_u64().unwrap_or(0);
            ensure!(destination["requests"] == expected, "status counts {destination}, the servers {expected}");
        }
        println!("    meltemi status says the same: {rule}, verdict {}", text(&route["verdict"]));
        Ok(())
    }

    pub fn keep(self, path: &str) -> Result<()> {
        let Web { agent, example, world, .. } = self;
        agent.leave_running();
        let (client, lb) = (world.client.path(), world.lb.path());
        let (demo, meltemi) = (helper_program()?, agent::program()?);
        let id = world.keep()?;
        println!("\nThe world stays. Send requests of your own, as root:");
        println!("  nsenter --net={} curl -s http://{}{path}", client.display(), gateway());
        println!("Change the configuration under {}", example.dir().display());
        println!("Ask the agent:\n  nsenter --net={} {} status", lb.display(), meltemi.display());
        println!("Remove it:\n  {} world-remove {id}", demo.display());
        Ok(())
    }
}

/// Where clients outside ask.
pub(super) fn gateway() -> String {
    format!("{LB_V4}:80")
}
