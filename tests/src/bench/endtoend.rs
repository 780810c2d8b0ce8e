//! What users of the TC mode see: HTTP through the balancer host, beside the host as a plain router and beside haproxy in TCP
//! mode. Client, balancer and backend share the machine's CPUs.

use std::fs;
use std::net::SocketAddr;

use anyhow::Result;

use super::http::{self, Load, Outcome, Running};
use super::report::{Report, Target, median};
use crate::agent::{Agent, Mode, Options as AgentOptions, Signal};
use crate::example::Example;
use crate::world::{ECHO_PORT, LB_V4, Options, World};

/// The example's listener, and haproxy's.
const PORT: u16 = 31400;
const PROXY_PORT: u16 = 31401;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Routed,
    Meltemi,
    Haproxy,
}

impl Path {
    const ALL: [Path; 3] = [Path::Routed, Path::Meltemi, Path::Haproxy];

    /// The backend listens on a port for each path. On a shared one, a path would meet the other's connections in TIME_WAIT:
    /// same addresses and ports, but timestamps of another origin, so half of its SYNs would have to be sent twice.
    const fn port(self) -> u16 {
        match self {
            Path::Meltemi => ECHO_PORT,
            Path::Routed => ECHO_PORT + 1,
            Path::Haproxy => ECHO_PORT + 2,
        }
    }

    fn backend(self, world: &World) -> SocketAddr {
        SocketAddr::new(world.backends[0].v4.into(), self.port())
    }
}

/// Measures in a world of its own and prints.
///
/// # Errors
/// When something cannot be set up, or requests fail.
pub fn run(rounds: u32, seconds: u32, loads: &[Load]) -> Result<()> {
    let loads = if loads.is_empty() { &Load::ALL } else { loads };
    let mut world = World::new(Options { backends: vec!["one".into()], ..Options::default() })?;
    world.forward_by_kernel()?;
    world.backends[0].stop()?;
    let ports = Path::ALL.map(Path::port);
    let _nginx = http::serve(&world.backends[0].netns, &world.dir().join("nginx"), &ports)?;
    let _haproxy = start_haproxy(&world)?;
    let example = Example::copy("tcp-echo", &world.dir())?;
    // All to the one backend that is there.
    example.set_weights(&[100, 0])?;
    http::wait_open(&world.client, Path::Routed.backend(&world))?;
    http::wait_open(&world.client, SocketAddr::new(LB_V4.into(), PROXY_PORT))?;
    let mut figures = vec![vec![Vec::new(); Load::ALL.len()]; Path::ALL.len()];
    let mut failed = Vec::new();
    for _ in 0..rounds {
        // Paths take turns with each load, so that what is compared was measured within a few seconds.
        for load in loads {
            for path in Path::ALL {
                let outcome = measure(&world, &example, path, *load, seconds)?;
                figures[path as usize][*load as usize].push(outcome.rate);
                failed.extend(outcome.errors.map(|errors| format!("{}, {path:?}: {errors}", load.name())));
            }
        }
    }
    print(&figures, loads, &failed);
    Ok(())
}

fn measure(world: &World, example: &Example, path: Path, load: Load, seconds: u32) -> Result<Outcome> {
    // Only while it is measured: a plain router has no program to pass.
    let agent = (path == Path::Meltemi).then(|| start_agent(world, example)).transpose()?;
    let to = match path {
        Path::Routed => path.backend(world),
        Path::Meltemi => SocketAddr::new(LB_V4.into(), PORT),
        Path::Haproxy => SocketAddr::new(LB_V4.into(), PROXY_PORT),
    };
    let outcome = http::wrk(&world.client, &format!("http://{to}"), load, seconds)?;
    if let Some(mut agent) = agent {
        agent.signal(Signal::Terminate)?;
        agent.wait_exit()?;
        agent.detach()?;
    }
    Ok(outcome)
}

fn start_agent(world: &World, example: &Example) -> Result<Agent> {
    let mut agent = Agent::start(world, &AgentOptions { mode: Mode::Tc, ..AgentOptions::new(example.dir()) })?;
    agent.wait_ready()?;
    Ok(agent)
}

fn print(figures: &[Vec<Vec<f64>>], loads: &[Load], failed: &[String]) {
    let middle = |path: Path, load: Load| median(&figures[path as usize][load as usize]);
    let mut report = Report::new("End to end in TC mode, HTTP by wrk and nginx");
    for load in loads.iter().copied() {
        let shown = |path: Path| match load {
            Load::Bulk => format!("{:.1}", middle(path, load)),
            _ => format!("{:.0}", middle(path, load)),
        };
        report.plain(format!("{}: routed, no balancer", load.name()), shown(Path::Routed));
        report.plain(format!("{}: haproxy, mode tcp", load.name()), shown(Path::Haproxy));
        let what = format!("{}: meltemi", load.name());
        // Of turns, not of medians: the machine may have been slower for some of them.
        let against = |path: Path| {
            let pairs =
                figures[Path::Meltemi as usize][load as usize].iter().zip(&figures[path as usize][load as usize]);
            median(&pairs.map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
        };
        let ratio = against(Path::Routed);
        report.judged(&what, shown(Path::Meltemi), (ratio, "x routed"), Some(Target::AtLeast(0.95)));
        if load == Load::Connections {
            let ratio = against(Path::Haproxy);
            report.judged(what, shown(Path::Meltemi), (ratio, "x haproxy"), Some(Target::AtLeast(1.6)));
        }
    }
    for line in failed {
        report.plain(line, "");
    }
    report.print();
}

fn start_haproxy(world: &World) -> Result<Running> {
    let config = world.dir().join("haproxy.cfg");
    let text = format!(
        "global\n maxconn 4096\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen bench\n bind {LB_V4}:{PROXY_PORT}\n server one {}\n",
        Path::Haproxy.backend(world)
    );
    fs::write(&config, text)?;
    let mut command = world.lb.command("haproxy");
    Running::start(command.arg("-db").arg("-f").arg(&config))
}
