//! The one loop: change, parse, compile, diff, apply, report. The only room that knows all others.

mod adopt;
mod later;
mod look;
mod options;
mod secrets;
mod serving;
mod start;

pub use adopt::adopt;
pub use options::{AgentError, OnExit, Options};

use crate::{
    compile::{Compiler, Host, ids::Ids},
    dataplane::{
        advance,
        kernel::Meta,
        load::{LoadError, Loaded},
        pins::Pins,
    },
    finding::{Finding, Severity},
    host::{self, Change, Network, News},
    model::{Extent, Model, Parser, Whole},
    observe::shared::{Shared, State},
    plan::diff,
    source::{
        file,
        watch::{Changed, Wait, Watch},
    },
    spec::Store,
};
use later::{Due, Later};
use look::Ways;
use serving::Serving;
use start::check_ports;
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

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
