//! Packets per second through a balancer host between two veth pairs, made by BPF_F_TEST_XDP_LIVE_FRAMES and counted by a
//! program at the far end. Generator, balancer and far end share one CPU, as softirqs of veth do.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lb_common::flow::V4;
use lb_common::table::Forwarding;
use lb_common::verdict::Reason;
use serde_json::Value;

use super::inside::{self, Inside};
use super::packets;
use super::production::{PORT, Production, clients};
use super::programs::{Packet, Programs, Way};
use super::report::{Report, Target, median};
use crate::world::netns::Netns;
use crate::world::{BACK_SIDE, CLIENT_SIDE, ECHO_PORT, LB_V4, Options, World};

const FLOWS: u32 = 1_024;
/// Packets of a round.
const COUNT: u32 = 1_000_000;

/// What stands between the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Path {
    /// XDP, nothing but the redirect.
    Redirect,
    /// XDP, one look-up in an LRU map and the redirect: what no balancer with a flow table can do without.
    Lookup,
    /// The production program with established flows.
    Meltemi,
    /// nft DNAT with conntrack.
    Nft,
    /// The kernel's forwarding alone.
    Forwarding,
}

impl Path {
    const ALL: [Path; 5] = [Path::Redirect, Path::Lookup, Path::Meltemi, Path::Nft, Path::Forwarding];

    const fn name(self) -> &'static str {
        match self {
            Path::Redirect => "redirect",
            Path::Lookup => "lookup",
            Path::Meltemi => "meltemi",
            Path::Nft => "nft",
            Path::Forwarding => "forwarding",
        }
    }
}

/// Measures in a world of its own and prints.
///
/// # Errors
/// When something cannot be set up, or a path delivers less than nearly all.
pub fn run(rounds: u32) -> Result<()> {
    let world = World::new(Options { backends: vec!["one".into()], ..Options::default() })?;
    world.forward_by_kernel()?;
    let backend = world.backends[0].v4;
    let (client, back) = (link(&world.lb, CLIENT_SIDE)?, link(&world.lb, BACK_SIDE)?);
    let backend_mac = link(&world.backends[0].netns, "eth0")?.1;
    world.lb.ip(&[format!("neighbour replace {backend} lladdr {backend_mac} dev {BACK_SIDE} nud permanent")])?;
    // Without it, frames from the generator reach no stack.
    world.lb.output("ethtool", &["-K", CLIENT_SIDE, "gro", "on"])?;
    let (own, _) = link(&world.client, "eth0")?;
    let mut sink = Inside::start(&world.net, &["part-sink", "--interface", "up0"])?;
    let mut figures = vec![Vec::new(); Path::ALL.len()];
    for _ in 0..rounds {
        for path in Path::ALL {
            let _between = between(&world, path, back.0)?;
            let to = if path == Path::Forwarding { (backend, ECHO_PORT) } else { (LB_V4, PORT) };
            let (to, port) = (to.0.to_string(), to.1.to_string());
            let own = own.to_string();
            let args = ["part-generate", "--interface", &own, "--link", &client.1, "--to", &to, "--port", &port];
            let mut generator = Inside::start(&world.client, &args)?;
            // First packets find caches cold, and make conntrack's entries.
            generator.ask("20000")?;
            let before: u64 = sink.ask("count")?.parse()?;
            let seconds: f64 = generator.ask(&COUNT.to_string())?.parse()?;
            let arrived = sink.ask("count")?.parse::<u64>()? - before;
            ensure!(arrived > u64::from(COUNT / 10), "{}: of {COUNT} packets {arrived} arrived", path.name());
            figures[path as usize].push(arrived as f64 / seconds / 1e6);
        }
    }
    print(&figures);
    Ok(())
}

/// What undoes a path when it is dropped.
enum Between {
    Part(#[expect(dead_code, reason = "held for its drop")] Inside),
    Table(Netns),
    Nothing,
}

impl Drop for Between {
    fn drop(&mut self) {
        if let Between::Table(netns) = self {
            // The world goes away anyhow; conntrack's entries go with the table's last rule.
            let _ = netns.output("nft", &["delete table ip bench"]);
        }
    }
}

fn between(world: &World, path: Path, out: u32) -> Result<Between> {
    let out = out.to_string();
    Ok(match path {
        Path::Redirect | Path::Lookup | Path::Meltemi => {
            Between::Part(Inside::start(&world.lb, &["part-between", "--path", path.name(), "--out", &out])?)
        }
        Path::Nft => {
            let rule = format!("ip daddr {LB_V4} tcp dport {PORT} dnat to {}:{ECHO_PORT}", world.backends[0].v4);
            let chain = "type nat hook prerouting priority dstnat";
            world.lb.output("nft", &[&format!("table ip bench {{ chain pre {{ {chain}; {rule}; }}; }}")])?;
            Between::Table(world.lb.clone())
        }
        Path::Forwarding => Between::Nothing,
    })
}

fn print(figures: &[Vec<f64>]) {
    let mpps = |path: Path| median(&figures[path as usize]);
    let shown = |path: Path| format!("{:.2} Mpps", mpps(path));
    let mut report = Report::new(format!("XDP on veth, {FLOWS} established flows, one CPU for all"));
    report.plain("bare redirect", shown(Path::Redirect));
    report.plain("one LRU look-up and the redirect", shown(Path::Lookup));
    report.plain("nft DNAT with conntrack", shown(Path::Nft));
    report.plain("kernel forwarding", shown(Path::Forwarding));
    let against = [
        (Path::Redirect, "x bare redirect", 0.85),
        (Path::Nft, "x nft DNAT", 5.0),
        (Path::Forwarding, "x kernel forwarding", 3.0),
    ];
    for (path, of, least) in against {
        let pairs = figures[Path::Meltemi as usize].iter().zip(&figures[path as usize]);
        let ratio = median(&pairs.map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>());
        report.judged("meltemi, XDP, established", shown(Path::Meltemi), (ratio, of), Some(Target::AtLeast(least)));
    }
    report.print();
}

/// Index and link address of an interface.
pub(super) fn link(netns: &Netns, interface: &str) -> Result<(u32, String)> {
    let links: Value = serde_json::from_str(&netns.output("ip", &["-j", "link", "show", "dev", interface])?)?;
    let index = links[0]["ifindex"].as_u64().context("no interface index")?;
    let address = links[0]["address"].as_str().context("no link address")?;
    Ok((u32::try_from(index)?, address.to_owned()))
}

/// Part: counts at the far end; each line is answered by the number so far.
///
/// # Errors
/// When the kernel refuses.
pub fn sink(interface: &str) -> Result<()> {
    let mut programs = Programs::load(&[])?;
    programs.attach("sink", interface)?;
    inside::serve(|_| Ok(programs.sunk()?.to_string()))
}

/// Part: makes as many packets as a line says, and answers with the seconds that took.
///
/// # Errors
/// When the kernel refuses.
pub fn generate(interface: u32, link: &str, to: IpAddr, port: u16) -> Result<()> {
    let mut programs = Programs::load(&[])?;
    let packet = Packet::data(clients(to, Forwarding::Snat), to, port);
    programs.set(&packet, u64::from(FLOWS - 1), Way { interface, link: addresses(link)? })?;
    let redirect = programs.own("redirect")?;
    programs.put(&redirect)?;
    programs.program(packet.front())?;
    inside::serve(|line| {
        let began = Instant::now();
        programs.send(packet.front(), line.parse()?)?;
        Ok(began.elapsed().as_secs_f64().to_string())
    })
}

/// Part: holds one of the XDP paths.
///
/// # Errors
/// When the kernel refuses.
pub fn hold(path: Path, out: u32) -> Result<()> {
    let link = [2; 12];
    if path != Path::Meltemi {
        let mut programs = Programs::load(&[("BASE_LRU4", 262_144)])?;
        let mut map = programs.take("BASE_LRU4")?.try_into()?;
        packets::insert_keys::<V4, [u64; 6]>(&mut map, LB_V4.into(), Forwarding::Snat, 0..FLOWS, [0; 6])?;
        let to = IpAddr::from(LB_V4);
        programs.set(&Packet::data(to, to, PORT), 0, Way { interface: out, link })?;
        programs.attach(path.name(), CLIENT_SIDE)?;
        return inside::serve(|_| Ok(String::new()));
    }
    let sizes = [("FLOWS4", 262_144), ("FLOWS6", 8_192)];
    let mut production = Production::load(&sizes)?;
    let backend = std::net::SocketAddr::new(Ipv4Addr::new(10, 1, 0, 2).into(), ECHO_PORT);
    production.listen(LB_V4.into(), Ipv4Addr::new(10, 1, 0, 1).into(), &[backend], Forwarding::Snat)?;
    production.establish(LB_V4.into(), Forwarding::Snat, 0..FLOWS, (out, link))?;
    production.attach(CLIENT_SIDE)?;
    inside::serve(|_| Ok(production.counted(Reason::ForwardFlow)?.to_string()))
}

/// Destination as given, source locally administered.
fn addresses(destination: &str) -> Result<[u8; 12]> {
    let mut link = [2; 12];
    for (to, byte) in link.iter_mut().zip(destination.split(':')) {
        *to = u8::from_str_radix(byte, 16).context("not a link address")?;
    }
    Ok(link)
}
