//! What users of the TC mode see: HTTP through the balancer host, beside the host as a plain router and beside haproxy in TCP
//! mode. Client, balancer and backend share the machine's CPUs.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::report::{Report, Target, median};
use crate::agent::{Agent, Mode, Options as AgentOptions, Signal};
use crate::example::Example;
use crate::poll;
use crate::world::netns::Netns;
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

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// A connection for each request.
    Connections,
    /// Many connections that stay open.
    KeepAlive,
    /// One connection that stays open.
    OneConnection,
    /// Bodies of 1 MiB.
    Bulk,
}

impl Load {
    const ALL: [Load; 4] = [Load::Connections, Load::KeepAlive, Load::OneConnection, Load::Bulk];

    const fn name(self) -> &'static str {
        match self {
            Load::Connections => "new connections/s",
            Load::KeepAlive => "keep-alive requests/s",
            Load::OneConnection => "one connection, requests/s",
            Load::Bulk => "bulk, Gbit/s",
        }
    }

    const fn connections(self) -> &'static str {
        match self {
            Load::Connections | Load::KeepAlive => "64",
            Load::OneConnection => "1",
            Load::Bulk => "8",
        }
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
    let _nginx = start_nginx(&world)?;
    let _haproxy = start_haproxy(&world)?;
    let example = Example::copy("tcp-echo", &world.dir())?;
    // All to the one backend that is there.
    example.set_weights(&[100, 0])?;
    wait_open(&world.client, Path::Routed.backend(&world))?;
    wait_open(&world.client, SocketAddr::new(LB_V4.into(), PROXY_PORT))?;
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
    let outcome = wrk(&world.client, to, load, seconds)?;
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

/// What wrk told of one run.
struct Outcome {
    rate: f64,
    /// Connections that failed, as wrk writes them.
    errors: Option<String>,
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

/// A server or proxy; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_nginx(world: &World) -> Result<Running> {
    let dir = world.dir().join("nginx");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("bulk"), vec![b'x'; 1 << 20])?;
    let listens: String = Path::ALL.iter().map(|path| format!("listen {} backlog=4096; ", path.port())).collect();
    let text = format!(
        "master_process off; daemon off; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; sendfile on; tcp_nodelay on;\n\
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ {listens} root {dir};\n\
         location = / {{ return 200 hello; }} location = /bulk {{ }} }} }}\n",
        dir = dir.display()
    );
    let config = dir.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = world.backends[0].netns.command("nginx");
    command.arg("-c").arg(&config).arg("-e").arg(dir.join("error.log"));
    Ok(Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start nginx")?))
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
    command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Running(command.spawn().context("cannot start haproxy")?))
}

fn wait_open(client: &Netns, to: SocketAddr) -> Result<()> {
    let script = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
    poll::until(Duration::from_secs(10), &format!("a listener on {to}"), || {
        Ok(client.output("bash", &["-c", &script]).is_ok().then_some(()))
    })
}

fn wrk(client: &Netns, to: SocketAddr, load: Load, seconds: u32) -> Result<Outcome> {
    let (time, url) = (format!("{seconds}s"), format!("http://{to}{}", if load == Load::Bulk { "/bulk" } else { "/" }));
    let mut args = vec!["-t", "1", "-c", load.connections(), "-d", &time];
    if load == Load::Connections {
        args.extend(["-H", "Connection: close"]);
    }
    args.push(&url);
    let text = client.output("wrk", &args)?;
    if text.contains("Non-2xx") {
        bail!("{load:?} to {to}: {text}");
    }
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let rate: f64 = rate.with_context(|| format!("wrk said: {text}"))?.trim().parse()?;
    let errors = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors: ")).map(str::to_owned);
    Ok(Outcome { rate: if load == Load::Bulk { rate * f64::from(1 << 20) * 8.0 / 1e9 } else { rate }, errors })
}
