//! The proxy beside haproxy, nginx and Envoy: the same client, backend, certificate and two workers for each, turn by turn.
//! Client, proxy and backend share the machine's CPUs; what a request costs the balancer host is its processes' CPU time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::http::{self, Load, Outcome};
use super::peers::{self, Identity, Proxy};
use super::report::{Report, Target, median};
use crate::agent::{Agent, Mode, Options as AgentOptions, Signal};
use crate::world::netns::{self, Netns};
use crate::world::{Options, World};

/// What is asked of each proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Plain(Load),
    /// Full TLS 1.3 handshakes, none resumed.
    Handshakes,
    /// Kept connections with TLS.
    Tls,
    /// Eight HTTP/2 connections with sixteen streams each, with TLS.
    Http2,
}

impl Row {
    const ALL: [Row; 7] = [
        Row::Plain(Load::Connections),
        Row::Plain(Load::KeepAlive),
        Row::Plain(Load::OneConnection),
        Row::Plain(Load::Bulk),
        Row::Handshakes,
        Row::Tls,
        Row::Http2,
    ];

    const fn name(self) -> &'static str {
        match self {
            Row::Plain(load) => load.name(),
            Row::Handshakes => "full TLS handshakes/s",
            Row::Tls => "TLS keep-alive requests/s",
            Row::Http2 => "HTTP/2 requests/s",
        }
    }

    /// What is asked beside being the best: so many times Envoy.
    const fn against_envoy(self) -> Option<f64> {
        match self {
            Row::Plain(Load::Connections) => Some(1.7),
            Row::Plain(Load::KeepAlive) | Row::Http2 => Some(2.0),
            _ => None,
        }
    }

    fn ask(self, client: &Netns, proxy: Proxy, seconds: u32) -> Result<Outcome> {
        let tls = format!("https://{}", proxy.tls());
        match self {
            Row::Plain(load) => http::wrk(client, &format!("http://{}", proxy.plain()), load, seconds),
            Row::Tls => http::wrk(client, &tls, Load::KeepAlive, seconds),
            Row::Handshakes => handshakes(client, proxy, seconds),
            Row::Http2 => h2load(client, &tls, seconds),
        }
    }
}

/// A figure and what it cost.
#[derive(Clone, Copy)]
struct Figure {
    rate: f64,
    /// CPU of the balancer host's processes, microseconds a request.
    cpu: f64,
}

/// Measures in a world of its own and prints.
///
/// # Errors
/// When something cannot be set up, or requests fail.
pub fn run(rounds: u32, seconds: u32) -> Result<()> {
    let mut world = World::new(Options { backends: vec!["one".into()], ..Options::default() })?;
    world.backends[0].stop()?;
    let ports = Proxy::ALL.map(Proxy::backend_port);
    let _server = http::serve(&world.backends[0].netns, &world.dir().join("server"), &ports)?;
    let identity = Identity::make(&world.dir())?;
    let peers: Vec<_> =
        Proxy::PEERS.iter().map(|peer| peers::start(*peer, &world, &identity)).collect::<Result<_>>()?;
    let mut agent = start_agent(&world, &identity)?;
    for proxy in Proxy::ALL {
        http::wait_open(&world.client, proxy.plain()).with_context(|| proxy.name())?;
        http::wait_open(&world.client, proxy.tls()).with_context(|| proxy.name())?;
    }
    let mut figures = vec![vec![Vec::new(); Proxy::ALL.len()]; Row::ALL.len()];
    let mut failed = Vec::new();
    for _ in 0..rounds {
        for (number, row) in Row::ALL.iter().enumerate() {
            for proxy in Proxy::ALL {
                let (figure, errors) = measure(&world, *row, proxy, seconds)?;
                figures[number][proxy as usize].push(figure);
                failed.extend(errors.map(|errors| format!("{}, {}: {errors}", row.name(), proxy.name())));
            }
        }
    }
    print(&figures, &failed);
    agent.signal(Signal::Terminate)?;
    agent.wait_exit()?;
    agent.detach()?;
    drop(peers);
    Ok(())
}

fn measure(world: &World, row: Row, proxy: Proxy, seconds: u32) -> Result<(Figure, Option<String>)> {
    let before = cpu(&world.lb)?;
    let outcome =
        row.ask(&world.client, proxy, seconds).with_context(|| format!("{} of {}", row.name(), proxy.name()))?;
    let spent = cpu(&world.lb)?.saturating_sub(before);
    ensure!(outcome.requests > 0.0, "{} of {}: no request succeeded", row.name(), proxy.name());
    Ok((Figure { rate: outcome.rate, cpu: spent.as_secs_f64() * 1e6 / outcome.requests }, outcome.errors))
}

fn print(figures: &[Vec<Vec<Figure>>], failed: &[String]) {
    let mut report =
        Report::new("HTTP and TLS through the proxy, beside other proxies (in brackets: CPU us a request)");
    for (row, figures) in Row::ALL.iter().zip(figures) {
        let middle = |proxy: Proxy, part: fn(&Figure) -> f64| {
            median(&figures[proxy as usize].iter().map(part).collect::<Vec<_>>())
        };
        let shown = |proxy: Proxy| {
            let digits = if *row == Row::Plain(Load::Bulk) { 1 } else { 0 };
            format!("{:.digits$} [{:.0}]", middle(proxy, |figure| figure.rate), middle(proxy, |figure| figure.cpu))
        };
        for peer in Proxy::PEERS {
            report.plain(format!("{}: {}", row.name(), peer.name()), shown(peer));
        }
        // Of turns, not of medians: the machine may have been slower for some of them.
        let against = |peer: Proxy| {
            let pairs = figures[Proxy::Meltemi as usize].iter().zip(&figures[peer as usize]);
            median(&pairs.map(|(ours, theirs)| ours.rate / theirs.rate).collect::<Vec<_>>())
        };
        let best = Proxy::PEERS.into_iter().min_by(|a, b| against(*a).total_cmp(&against(*b)));
        let what = format!("{}: meltemi", row.name());
        if let Some(peer) = best {
            let of = format!("x {}", peer.name());
            report.judged(&what, shown(Proxy::Meltemi), (against(peer), &of), Some(Target::AtLeast(1.0)));
        }
        if let Some(least) = row.against_envoy() {
            let ratio = (against(Proxy::Envoy), "x envoy");
            report.judged(what, shown(Proxy::Meltemi), ratio, Some(Target::AtLeast(least)));
        }
    }
    for line in failed {
        report.plain(line, "");
    }
    report.print();
}

/// CPU time of all processes in a namespace, so far.
fn cpu(netns: &Netns) -> Result<Duration> {
    /// What `/proc/PID/stat` counts in.
    const TICK: Duration = Duration::from_millis(10);
    let pids = netns::run(Command::new("ip").args(["netns", "pids", netns.name()]))?;
    let ticks = pids.split_whitespace().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold spaces: state is the third field, user and system time the 14th and 15th.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
    });
    Ok(TICK * ticks.sum::<u32>())
}

/// Four clients that shake hands one time after another, each time anew.
fn handshakes(client: &Netns, proxy: Proxy, seconds: u32) -> Result<Outcome> {
    let (to, time) = (proxy.tls().to_string(), seconds.to_string());
    let start = || {
        let mut command = client.command("openssl");
        command.args(["s_time", "-new", "-tls1_3", "-connect", &to, "-time", &time]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        command.spawn().context("cannot start openssl")
    };
    let began = Instant::now();
    let clients: Vec<_> = (0..4).map(|_| start()).collect::<Result<_>>()?;
    let mut requests = 0.0;
    for client in clients {
        let text = String::from_utf8_lossy(&client.wait_with_output()?.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("connections in") && line.contains("real seconds"));
        let count = line.and_then(|line| line.split_whitespace().next());
        requests += count.with_context(|| format!("openssl said: {text}"))?.parse::<f64>()?;
    }
    Ok(Outcome { rate: requests / began.elapsed().as_secs_f64(), requests, errors: None })
}

fn h2load(client: &Netns, origin: &str, seconds: u32) -> Result<Outcome> {
    let time = seconds.to_string();
    let url = format!("{origin}/");
    let text = client.output("h2load", &["-t", "1", "-c", "8", "-m", "16", "-D", &time, &url])?;
    let rate =
        text.lines().find_map(|line| line.strip_prefix("finished in ")?.split(", ").nth(1)?.strip_suffix(" req/s"));
    let rate: f64 = rate.with_context(|| format!("h2load said: {text}"))?.parse()?;
    let bad = text.lines().find(|line| line.starts_with("status codes:") && !line.contains(" 0 3xx, 0 4xx, 0 5xx"));
    Ok(Outcome { rate, requests: rate * f64::from(seconds), errors: bad.map(str::to_owned) })
}

fn start_agent(world: &World, identity: &Identity) -> Result<Agent> {
    let config = write_config(&world.dir(), world, identity)?;
    let more = ["--proxy", "on", "--proxy-workers", "2"].map(str::to_owned).to_vec();
    let mut agent = Agent::start(world, &AgentOptions { mode: Mode::Tc, more, ..AgentOptions::new(config) })?;
    agent.wait_ready()?;
    Ok(agent)
}

fn write_config(dir: &Path, world: &World, identity: &Identity) -> Result<PathBuf> {
    let config = dir.join("served");
    fs::create_dir_all(&config)?;
    let text = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: bench, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {}, name: http, protocol: HTTP}}
      hosts: ['*']
    - port: {{number: {}, name: https, protocol: HTTPS}}
      hosts: ['*']
      tls: {{mode: SIMPLE, serverCertificate: {}, privateKey: {}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bench, namespace: default}}
spec:
  hosts: ['*']
  gateways: [bench]
  http:
    - route:
        - destination: {{host: server.bench, port: {{number: 80}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: server, namespace: default}}
spec:
  hosts: [server.bench]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
    - {{number: 80, name: http, protocol: HTTP, targetPort: {}}}
  endpoints:
    - address: {}
",
        Proxy::Meltemi.plain().port(),
        Proxy::Meltemi.tls().port(),
        identity.certificate.display(),
        identity.key.display(),
        Proxy::Meltemi.backend_port(),
        world.backends[0].v4,
    );
    fs::write(config.join("bench.yaml"), text)?;
    Ok(config)
}
