//! The one loop: change, parse, compile, diff, apply, report. The only room that knows all others.

use crate::{
    compile::{
        self, Compiler,
        ids::{Backends, Ids, Pool},
    },
    dataplane::{
        MapsError, advance,
        kernel::{Left, Meta},
        limits::Limits,
        load::{Attachment, LoadError, Loaded, Mode},
        pins::Pins,
    },
    finding::{Finding, Severity},
    host::{self, Change, Choice, HostError, Link, Nature, Network, News},
    image::{Image, RuleTable, Sorted, SubsetTable},
    model::{self, Identity, Model},
    observe::{
        admin,
        shared::{Settled, Shared, State},
    },
    plan::diff,
    source::{
        file,
        watch::{Wait, Watch, WatchError},
    },
    spec::Store,
};
use lb_common::{
    conntrack::Timeouts,
    table::{Settings, Turn},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Everything the user says on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: Vec<PathBuf>,
    pub interfaces: Vec<String>,
    /// `None`: by kind of interface.
    pub mode: Option<Mode>,
    pub forwarding: Choice,
    pub vips: Vec<IpAddr>,
    pub identity: Identity,
    pub pin: PathBuf,
    pub admin: Option<SocketAddr>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub snat_ports: (u16, u16),
    pub removed: Removed,
    pub on_exit: OnExit,
}

/// What happens to flows of a backend that is no longer configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// They go on until they end.
    Drain,
    /// Their next packet is answered with RST.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The kernel goes on without an agent.
    Leave,
    Detach,
}

#[derive(Debug, Error)]
pub enum AgentError {
    #[error("{0}")]
    Unreadable(String),
    #[error(
        "{0}\nthe configuration is broken and a former agent's tables are in force: they stay as they are; repair it, or `meltemi detach` first"
    )]
    Broken(String),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("--snat-ports {}-{} overlaps the host's own ports {}-{} (net.ipv4.ip_local_port_range): a local connection could clash with a client's", snat.0, snat.1, local.0, local.1)]
    Ports { snat: (u16, u16), local: (u16, u16) },
    #[error("the admin endpoint {address}: {source}")]
    Admin { address: SocketAddr, source: std::io::Error },
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// Changes closer together than this make one revision.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Time between two looks at the flow table.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upkeep takes at most one part in this of the agent's time, however large the tables are.
const UPKEEP_SHARE: u32 = 50;

/// Time between two looks at whether the host answers route lookups. Who sets `net.ipv6.conf.all.forwarding` sets it for the
/// loopback interface too, and new flows find no way until that is undone.
const LOOKUPS: Duration = Duration::from_millis(500);

/// Time for a burst of news about interfaces to end.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs until a signal ends it.
pub async fn run(options: Options) -> Result<(), AgentError> {
    check_ports(options.snat_ports)?;
    let (sender, mut changes) = mpsc::channel(1);
    let watch = Watch::new(&options.config)?;
    let pins = Pins::new(&options.pin);
    let lock = pins.lock().map_err(LoadError::from)?;
    let fresh = !pins.exists();
    let started = Agent::start(options, pins.clone(), lock).await;
    if started.is_err() && fresh {
        // Nothing is in force yet that would be worth keeping.
        let _ = pins.remove();
    }
    let mut agent = started?;
    std::thread::spawn(move || follow(&watch, &sender));
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let mut news = News::open()?;
    let mut next = tokio::time::Instant::now() + UPKEEP;
    let mut lookups = tokio::time::interval(LOOKUPS);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(()) = changes.recv() => agent.reload().await,
            Some(change) = news.next() => match change {
                // Without forwarding the host asks for nobody's link address, and packets would be lost until somebody does.
                Change::Forgotten { ifindex, neighbour } => agent.network.meet(ifindex, neighbour).await,
                Change::Up { .. } => next = next.min(tokio::time::Instant::now() + SETTLE),
            },
            _ = lookups.tick() => agent.keep_lookups(),
            _ = tokio::time::sleep_until(next) => {
                let start = tokio::time::Instant::now();
                agent.upkeep().await;
                next = tokio::time::Instant::now() + UPKEEP.max(start.elapsed() * UPKEEP_SHARE);
            }
        }
    }
    agent.stop();
    Ok(())
}

/// Passes changes on, a burst as one.
fn follow(watch: &Watch, sender: &mpsc::Sender<()>) {
    loop {
        if watch.wait(Duration::from_secs(3_600)) == Wait::Changed {
            while watch.wait(DEBOUNCE) == Wait::Changed {}
            if sender.blocking_send(()).is_err() {
                return;
            }
        }
    }
}

struct Agent {
    options: Options,
    pins: Pins,
    network: Network,
    reader: file::Reader,
    store: Store,
    compiler: Compiler,
    ids: Ids,
    loaded: Loaded,
    shared: Shared,
    /// Endpoints without a route, which were reported.
    unreachable: BTreeSet<IpAddr>,
    /// Held for the agent's life.
    _lock: std::fs::File,
}

impl Agent {
    /// Brings the first revision into force, then attaches.
    async fn start(options: Options, pins: Pins, lock: std::fs::File) -> Result<Self, AgentError> {
        let network = Network::open()?;
        let links = network.links().await?;
        let attachments = plan_attachments(&options, &links)?;
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
        tracing::info!(memory = %options.limits.memory(cpus), flows = options.limits.flows, "kernel maps");
        let mut loaded = Loaded::load(&pins, &options.limits)?;
        let mut maps = loaded.maps()?;
        let ticks_per_second = loaded.ticks_per_second()?;
        let (first, last) = options.snat_ports;
        let settings = Settings {
            snat_first: first,
            snat_count: last - first + 1,
            refresh: ticks_per_second,
            turn: turn(&attachments, &links),
        };
        maps.set_settings(settings)?;
        let changed = host::allow_lookups()? | maps.meta(Meta::Forwarding)?;
        maps.set_meta(Meta::Forwarding, changed)?;
        let left = maps.left()?;
        if !left.rules.is_empty() {
            tracing::info!(
                rules = left.rules.len(),
                backends = left.backends.len(),
                "adopting the tables of a former agent"
            );
        }
        let adopted = !left.vips.is_empty();
        let (ids, image) = adopt(&left, maps.meta(Meta::NextBackend)? as u32);
        let revision = maps.meta(Meta::Revision)?;
        let settled = Settled {
            pins: pins.clone(),
            attachments: attachments.clone(),
            timeouts: options.timeouts,
            max_flows: options.limits.flows,
            ticks_per_second,
        };
        let state = State::new(maps, image, revision, settled);
        let shared: Shared = Arc::new(Mutex::new(state));
        let mut agent = Self {
            options,
            pins,
            network,
            reader: file::Reader::default(),
            store: Store::default(),
            compiler: Compiler::default(),
            ids,
            loaded,
            shared,
            unreachable: BTreeSet::new(),
            _lock: lock,
        };
        if let Some(address) = agent.options.admin {
            admin::serve(address, agent.shared.clone())
                .await
                .map_err(|source| AgentError::Admin { address, source })?;
        }
        let files = agent.reader.load(&agent.options.config);
        if let Some(unreadable) = files.unreadable.first() {
            return Err(AgentError::Unreadable(unreadable.to_string()));
        }
        // What is broken now may be in force in the adopted tables, and only its absence could be compiled.
        let mut rejected = files.files.iter().flat_map(|file| &file.findings);
        if let Some(finding) = rejected.find(|finding| adopted && finding.severity == Severity::Error) {
            return Err(AgentError::Broken(finding.to_string()));
        }
        agent.take(&files).await?;
        for mode in Mode::ALL {
            if attachments.iter().any(|attachment| attachment.mode == mode) {
                agent.loaded.enable(mode)?;
            }
        }
        agent.loaded.attach_all(&attachments)?;
        let revision = agent.state(|state| {
            state.ready = true;
            state.revision
        });
        for attachment in &attachments {
            tracing::info!(interface = attachment.interface, mode = attachment.mode.name(), "attached");
        }
        eprintln!("ready revision={revision}");
        notify_ready();
        Ok(agent)
    }

    /// A change of the files. Whatever goes wrong, what is in force stays in force.
    async fn reload(&mut self) {
        let start = Instant::now();
        let files = self.reader.load(&self.options.config);
        for unreadable in &files.unreadable {
            tracing::warn!("{unreadable}; its last good content stays in force");
        }
        let result = self.take(&files).await;
        self.announce(start, result);
    }

    /// Says what became of a change.
    fn announce(&self, start: Instant, result: Result<usize, AgentError>) {
        match result {
            Ok(0) => {}
            Ok(changed) => {
                let revision = self.state(|state| state.revision);
                let took = start.elapsed().as_secs_f64() * 1e3;
                eprintln!("applied revision={revision} changed={changed} in={took:.1}ms");
            }
            Err(error) => {
                self.state(|state| state.stale = Some(error.to_string()));
                tracing::error!("{error}; the last revision stays in force");
            }
        }
    }

    /// Parses, compiles and applies. `Ok` holds the number of writes.
    async fn take(&mut self, files: &file::Loaded) -> Result<usize, AgentError> {
        let mut findings = self.store.merge(&files.files, &files.out_of_reach());
        let (model, more) = model::parse(&self.store.specs(), &self.options.identity);
        findings.extend(more);
        self.report(&findings);
        self.put(Arc::new(model)).await
    }

    /// Makes `model` the one in force.
    async fn put(&mut self, model: Arc<Model>) -> Result<usize, AgentError> {
        let endpoints = compile::endpoint_addresses(&model);
        let host = self
            .network
            .survey(&self.options.interfaces, &self.options.vips, &endpoints, self.options.forwarding)
            .await?;
        let unreachable: BTreeSet<IpAddr> =
            endpoints.into_iter().filter(|endpoint| !host.paths.contains_key(endpoint)).collect();
        for endpoint in unreachable.difference(&self.unreachable) {
            tracing::warn!("no route to endpoint {endpoint}, or it is this host itself: it is left out");
        }
        self.unreachable = unreachable;
        let image = self.compiler.compile(&model, &Arc::new(host), &mut self.ids);
        let next_backend = self.ids.backends.next();
        let changed = self.state(|state| {
            let plan = diff(&state.image, &image);
            // The number must be on record before a backend carries it.
            state.maps.set_meta(Meta::NextBackend, next_backend as u64)?;
            let changed = advance(&mut state.maps, &mut state.image, &plan)?;
            if changed > 0 || state.revision == 0 {
                state.revision += 1;
                state.maps.set_meta(Meta::Revision, state.revision)?;
            }
            state.adopt(model, image)?;
            Ok::<_, AgentError>(changed)
        })?;
        self.ids.settle();
        Ok(changed)
    }

    fn report(&self, findings: &[Finding]) {
        for finding in findings {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
                Severity::Info => tracing::debug!("{finding}"),
            }
        }
        self.state(|state| state.findings = findings.to_vec());
    }

    /// Has the host answer route lookups again where somebody turned that off.
    fn keep_lookups(&self) {
        let kept = host::allow_lookups().map_err(AgentError::from).and_then(|changed| {
            if changed == 0 {
                return Ok(());
            }
            tracing::warn!("forwarding was turned off for the loopback interface, which route lookups need: on again");
            self.state(|state| state.maps.set_meta(Meta::Forwarding, changed | state.maps.meta(Meta::Forwarding)?))?;
            Ok(())
        });
        if let Err(error) = kept {
            tracing::warn!("{error}");
        }
    }

    /// Removes flows that ended, follows changes of addresses and routes, and puts programs on interfaces that came back.
    async fn upkeep(&mut self) {
        let ticks = match self.loaded.clock() {
            Ok((_, ticks)) => ticks as u32,
            Err(error) => return tracing::warn!("cannot read the kernel's clock: {error}"),
        };
        let removed = self.options.removed;
        let (model, result) = self.state(|state| (state.model.clone(), state.sweep(ticks, removed == Removed::Reset)));
        if let Err(error) = result {
            tracing::warn!("cannot sweep the flow table: {error}");
        }
        let start = Instant::now();
        let result = self.put(model).await;
        self.announce(start, result);
        for attachment in self.state(|state| state.settled.attachments.clone()) {
            if let Err(error) = self.loaded.attach(&attachment.interface, attachment.mode) {
                tracing::debug!("{error}");
            }
        }
    }

    fn stop(self) {
        match self.options.on_exit {
            OnExit::Leave => {
                tracing::info!("leaving; the kernel goes on with revision {}", self.state(|state| state.revision))
            }
            OnExit::Detach => {
                let changed = self.state(|state| state.maps.meta(Meta::Forwarding)).unwrap_or(0);
                if let Err(error) = self.pins.remove() {
                    tracing::error!("{error}");
                }
                host::forbid_lookups(changed);
            }
        }
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// Continues the numbers that `left` holds. Its tables are described by name only, so that each is written anew once; the
/// same configuration makes the same table, and no flow notices.
pub fn adopt(left: &Left, next_backend: u32) -> (Ids, Image) {
    let ids = Ids {
        rules: Pool::recovered(left.rules.iter().map(|(name, id)| (*name, id.0))),
        subsets: Pool::recovered(left.subsets.iter().map(|(name, id)| (*name, id.0))),
        destination_stats: Pool::recovered(left.destination_stats.iter().copied()),
        backend_stats: Pool::recovered(
            left.backends
                .iter()
                .map(|(_, backend)| (crate::image::name_hash(&backend.address.to_string()), backend.stats.0)),
        ),
        backends: Backends::recovered(left.backends.iter().map(|(id, backend)| (backend.address, id.0)), next_backend),
    };
    let unknown: Arc<str> = "".into();
    let rule = || RuleTable { name: unknown.clone(), hash: lb_common::flow::HashKey::Flow, destinations: Vec::new() };
    let image = Image {
        vips: left.vips.iter().copied().collect(),
        rules: left.rules.iter().map(|(_, id)| (*id, Arc::new(rule()))).collect(),
        subsets: left
            .subsets
            .iter()
            .map(|(_, id)| (*id, Arc::new(SubsetTable { name: unknown.clone(), members: Vec::new() })))
            .collect(),
        backends: left.backends.iter().copied().collect(),
        listeners: Sorted::default(),
    };
    (ids, image)
}

/// Native XDP where there is hardware; TC on veth and bridges, whose frames XDP cannot forward at full speed.
fn plan_attachments(options: &Options, links: &[Link]) -> Result<Vec<Attachment>, LoadError> {
    let mut attachments = Vec::new();
    for interface in &options.interfaces {
        let link = links
            .iter()
            .find(|link| link.name == *interface)
            .ok_or_else(|| LoadError::NoInterface(interface.clone()))?;
        let mode = options.mode.unwrap_or(match link.nature {
            Nature::Hardware => Mode::Xdp,
            Nature::Virtual => Mode::Tc,
        });
        attachments.push(Attachment { interface: interface.clone(), mode });
    }
    attachments.sort_by(|a, b| a.interface.cmp(&b.interface));
    attachments.dedup();
    Ok(attachments)
}

/// One virtual interface with native XDP is enough: what serves it serves hardware too.
fn turn(attachments: &[Attachment], links: &[Link]) -> Turn {
    let software = |attachment: &&Attachment| {
        let named = |link: &&Link| link.name == attachment.interface && link.nature == Nature::Virtual;
        attachment.mode == Mode::Xdp && links.iter().any(|link| named(&link))
    };
    if attachments.iter().any(|attachment| software(&attachment)) { Turn::REDIRECT } else { Turn::TRANSMIT }
}

fn check_ports(snat: (u16, u16)) -> Result<(), AgentError> {
    match host::local_ports() {
        Some(local) if snat.0 <= local.1 && local.0 <= snat.1 => Err(AgentError::Ports { snat, local }),
        _ => Ok(()),
    }
}

/// Tells systemd, where it asked to be told (sd_notify(3)).
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", path));
    if let Err(error) = sent {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
