//! The one loop: change, parse, compile, diff, apply, report. The only room that knows all others.

mod secrets;
mod serving;

use crate::{
    compile::{
        self, Compiler, Host,
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
    image::{ClassId, Image, RuleTable, Sorted, SubsetTable},
    model::{Extent, Identity, Model, Parser, Whole},
    observe::{
        admin,
        flows::Removed,
        shared::{Settled, Shared, State},
    },
    plan::diff,
    process::{self, ProcessError},
    source::{
        file,
        watch::{Changed, Wait, Watch, WatchError},
    },
    spec::Store,
};
use lb_common::{
    conntrack::Timeouts,
    table::{Settings, Turn},
};
use serving::Serving;
use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// `None`: what needs the proxy is left to the host.
    pub proxy: Option<process::Options>,
    pub on_exit: OnExit,
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
    #[error(transparent)]
    Proxy(#[from] ProcessError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// Time between two looks at the flow table.
const UPKEEP: Duration = Duration::from_secs(5);
/// Time between two looks at the host where there is no news of it.
const SURVEY: Duration = Duration::from_secs(60);
/// Upkeep takes at most one part in this of the agent's time, however large the tables are.
const UPKEEP_SHARE: u32 = 50;
/// The same while the flow table is running full: then idle flows would be lost otherwise.
const CROWDED_SHARE: u32 = 3;
/// Time without a change of files after which everything is parsed, where only a part was.
const WHOLE: Duration = Duration::from_secs(2);

/// Time between two looks at whether the flow table is running full, whether certificates were replaced, and whether the host
/// answers route lookups. Who sets `net.ipv6.conf.all.forwarding` sets it for the loopback interface too, and new flows find no
/// way until that is undone.
const LOOKS: Duration = Duration::from_millis(500);

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
    let proxies = options.proxy.as_ref().map(|proxy| proxy.directory.clone());
    let started = Agent::start(options, pins.clone(), lock).await;
    if started.is_err() && fresh {
        // Nothing is in force yet that would be worth keeping.
        let _ = pins.remove();
        proxies.inspect(|proxies| _ = proxies.clear());
        if let Err(error) = Network::open()?.deliver_only(&BTreeSet::new()).await {
            tracing::warn!("{error}");
        }
    }
    let mut agent = started?;
    std::thread::spawn(move || follow(&watch, &sender));
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let mut news = News::open()?;
    let mut sweep = tokio::time::Instant::now() + UPKEEP;
    let mut early = tokio::time::Instant::now();
    let mut survey = tokio::time::Instant::now() + SURVEY;
    // News in a stream do not make one survey after another.
    let mut earliest = tokio::time::Instant::now();
    let mut looks = tokio::time::interval(LOOKS);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(changed) = changes.recv() => agent.reload(&changed).await,
            Some(change) = news.next() => match change {
                // Without forwarding the host asks for nobody's link address, and packets would be lost until somebody does.
                Change::Forgotten { ifindex, neighbour } => agent.network.meet(ifindex, neighbour).await,
                Change::Moved => survey = survey.min(earliest.max(tokio::time::Instant::now() + SETTLE)),
            },
            _ = looks.tick() => {
                agent.keep_lookups();
                agent.follow_files().await;
                if tokio::time::Instant::now() >= early && agent.is_crowded() {
                    sweep = tokio::time::Instant::now();
                }
            }
            _ = tokio::time::sleep_until(sweep) => {
                let start = tokio::time::Instant::now();
                agent.sweep();
                let took = start.elapsed();
                sweep = tokio::time::Instant::now() + UPKEEP.max(took * UPKEEP_SHARE);
                early = tokio::time::Instant::now() + took * CROWDED_SHARE;
            }
            _ = tokio::time::sleep_until(survey) => {
                let start = tokio::time::Instant::now();
                agent.survey().await;
                earliest = tokio::time::Instant::now() + start.elapsed() * UPKEEP_SHARE;
                survey = earliest.max(start + SURVEY);
            }
            whole = agent.whole.next() => match whole {
                Due::Start => agent.start_whole().await,
                Due::Done(whole) => agent.finish_whole(*whole).await,
            },
        }
    }
    agent.stop().await;
    Ok(())
}

/// Passes changes on.
fn follow(watch: &Watch, sender: &mpsc::Sender<Changed>) {
    loop {
        if let Wait::Changed(changed) = watch.wait(Duration::from_secs(3_600))
            && sender.blocking_send(changed).is_err()
        {
            return;
        }
    }
}

/// What is asked of the host for a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    /// The ways to endpoints that were not there before.
    Known,
    /// Everything: there is news, or it was long ago.
    Anew,
}

/// What is to be done when there is time for it.
enum Later {
    None,
    At(tokio::time::Instant),
    /// Outdated by the next change of files.
    Running(tokio::task::JoinHandle<Whole>),
}

enum Due {
    Start,
    Done(Box<Whole>),
}

impl Later {
    /// Never ends where there is nothing to do.
    async fn next(&mut self) -> Due {
        match self {
            Later::None => std::future::pending().await,
            Later::At(time) => {
                tokio::time::sleep_until(*time).await;
                Due::Start
            }
            Later::Running(task) => match task.await {
                Ok(whole) => Due::Done(Box::new(whole)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
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
    serving: Serving,
    shared: Shared,
    parser: Parser,
    /// Of the last merge.
    findings: Vec<Finding>,
    /// The parsing of everything, after only a part was.
    whole: Later,
    /// As the last look at it found it; paths of endpoints that are not configured any more may be in it.
    host: Arc<Host>,
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
            namespace: options.identity.namespace.clone(),
        };
        let state = State::new(maps, image, revision, settled);
        let shared: Shared = Arc::new(Mutex::new(state));
        let parser = Parser::new(options.identity.clone());
        let mut agent = Self {
            serving: Serving::new(options.proxy.clone()),
            options,
            pins,
            network,
            reader: file::Reader::default(),
            store: Store::default(),
            compiler: Compiler::default(),
            ids,
            loaded,
            shared,
            parser,
            findings: Vec::new(),
            whole: Later::None,
            host: Arc::default(),
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
    async fn reload(&mut self, changed: &Changed) {
        let start = Instant::now();
        let files = match changed {
            Changed::Files(changed) => self.reader.update(&self.options.config, changed),
            Changed::Anything => self.reader.load(&self.options.config),
        };
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
        self.findings = self.store.merge(&files.files, &files.out_of_reach());
        self.serving.secrets.follow(&self.store);
        let parsed = self.parser.parse(&self.store);
        match parsed.extent {
            Extent::Nothing => {}
            Extent::Part => self.whole = Later::At(tokio::time::Instant::now() + WHOLE),
            Extent::Whole => self.whole = Later::None,
        }
        let result = self.put(parsed.model, Ways::Known).await;
        self.report();
        result
    }

    /// Begins to parse everything where only a part was, unless a look at all files finds that there is more to do first.
    async fn start_whole(&mut self) {
        self.whole = Later::None;
        self.reload(&Changed::Anything).await;
        if let Later::None = self.whole {
            let task = self.parser.task(&self.store);
            self.whole = Later::Running(tokio::task::spawn_blocking(|| task.run()));
        }
    }

    async fn finish_whole(&mut self, whole: Whole) {
        self.whole = Later::None;
        let start = Instant::now();
        let model = self.parser.take(whole);
        let result = self.put(model, Ways::Known).await;
        self.report();
        self.announce(start, result);
    }

    /// What this host looks like to `model`.
    async fn look(&mut self, model: &Model, ways: Ways) -> Result<Arc<Host>, AgentError> {
        let former = self.state(|state| state.model.clone());
        let asked = match ways {
            Ways::Anew => compile::endpoint_addresses(model),
            Ways::Known => compile::new_endpoints(&former, model),
        };
        let known = |endpoint: &IpAddr| self.host.paths.contains_key(endpoint) || self.unreachable.contains(endpoint);
        if ways == Ways::Known && self.host != Arc::default() && asked.iter().all(known) {
            return Ok(self.host.clone());
        }
        let Options { interfaces, vips, forwarding, .. } = &self.options;
        let mut host = self.network.survey(interfaces, vips, &asked, *forwarding).await?;
        let mut lost: BTreeSet<IpAddr> =
            asked.into_iter().filter(|endpoint| !host.paths.contains_key(endpoint)).collect();
        for endpoint in lost.difference(&self.unreachable) {
            tracing::warn!("no route to endpoint {endpoint}, or it is this host itself: it is left out");
        }
        if ways == Ways::Known {
            let mut paths = self.host.paths.clone();
            lost.iter().for_each(|endpoint| _ = paths.remove(endpoint));
            // Only what differs, so that the rest stays shared.
            for (endpoint, path) in &host.paths {
                if paths.get(endpoint) != Some(path) {
                    paths.insert(*endpoint, *path);
                }
            }
            host.paths = paths;
            lost.extend(self.unreachable.iter().filter(|endpoint| !host.paths.contains_key(endpoint)));
        }
        self.unreachable = lost;
        if *self.host != host {
            self.host = Arc::new(host);
        }
        Ok(self.host.clone())
    }

    /// Makes `model` the one in force.
    async fn put(&mut self, model: Arc<Model>, ways: Ways) -> Result<usize, AgentError> {
        let host = self.look(&model, ways).await?;
        let image = self.compiler.compile(&model, &host, &mut self.ids);
        let next_backend = self.ids.backends.next();
        let next = self.state(|state| state.revision) + 1;
        let parts = (&self.network, &mut self.loaded, &self.shared);
        let serving = self.serving.before(&model, &image, next, parts).await?;
        let proxied = usize::from(serving.next.is_some());
        let vips = serving::addresses(&image);
        let changed = self.state(|state| {
            let plan = diff(&state.image, &image);
            // The number must be on record before a backend carries it.
            state.maps.set_meta(Meta::NextBackend, next_backend as u64)?;
            let changed = advance(&mut state.maps, &mut state.image, &plan)? + proxied;
            if changed > 0 || state.revision == 0 {
                state.revision += 1;
                state.maps.set_meta(Meta::Revision, state.revision)?;
            }
            state.adopt(model.clone(), image);
            Ok::<_, AgentError>(changed)
        })?;
        self.ids.settle();
        self.serving.after(&model, &vips, serving, &self.network).await?;
        let served = self.serving.snapshot();
        self.state(|state| state.served = served);
        Ok(changed)
    }

    /// Shows the findings of the last merge and parsing, where they are not those shown last.
    fn report(&self) {
        let findings: Vec<Finding> = self.findings.iter().chain(self.parser.findings()).cloned().collect();
        if self.state(|state| state.findings == findings) {
            return;
        }
        for finding in &findings {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
                Severity::Info => tracing::debug!("{finding}"),
            }
        }
        self.state(|state| state.findings = findings);
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

    /// Hands replaced certificates and keys to the proxy.
    async fn follow_files(&mut self) {
        if self.serving.has_new_files() {
            let start = Instant::now();
            let model = self.state(|state| state.model.clone());
            let result = self.put(model, Ways::Known).await;
            self.announce(start, result);
        }
    }

    /// Removes flows that ended. In steps: others may ask what is in force between them.
    fn sweep(&mut self) {
        let ticks = match self.loaded.clock() {
            Ok((_, ticks)) => ticks as u32,
            Err(error) => return tracing::warn!("cannot read the kernel's clock: {error}"),
        };
        let removed = self.options.removed;
        let mut pass = self.state(|state| state.begin_sweep(ticks, removed));
        loop {
            match self.state(|state| state.sweep_on(&mut pass)) {
                Ok(true) => return,
                Ok(false) => std::thread::yield_now(),
                Err(error) => return tracing::warn!("cannot sweep the flow table: {error}"),
            }
        }
    }

    /// Whether flows that have closed must make way before their time.
    fn is_crowded(&self) -> bool {
        self.state(|state| state.crowded()).unwrap_or_else(|error| {
            tracing::warn!("cannot look at the flow table: {error}");
            false
        })
    }

    /// Follows changes of addresses and routes, and puts programs on interfaces that came back.
    async fn survey(&mut self) {
        let start = Instant::now();
        let model = self.state(|state| state.model.clone());
        let result = self.put(model, Ways::Anew).await;
        self.announce(start, result);
        for attachment in self.state(|state| state.settled.attachments.clone()) {
            if let Err(error) = self.loaded.attach(&attachment.interface, attachment.mode) {
                tracing::debug!("{error}");
            }
        }
    }

    async fn stop(self) {
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
                self.serving.stop(&self.network).await;
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
        classes: Pool::recovered(classes(left)),
        backends: Backends::recovered(left.backends.iter().map(|(id, backend)| (backend.address, id.0)), next_backend),
    };
    let unknown: Arc<str> = "".into();
    let rule = || RuleTable { name: unknown.clone(), hash: lb_common::flow::HashKey::Flow, destinations: Vec::new() };
    let image = Image {
        vips: left.vips.iter().copied().collect(),
        clients: left.clients.iter().copied().collect(),
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

/// Names and numbers of classes of clients. Those of which no client is left have VIPs yet; their names are nobody's.
fn classes(left: &Left) -> BTreeSet<(u64, u32)> {
    let named = left.clients.iter().map(|(_, client)| (client.class, client.name));
    let mut classes: BTreeMap<ClassId, u64> = left
        .vips
        .iter()
        .map(|(vip, _)| (vip.class, crate::image::name_hash(&format!("class {}", vip.class.0))))
        .collect();
    classes.extend(named);
    classes.remove(&ClassId::ANY);
    classes.into_iter().map(|(class, name)| (name, u32::from(class.0) - 1)).collect()
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
