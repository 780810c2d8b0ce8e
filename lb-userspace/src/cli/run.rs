//! `meltemi run`: the agent.

use super::{CANNOT_ASK, NOT_PERMITTED};
use crate::{
    agent::{self, AgentError, OnExit, Options},
    dataplane::{
        limits::Limits,
        load::{LoadError, Mode},
    },
    host::Choice,
    model::{Identity, Proxy, Services},
    observe::flows::Removed,
    process::{self, Output, User},
};
use clap::{Args as ClapArgs, ValueEnum};
use lb_common::{conntrack::Timeouts, table::Forwarding};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// Reads the configuration, puts it in force in the kernel, and follows its changes.
///
/// Prints `ready revision=N` once the first revision is in force, and `applied revision=N changed=M in=Tms` for each later
/// one. The kernel goes on without the agent: a restarted agent takes over what it finds.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// File or directory of manifests (*.yaml, *.yml, *.json); may be repeated. Changes take effect by themselves.
    #[arg(long, required = true, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Interface whose incoming packets are balanced; may be repeated. Replies must come in on one of them too.
    #[arg(long, required = true, value_name = "NAME")]
    interface: Vec<String>,
    /// Where the program sees packets. auto: native XDP on hardware, TC on veth, bridges and tunnels.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// snat: backends see this host's address; works everywhere. dnat: they see the client's; their replies must pass this
    /// host. auto: dnat for endpoints directly behind an attached virtual interface, else snat.
    #[arg(long, value_enum, default_value_t = ForwardingArg::Auto)]
    forwarding: ForwardingArg,
    /// Address that Gateways listen on besides those of the interfaces; may be repeated.
    #[arg(long, value_name = "ADDR")]
    vip: Vec<IpAddr>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Also balance Services' ClusterIPs that no VirtualService routes.
    #[arg(long)]
    services: bool,
    /// Directory on the BPF file system for everything that outlives the agent.
    #[arg(long, default_value = "/sys/fs/bpf/meltemi", value_name = "DIR")]
    pin: PathBuf,
    /// Address of the read-only admin endpoint, or `off`.
    #[arg(long, default_value = "127.0.0.1:15014", value_name = "ADDR:PORT", value_parser = admin)]
    admin: Admin,
    /// Most flows at a time. Kernel memory is about 350 bytes a flow.
    #[arg(long, default_value_t = 262_144, value_name = "N", value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    max_flows: u32,
    /// Most rules (listeners, counted per address family).
    #[arg(long, default_value_t = 16_384, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_rules: u32,
    /// Most backends (address and port).
    #[arg(long, default_value_t = 16_384, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    max_backends: u32,
    /// MiB for the tables of all rules and subsets: about 10 KiB a weighted rule and 8 KiB a subset.
    #[arg(long, default_value_t = 8, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=4_095))]
    table_memory: u32,
    /// Source ports for snat, FIRST-LAST; must not overlap net.ipv4.ip_local_port_range.
    #[arg(long, default_value = "10000-32767", value_name = "FIRST-LAST", value_parser = ports)]
    snat_ports: (u16, u16),
    /// Seconds after which an idle established flow is forgotten (RFC 5382 asks for at least 7440).
    #[arg(long, default_value_t = Timeouts::DEFAULT.established, value_name = "SECONDS")]
    idle_timeout: u32,
    /// What happens to flows of a backend that is no longer configured.
    #[arg(long, value_enum, default_value_t = RemovedArg::Drain)]
    removed_backends: RemovedArg,
    /// Whether HTTP and TLS are served, by a proxy process that is started when something needs it. `off`: their packets are left to
    /// the host. Before `off` follows on `on`: `meltemi detach`.
    #[arg(long, value_enum, default_value_t = ProxyArg::On)]
    proxy: ProxyArg,
    /// Workers of the proxy that serves HTTP and TLS, each with a thread of its own; 0: as many as CPUs.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=126))]
    proxy_workers: u32,
    /// User and group id that the proxy runs as, or `same`: the agent's own, without its capabilities. Default: 65532 where
    /// the agent is root, else `same`.
    #[arg(long, value_name = "ID", value_parser = user)]
    proxy_user: Option<User>,
    /// Seconds that connections of a proxy of another version get to end.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    proxy_drain: u64,
    /// A line for each request that the proxy serves, on the agent's standard output: Istio's default text, or JSON. A proxy that
    /// is running already is replaced by one that does so.
    #[arg(long, value_enum, default_value_t = AccessLogArg::Off)]
    access_log: AccessLogArg,
    /// Remove programs and tables on SIGTERM; flows are cut.
    #[arg(long)]
    detach_on_exit: bool,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProxyArg {
    Off,
    On,
}

/// Who the agent is.
#[derive(Debug, ClapArgs)]
pub struct IdentityArgs {
    /// Labels that a Gateway's selector must find, as for the pods of an ingress gateway.
    #[arg(long, default_value = "istio=ingressgateway", value_name = "K=V,...", value_parser = labels)]
    gateway_labels: Labels,
    /// The agent's own namespace: what exportTo and the choice of DestinationRules are measured against.
    #[arg(long, default_value = "istio-system", value_name = "NAME")]
    namespace: String,
    /// The namespace whose DestinationRules hold for everybody.
    #[arg(long, default_value = "istio-system", value_name = "NAME")]
    root_namespace: String,
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
}

impl IdentityArgs {
    pub fn identity(&self, services: Services, proxy: Proxy) -> Identity {
        Identity {
            gateway_labels: self.gateway_labels.0.clone(),
            namespace: self.namespace.as_str().into(),
            root_namespace: self.root_namespace.as_str().into(),
            cluster_domain: self.cluster_domain.as_str().into(),
            services,
            proxy,
        }
    }
}

#[derive(Clone, Debug)]
struct Labels(BTreeMap<String, String>);

#[derive(Clone, Copy, Debug)]
struct Admin(Option<SocketAddr>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Auto,
    Xdp,
    XdpGeneric,
    Tc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForwardingArg {
    Auto,
    Snat,
    Dnat,
}

impl ForwardingArg {
    pub const fn choice(self) -> Choice {
        match self {
            ForwardingArg::Auto => Choice::Auto,
            ForwardingArg::Snat => Choice::Always(Forwarding::Snat),
            ForwardingArg::Dnat => Choice::Always(Forwarding::Dnat),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RemovedArg {
    /// They go on until they end.
    Drain,
    /// Their next packet is answered with RST.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// What the proxy writes down of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AccessLogArg {
    Off,
    Text,
    Json,
}

fn admin(text: &str) -> Result<Admin, String> {
    if text == "off" {
        return Ok(Admin(None));
    }
    text.parse().map(|address| Admin(Some(address))).map_err(|_| "expected ADDR:PORT or `off`".to_owned())
}

fn user(text: &str) -> Result<User, String> {
    if text == "same" {
        return Ok(User::Same);
    }
    match text.parse() {
        Ok(0) => Err("not root; `same` keeps the agent's own user".to_owned()),
        Ok(id) => Ok(User::Id(id)),
        Err(_) => Err("expected a number or `same`".to_owned()),
    }
}

fn labels(text: &str) -> Result<Labels, String> {
    let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    let labels: Option<_> = text.split(',').filter(|part| !part.is_empty()).map(pair).collect();
    labels.map(Labels).ok_or_else(|| "expected KEY=VALUE,...".to_owned())
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let numbers = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match numbers {
        Some((first, last)) if 1_024 <= first && first <= last => Ok((first, last)),
        _ => Err("expected FIRST-LAST, from 1024 on".to_owned()),
    }
}

impl Args {
    fn options(&self) -> Options {
        Options {
            config: self.config.clone(),
            interfaces: self.interface.clone(),
            mode: match self.mode {
                ModeArg::Auto => None,
                ModeArg::Xdp => Some(Mode::Xdp),
                ModeArg::XdpGeneric => Some(Mode::XdpGeneric),
                ModeArg::Tc => Some(Mode::Tc),
            },
            forwarding: self.forwarding.choice(),
            vips: self.vip.clone(),
            identity: self.identity.identity(
                if self.services { Services::All } else { Services::OnlyRouted },
                match self.proxy {
                    ProxyArg::On => Proxy::On,
                    ProxyArg::Off => Proxy::Off,
                },
            ),
            pin: self.pin.clone(),
            admin: self.admin.0,
            limits: Limits {
                flows: self.max_flows,
                rules: self.max_rules,
                backends: self.max_backends,
                table_memory: self.table_memory << 20,
            },
            timeouts: Timeouts { established: self.idle_timeout, ..Timeouts::DEFAULT },
            snat_ports: self.snat_ports,
            removed: match self.removed_backends {
                RemovedArg::Drain => Removed::Drain,
                RemovedArg::Reset => Removed::Reset,
            },
            proxy: match self.proxy {
                ProxyArg::Off => None,
                ProxyArg::On => Some(self.proxy()),
            },
            on_exit: if self.detach_on_exit { OnExit::Detach } else { OnExit::Leave },
        }
    }
}

/// Nobody's files, and by custom nobody's name, in images of containers.
const PROXY_USER: u32 = 65_532;

impl Args {
    fn proxy(&self) -> process::Options {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        let access_log = match self.access_log {
            AccessLogArg::Off => "off",
            AccessLogArg::Text => "text",
            AccessLogArg::Json => "json",
        };
        let default = if rustix::process::geteuid().is_root() { User::Id(PROXY_USER) } else { User::Same };
        process::Options {
            directory: process::Directory::of(&self.pin),
            user: self.proxy_user.unwrap_or(default),
            workers: if self.proxy_workers == 0 { cpus } else { self.proxy_workers },
            drain: Duration::from_secs(self.proxy_drain),
            output: if self.access_log == AccessLogArg::Off { Output::Nowhere } else { Output::Inherited },
            arguments: ["--log-format", format, "--drain", &self.proxy_drain.to_string(), "--access-log", access_log]
                .map(str::to_owned)
                .to_vec(),
        }
    }
}

pub fn run(args: Args) -> ExitCode {
    log(args.log_format);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meltemi: {error}");
            return ExitCode::from(NOT_PERMITTED);
        }
    };
    match runtime.block_on(agent::run(args.options())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meltemi: {error}");
            ExitCode::from(status(&error))
        }
    }
}

fn status(error: &AgentError) -> u8 {
    match error {
        AgentError::Broken(_) => 1,
        AgentError::Unreadable(_) | AgentError::Ports { .. } | AgentError::Load(LoadError::NoInterface(_)) => {
            CANNOT_ASK
        }
        _ => NOT_PERMITTED,
    }
}

/// Logs go to stderr; RUST_LOG overrides the level.
pub(super) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colour);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
