//! From nothing, or from what a former agent left, to the first revision in force.

use super::{Agent, AgentError, Later, Options, adopt::adopt, serving::Serving};
use crate::{
    compile::Compiler,
    dataplane::{
        kernel::Meta,
        load::{Attachment, LoadError, Loaded, Mode},
        pins::Pins,
    },
    finding::Severity,
    host::{self, Link, Nature, Network},
    model::Parser,
    observe::{
        admin,
        shared::{Settled, Shared, State},
    },
    source::file,
    spec::Store,
};
use lb_common::table::{Settings, Turn};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// Whether a former agent's tables are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adopted {
    Nothing,
    Tables,
}

impl Agent {
    /// Brings the first revision into force, then attaches.
    pub(super) async fn start(options: Options, pins: Pins, lock: std::fs::File) -> Result<Self, AgentError> {
        let (mut agent, adopted) = Self::prepare(options, pins, lock).await?;
        if let Some(address) = agent.options.admin {
            let served = admin::serve(address, agent.shared.clone()).await;
            served.map_err(|source| AgentError::Admin { address, source })?;
        }
        agent.begin(adopted).await?;
        let revision = agent.attach()?;
        eprintln!("ready revision={revision}");
        notify_ready();
        Ok(agent)
    }

    /// Loads programs and maps, or adopts those that are pinned; nothing is attached yet.
    async fn prepare(options: Options, pins: Pins, lock: std::fs::File) -> Result<(Self, Adopted), AgentError> {
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
        let adopted = match left.vips.is_empty() {
            true => Adopted::Nothing,
            false => Adopted::Tables,
        };
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
        let agent = Self {
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
        Ok((agent, adopted))
    }

    /// The first revision.
    async fn begin(&mut self, adopted: Adopted) -> Result<(), AgentError> {
        let files = self.reader.load(&self.options.config);
        if let Some(unreadable) = files.unreadable.first() {
            return Err(AgentError::Unreadable(unreadable.to_string()));
        }
        // What is broken now may be in force in the adopted tables, and only its absence could be compiled.
        let mut rejected = files.files.iter().flat_map(|file| &file.findings);
        if let Some(finding) =
            rejected.find(|finding| adopted == Adopted::Tables && finding.severity == Severity::Error)
        {
            return Err(AgentError::Broken(finding.to_string()));
        }
        self.take(&files).await.map(drop)
    }

    /// Puts the programs on their interfaces, and gives the revision in force.
    fn attach(&mut self) -> Result<u64, AgentError> {
        let attachments = self.state(|state| state.settled.attachments.clone());
        for mode in Mode::ALL {
            if attachments.iter().any(|attachment| attachment.mode == mode) {
                self.loaded.enable(mode)?;
            }
        }
        self.loaded.attach_all(&attachments)?;
        for attachment in &attachments {
            tracing::info!(interface = attachment.interface, mode = attachment.mode.name(), "attached");
        }
        let revision = self.state(|state| {
            state.ready = true;
            state.revision
        });
        Ok(revision)
    }
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

/// Ports that the host's own connections take cannot stand for clients' too.
pub(super) fn check_ports(snat: (u16, u16)) -> Result<(), AgentError> {
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
