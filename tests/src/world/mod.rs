//! A throw-away world: client, balancer host and backends, each a network namespace, joined by veth pairs.
//!
//! ```text
//! client                lb (the balancer host)             net                     b1, b2, ...
//! eth0 ──────────── client0      back0 ──────────────── up0 ─ br0 ─ v1 ──────────── eth0
//! 10.0.0.2/24       10.0.0.1/24  10.1.0.1/24            (bridge, no addresses)      10.1.0.2/24, .3, ...
//! fd00::2/64        fd00::1/64   fd00:1::1/64                                       fd00:1::2/64, ::3, ...
//! ```
//! Client and backends have their default route through the balancer host, so replies pass it also where the client's
//! address is kept. Nothing here knows the agent; see `agent.rs`. A world is removed when it is dropped, and also when
//! its maker panics, is interrupted or is killed; see `janitor.rs`.

pub mod helper;
pub mod janitor;
pub mod netns;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::poll;
use helper::Helper;
use janitor::Janitor;
use netns::Netns;

/// Prefix of namespaces and directories; `cargo xtask clean-host` looks for it.
pub const PREFIX: &str = "mlt-";

/// The interface of the balancer host on the client's side.
pub const CLIENT_SIDE: &str = "client0";
/// The interface of the balancer host on the backends' side.
pub const BACK_SIDE: &str = "back0";

/// The balancer host's addresses on the client's side: what a client connects to.
pub const LB_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const LB_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// The client's addresses.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Where the echo servers of Istio's sample listen.
pub const ECHO_PORT: u16 = 9000;

/// Longest time that links and addresses take to become usable.
const READY: Duration = Duration::from_secs(10);

/// Who computes TCP checksums, which a veth leaves undone until somebody reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// As created: packets carry only the pseudo-header's sum, and no veth ever checks it.
    AsCreated,
    /// Client and backends send complete checksums. Native XDP needs this on veth, or completes them itself.
    EndsOff,
    /// Client and backends leave them undone, the balancer host's own veths complete them on the way out: a wrong
    /// incremental update becomes visible at the receiver.
    BalancerOff,
}

/// Whether the far ends of the balancer host's veths use NAPI; native XDP delivers nothing to one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gro {
    AsCreated,
    On,
}

/// How a world is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Greetings of the backends that are there from the start: 10.1.0.2 gets the first.
    pub backends: Vec<String>,
    pub offload: Offload,
    pub gro: Gro,
    /// MTU of every link, bytes.
    pub mtu: u16,
}

impl Default for Options {
    /// Backends `one` and `two` as in Istio's sample, offloads as created, `gro on`, MTU 1500.
    fn default() -> Self {
        Options { backends: vec!["one".into(), "two".into()], offload: Offload::AsCreated, gro: Gro::On, mtu: 1500 }
    }
}

/// A backend: its namespace, addresses and echo server.
pub struct Backend {
    pub netns: Netns,
    pub greeting: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// The echo server on [`ECHO_PORT`]; `None` after [`Backend::stop`].
    pub server: Option<Helper>,
    /// Its HTTP servers; see [`World::serve_web`].
    pub web: Vec<Helper>,
}

impl Backend {
    /// Ends the server as a crash would; connections are reset or end. The namespace and its addresses stay.
    ///
    /// # Errors
    /// When the process cannot be ended.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Helper::kill)
    }

    /// What the server has counted: `accepted`, `open`, `lines`, `clients`.
    ///
    /// # Errors
    /// When the server is stopped or does not answer.
    pub fn report(&mut self) -> Result<serde_json::Value> {
        self.server.as_mut().context("the server is stopped")?.ask("report")
    }
}

/// The world. Worlds of one process take turns, because two at once would disturb each other's timing on a small
/// machine: making a second one while the first lives on the same thread waits for ever.
pub struct World {
    id: String,
    options: Options,
    pub client: Netns,
    pub lb: Netns,
    /// The bridge between the balancer host (`up0`) and the backends.
    pub net: Netns,
    pub backends: Vec<Backend>,
    janitor: Janitor,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// Makes a world and waits until its links and addresses are usable.
    ///
    /// # Errors
    /// Without root, with what to do; when a program is missing or fails.
    pub fn new(options: Options) -> Result<World> {
        static TURN: Mutex<()> = Mutex::new(());
        static NEXT: AtomicU32 = AtomicU32::new(0);
        require_root()?;
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let janitor = Janitor::start(&id)?;
        // From here on the janitor cleans up, also where one of the next lines fails.
        let made = || -> Result<_> {
            std::fs::create_dir_all(janitor::directory(&id))?;
            let named = |role: &str| Netns::create(format!("{PREFIX}{id}-{role}"));
            Ok((named("client")?, named("lb")?, named("net")?))
        }();
        let (client, lb, net) = match made {
            Ok(made) => made,
            Err(error) => {
                let mut janitor = janitor;
                janitor.finish();
                return Err(error);
            }
        };
        let backends = Vec::new();
        let mut world = World { id, options, client, lb, net, backends, janitor, _turn: turn };
        world.join()?;
        for greeting in world.options.backends.clone() {
            world.add_backend(&greeting)?;
        }
        world.wait_ready()?;
        Ok(world)
    }

    /// Unique on this host while the world lives.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A directory for the world's files; removed with it.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        janitor::directory(&self.id)
    }

    /// Where the agent of this world pins its programs and maps; removed with the world.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        janitor::pin_dir(&self.id)
    }

    /// Leaves everything up and running. The return value is what [`janitor::remove`] takes.
    ///
    /// # Errors
    /// When a process does not answer.
    pub fn keep(mut self) -> Result<String> {
        for backend in &mut self.backends {
            for server in backend.server.take().into_iter().chain(backend.web.drain(..)) {
                server.leave_running("stay")?;
            }
        }
        self.janitor.dismiss()?;
        Ok(self.id.clone())
    }

    /// The address on which a backend's server listens, in the family of `like`.
    #[must_use]
    pub fn backend_addr(&self, index: usize, family: Family) -> SocketAddr {
        let backend = &self.backends[index];
        let ip = match family {
            Family::V4 => IpAddr::from(backend.v4),
            Family::V6 => IpAddr::from(backend.v6),
        };
        SocketAddr::new(ip, ECHO_PORT)
    }

    /// Adds the next backend: 10.1.0.N and fd00:1::N, N from 2 up.
    ///
    /// # Errors
    /// When a command fails or the server does not start.
    pub fn add_backend(&mut self, greeting: &str) -> Result<()> {
        let host = self.backends.len() + 2;
        self.add_backend_at(u8::try_from(host).context("no more than 253 backends")?, greeting)
    }

    /// Adds the backend 10.1.0.`host` and fd00:1::`host`, and starts its echo server.
    ///
    /// # Errors
    /// When the address is taken, a command fails or the server does not start.
    pub fn add_backend_at(&mut self, host: u8, greeting: &str) -> Result<()> {
        ensure!(host >= 2, "10.1.0.{host} is not a backend's address");
        let (number, mtu) = (host - 1, self.options.mtu);
        let netns = Netns::create(format!("{PREFIX}{}-b{number}", self.id))?;
        self.net.ip(&[
            format!("link add v{number} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", netns.name()),
            format!("link set v{number} master br0 up"),
        ])?;
        let (v4, v6) = (Ipv4Addr::new(10, 1, 0, host), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, host.into()));
        netns.ip(&[
            format!("address add {v4}/24 dev eth0"),
            format!("address add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            "route add default via 10.1.0.1".into(),
            "route add default via fd00:1::1".into(),
        ])?;
        self.shape_end(&netns)?;
        poll_ready(&netns)?;
        let listen = format!("[::]:{ECHO_PORT}");
        let server = Helper::start(&netns, &["world-server", "--greeting", greeting, "--listen", &listen])?;
        self.backends.push(Backend { netns, greeting: greeting.into(), v4, v6, server: Some(server), web: Vec::new() });
        Ok(())
    }

    /// Adds a backend behind the backend `router`, which forwards for it: 10.2.0.2 and fd00:2::2. On the way to it no
    /// packet larger than `mtu` bytes passes; its own link takes more, so it does not know.
    ///
    /// # Errors
    /// When a command fails or the server does not start.
    pub fn add_backend_behind(&mut self, router: usize, mtu: u16, greeting: &str) -> Result<()> {
        let netns = Netns::create(format!("{PREFIX}{}-far", self.id))?;
        let (near, v4, v6) = (&self.backends[router], self.backends[router].v4, self.backends[router].v6);
        near.netns.sysctl(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
        near.netns.ip(&[
            format!("link add far0 type veth peer name eth0 netns {}", netns.name()),
            "address add 10.2.0.1/24 dev far0".into(),
            "address add fd00:2::1/64 dev far0 nodad".into(),
            "link set far0 up".into(),
            format!("route replace 10.2.0.0/24 dev far0 mtu {mtu}"),
            format!("route replace fd00:2::/64 dev far0 metric 100 mtu {mtu}"),
        ])?;
        netns.ip(&[
            "address add 10.2.0.2/24 dev eth0",
            "address add fd00:2::2/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.2.0.1",
            "route add default via fd00:2::1",
        ])?;
        self.lb.ip(&[format!("route add 10.2.0.0/24 via {v4}"), format!("route add fd00:2::/64 via {v6}")])?;
        self.shape_end(&netns)?;
        poll_ready(&netns)?;
        let listen = format!("[::]:{ECHO_PORT}");
        let server = Helper::start(&netns, &["world-server", "--greeting", greeting, "--listen", &listen])?;
        let (v4, v6) = (Ipv4Addr::new(10, 2, 0, 2), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2));
        self.backends.push(Backend { netns, greeting: greeting.into(), v4, v6, server: Some(server), web: Vec::new() });
        Ok(())
    }

    /// Starts a backend's server again after [`Backend::stop`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_backend(&mut self, index: usize) -> Result<()> {
        let backend = &mut self.backends[index];
        let listen = format!("[::]:{ECHO_PORT}");
        let args = ["world-server", "--greeting", &backend.greeting, "--listen", &listen];
        backend.server = Some(Helper::start(&backend.netns, &args)?);
        Ok(())
    }

    /// Starts an HTTP server on a port of a backend, with the backend's greeting; `more` as `meltemi-demo world-web-server
    /// --help` says.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve_web(&mut self, index: usize, port: u16, more: &[&str]) -> Result<()> {
        let backend = &mut self.backends[index];
        let listen = format!("[::]:{port}");
        let args = ["world-web-server", "--greeting", &backend.greeting, "--listen", &listen];
        backend.web.push(Helper::start(&backend.netns, &[&args, more].concat())?);
        Ok(())
    }

    /// Runs the HTTP client in the client's namespace to its end; `args` as `meltemi-demo world-web --help` says.
    ///
    /// # Errors
    /// When the client itself fails. Failed requests are part of the answer.
    pub fn web(&self, args: &[&str]) -> Result<serde_json::Value> {
        web_from(&self.client, args)
    }

    /// Starts HTTP requests that go on until stopped.
    ///
    /// # Errors
    /// When the client does not start.
    pub fn web_steadily(&self, args: &[&str]) -> Result<Helper> {
        Helper::start(&self.client, &[&["world-web", "steady"], args].concat())
    }

    /// Where the agent of this world has the control sockets of its proxies.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        janitor::run_dir(&self.id)
    }

    /// Makes the balancer host route packets as any Linux router does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forward_by_kernel(&self) -> Result<()> {
        self.lb.sysctl(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])
    }

    /// Gives the client `count` more IPv4 addresses, 10.0.0.10 and up, which its connections to the outside take in
    /// turns: many clients as far as the balancer can tell. Needs nft.
    ///
    /// # Errors
    /// When a command fails.
    pub fn many_clients(&self, count: u8) -> Result<()> {
        ensure!(count <= 240, "no more than 240 addresses");
        let address = |number: u8| Ipv4Addr::new(10, 0, 0, 10 + number);
        let lines = (0..count).map(|number| format!("address add {}/32 dev eth0", address(number)));
        self.client.ip(&lines.collect::<Vec<_>>())?;
        let map = (0..count).map(|number| format!("{number} : {}", address(number)));
        let rule = format!("snat to numgen inc mod {count} map {{ {} }}", map.collect::<Vec<_>>().join(", "));
        let chain = "type nat hook postrouting priority srcnat";
        let table = format!("table ip many {{ chain out {{ {chain}; ip saddr {CLIENT_V4} {rule}; }}; }}");
        self.client.output("nft", &[&table]).map(|_| ())
    }

    /// Runs the echo client in the client's namespace to its end; `args` as `meltemi-demo world-client --help` says.
    ///
    /// # Errors
    /// When the client itself fails. Failed connections are part of the answer.
    pub fn run_client(&self, args: &[&str]) -> Result<serde_json::Value> {
        let program = helper_program()?;
        let text = netns::run(self.client.command(program).arg("world-client").args(args))?;
        serde_json::from_str(text.trim()).with_context(|| format!("the client said: {text}"))
    }

    /// Starts `count` long connections that echo every `pace`; gives them when all have answered once.
    ///
    /// # Errors
    /// When the client does not start.
    pub fn hold(&self, to: SocketAddr, count: u32, pace: Duration) -> Result<Helper> {
        let (to, count, pace) = (to.to_string(), count.to_string(), pace.as_millis().to_string());
        Helper::start(&self.client, &["world-client", "hold", "--to", &to, "--count", &count, "--every", &pace])
    }

    /// Starts connections one after the other, `pace` apart, until stopped.
    ///
    /// # Errors
    /// When the client does not start.
    pub fn churn(&self, to: SocketAddr, pace: Duration) -> Result<Helper> {
        let (to, pace) = (to.to_string(), pace.as_millis().to_string());
        Helper::start(&self.client, &["world-client", "churn", "--to", &to, "--every", &pace])
    }

    /// The namespace between the balancer host and the backends: a bridge, with `up0` to the balancer host.
    #[must_use]
    pub fn net(&self) -> &Netns {
        &self.net
    }

    /// Makes the balancer host's interface on the client's side anew, as after a deletion, with its addresses.
    ///
    /// # Errors
    /// When a command fails.
    pub fn remake_client_side(&self) -> Result<()> {
        let mtu = self.options.mtu;
        self.lb.ip(&[format!("link delete {CLIENT_SIDE}")])?;
        self.lb.ip(&[format!(
            "link add {CLIENT_SIDE} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            self.client.name()
        )])?;
        self.join_client()?;
        poll_ready(&self.client)?;
        poll_ready(&self.lb)
    }

    /// Wrong TCP checksums seen so far by the client and all backends together.
    ///
    /// # Errors
    /// When a namespace cannot be read.
    pub fn checksum_errors(&self) -> Result<u64> {
        let ends = std::iter::once(&self.client).chain(self.backends.iter().map(|backend| &backend.netns));
        ends.map(|netns| netns.counter("Tcp", "InCsumErrors")).sum()
    }

    fn join(&self) -> Result<()> {
        let mtu = self.options.mtu;
        let veth = |name: &str, peer: &str, netns: &Netns| {
            format!("link add {name} mtu {mtu} type veth peer name {peer} mtu {mtu} netns {}", netns.name())
        };
        self.lb.ip(&[
            veth(CLIENT_SIDE, "eth0", &self.client),
            veth(BACK_SIDE, "up0", &self.net),
            format!("address add 10.1.0.1/24 dev {BACK_SIDE}"),
            format!("address add fd00:1::1/64 dev {BACK_SIDE} nodad"),
            format!("link set {BACK_SIDE} up"),
        ])?;
        self.net.ip(&[
            // Without snooping, neighbour solicitations reach a new backend at once.
            format!("link add br0 mtu {mtu} type bridge mcast_snooping 0 stp_state 0 forward_delay 0"),
            "link set up0 master br0 up".into(),
            "link set br0 up".into(),
        ])?;
        self.join_client()?;
        // Room for tens of thousands of connections in sequence, each of which stays in TIME_WAIT for a minute.
        self.client.sysctl(&[("net.ipv4.ip_local_port_range", "1024 65000")])?;
        let loose = ["all", "default", CLIENT_SIDE, BACK_SIDE].map(|scope| format!("net.ipv4.conf.{scope}.rp_filter"));
        self.lb.sysctl(&loose.each_ref().map(|key| (key.as_str(), "0")))?;
        if self.options.gro == Gro::On {
            self.net.feature("up0", "gro", "on")?;
        }
        if self.options.offload == Offload::BalancerOff {
            self.lb.feature(BACK_SIDE, "tx", "off")?;
        }
        Ok(())
    }

    /// Addresses and features of the link between client and balancer host.
    fn join_client(&self) -> Result<()> {
        self.lb.ip(&[
            format!("address add {LB_V4}/24 dev {CLIENT_SIDE}"),
            format!("address add {LB_V6}/64 dev {CLIENT_SIDE} nodad"),
            format!("link set {CLIENT_SIDE} up"),
        ])?;
        self.client.ip(&[
            format!("address add {CLIENT_V4}/24 dev eth0"),
            format!("address add {CLIENT_V6}/64 dev eth0 nodad"),
            "link set eth0 up".into(),
            format!("route add default via {LB_V4}"),
            format!("route add default via {LB_V6}"),
        ])?;
        if self.options.offload == Offload::BalancerOff {
            self.lb.feature(CLIENT_SIDE, "tx", "off")?;
        }
        self.shape_end(&self.client)
    }

    /// Offload and GRO of a client's or backend's end.
    fn shape_end(&self, netns: &Netns) -> Result<()> {
        if self.options.offload == Offload::EndsOff {
            netns.feature("eth0", "tx", "off")?;
        }
        if self.options.gro == Gro::On {
            netns.feature("eth0", "gro", "on")?;
        }
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let own = [&self.client, &self.lb, &self.net];
        own.into_iter().chain(self.backends.iter().map(|backend| &backend.netns)).try_for_each(poll_ready)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.backends.clear();
        self.janitor.finish();
    }
}

/// Runs the HTTP client in any namespace to its end.
///
/// # Errors
/// When the client itself fails. Failed requests are part of the answer.
pub fn web_from(netns: &Netns, args: &[&str]) -> Result<serde_json::Value> {
    let text = netns::run(netns.command(helper_program()?).arg("world-web").args(args))?;
    serde_json::from_str(text.trim()).with_context(|| format!("the client said: {text}"))
}

/// Which version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

fn poll_ready(netns: &Netns) -> Result<()> {
    let mut last = String::new();
    let ready = poll::until(READY, "links and addresses", || {
        let why = netns.not_ready()?;
        last = why.clone().unwrap_or_default();
        Ok(why.is_none().then_some(()))
    });
    ready.with_context(|| format!("{}: {last}", netns.name()))
}

/// Fails with what to type where we are not root.
///
/// # Errors
/// Where we are not root.
pub fn require_root() -> Result<()> {
    let uid = netns::run(Command::new("id").arg("-u"))?;
    if uid.trim() != "0" {
        bail!("network namespaces and BPF programs need root: run `sudo -E cargo xtask test`");
    }
    Ok(())
}

/// The program with the hidden commands for servers, clients and the janitor: `meltemi-demo`, which cargo puts beside
/// every other program of this workspace.
///
/// # Errors
/// When it is not there.
pub fn helper_program() -> Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let places = here.ancestors().skip(1).take(2).map(|dir| dir.join("meltemi-demo"));
    let found = places.into_iter().find(|path| Path::new(path).is_file());
    found.with_context(|| format!("no meltemi-demo beside {}: run `cargo xtask build`", here.display()))
}
