//! What an agent costs that has nothing to do: CPU, memory, and whether the map memory it prints is what the kernel charges.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::report::{Report, Target};
use crate::agent::{Agent, Options as AgentOptions};
use crate::example::Example;
use crate::world::{Options, World};

/// Watches an agent on defaults with the main example.
///
/// # Errors
/// When the agent does not start.
pub fn run(time: Duration) -> Result<()> {
    let world = World::new(Options::default())?;
    let example = Example::copy("tcp-echo", &world.dir())?;
    let mut agent = Agent::start(&world, &AgentOptions::new(example.dir()))?;
    agent.wait_ready()?;
    let pid = agent.pid();
    let (began, before) = (Instant::now(), cpu(pid)?);
    // The measurement is of this time, not a wait for anything.
    std::thread::sleep(time);
    let share = (cpu(pid)? - before) / began.elapsed().as_secs_f64() * 100.0;
    let resident = resident(pid)?;
    let charged = charged(pid)?;
    let printed = printed(&agent.log()).context("the agent's log has no map memory")?;
    let mib = |value: f64| format!("{value:.1} MiB");
    let mut report = Report::new(format!("Idle agent on defaults, {} s", time.as_secs()));
    report.judged("CPU", format!("{share:.3} %"), (share, "% of a core"), Some(Target::AtMost(0.1)));
    report.judged("resident memory", mib(resident), (resident, "MiB"), Some(Target::AtMost(40.0)));
    report.judged("maps, as the kernel charges them", mib(charged), (charged, "MiB"), Some(Target::AtMost(96.0)));
    let off = (printed / charged - 1.0).abs();
    report.judged("maps, as the agent prints them", mib(printed), (off, "off the charge"), Some(Target::AtMost(0.1)));
    report.print();
    Ok(())
}

/// Seconds on a CPU, all threads.
fn cpu(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split_whitespace().next().context("empty schedstat")?.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// MiB.
fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// MiB that the kernel charges for the maps the process has open, each once.
fn charged(pid: u32) -> Result<f64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may close meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() as f64 / f64::from(1 << 20))
}

/// `... memory=92.1 MiB ...` of the agent's log.
fn printed(log: &str) -> Option<f64> {
    let after = log.split("memory=").nth(1)?;
    after.trim_start_matches('"').split_whitespace().next()?.parse().ok()
}
