//! An experimental web front that gets one request in ten; and what happens where clients meet a door that leads past the weights.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::web::{Server, Web};
use super::{Args, step};
use crate::{agent, example};

const SERVERS: [Server; 3] = [
    Server { host: 31, name: "original", port: 80, calls: &[] },
    Server { host: 32, name: "experimental", port: 80, calls: &[] },
    Server { host: 33, name: "api-gateway", port: 8080, calls: &[] },
];

pub(super) fn show(args: &Args) -> Result<()> {
    let web = Web::set_up(args, &SERVERS)?;
    let outcome = play(&web, args).and_then(|()| bypass());
    if args.keep {
        web.keep("/")?;
        return outcome;
    }
    step("cleaning up");
    drop(web);
    outcome?;
    println!("\nEvery request went where the configuration says.");
    Ok(())
}

fn play(web: &Web, args: &Args) -> Result<()> {
    step(&format!("{} requests through the gateway", args.connections));
    let told = web.many("fleet.example", "/", args.connections, &[])?;
    let weights = [("original", 90), ("experimental", 10)];
    web.judge(&told["greetings"], &weights)?;
    web.compare_status("VirtualService default/fleetman-webapp spec.http[0]", &told["greetings"], &weights)
}

/// The same routing with a Service that is itself open to the outside: `check` must name that door.
fn bypass() -> Result<()> {
    let trouble = example::root().join("manifests/troubles/fleetman-load-balancer");
    step(&format!("meltemi check {}: the weights that nobody meets", trouble.display()));
    let output = Command::new(agent::program()?).arg("check").arg(&trouble).output().context("cannot run check")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let found: Vec<&str> =
        said.lines().filter(|line| line.contains("fleetman-webapp") && line.starts_with("warning")).collect();
    ensure!(!found.is_empty(), "check names no door that leads past the weights:\n{said}");
    found.iter().for_each(|line| println!("      {line}"));
    Ok(())
}
