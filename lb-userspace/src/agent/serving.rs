//! The proxy's part of a revision: its snapshot, the steering, and the routes that bring packets to it. What leads somewhere is
//! put in force before what leads there, and taken back after it, so that nothing is lost in between.

use super::{AgentError, Shared, secrets::Secrets};
use crate::{
    compile,
    dataplane::load::Loaded,
    host::Network,
    image::{Image, RuleId},
    model::Model,
    process::{self, Keeper, Revision},
    proxy::Material,
    snapshot::{Authorities, Certificate, Cluster, ClusterName, Listener, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    sync::Arc,
};

pub(super) struct Serving {
    pub secrets: Secrets,
    /// `None`: nothing is served.
    options: Option<process::Options>,
    /// There since something needed it.
    keeper: Option<Keeper>,
    /// What the proxy has, and of which model.
    in_force: Option<(Arc<Model>, Arc<Revision>)>,
    /// Of the files of certificates and keys, just before they were read last.
    stamps: Vec<Option<Stamp>>,
}

/// Changes with the file. `None` of it: the file is not there.
type Stamp = (u64, u64, i64, i64);

/// What a revision changes for the proxy.
pub(super) struct Change {
    /// `None`: nothing.
    pub next: Option<Arc<Revision>>,
    /// Whether the proxy still serves listeners that are not in it any more.
    shrinks: bool,
}

impl Serving {
    pub fn new(options: Option<process::Options>) -> Self {
        Self { secrets: Secrets::default(), options, keeper: None, in_force: None, stamps: Vec::new() }
    }

    /// Makes everything ready that the kernel's tables will lead to.
    pub async fn before(
        &mut self,
        model: &Arc<Model>,
        image: &Image,
        number: u64,
        (network, loaded, shared): (&Network, &mut Loaded, &Shared),
    ) -> Result<Change, AgentError> {
        let next = self.next(model, number);
        let shrinking = next.as_ref().and_then(|next| with_leaving(next, &self.former())).map(Arc::new);
        if let (Some(next), Some(options)) = (&next, self.options.clone()) {
            let keeper = self.keeper(options, loaded, shared)?;
            keeper.apply(shrinking.as_ref().unwrap_or(next).clone()).await?;
        }
        if self.keeper.is_some() {
            network.deliver(&addresses(image)).await?;
        }
        Ok(Change { next, shrinks: shrinking.is_some() })
    }

    /// `None`: the proxy has it already, or none is needed.
    fn next(&mut self, model: &Arc<Model>, number: u64) -> Option<Arc<Revision>> {
        let has_proxies = self.options.as_ref()?.directory.exists();
        let former = self.former();
        let snapshot = match &self.in_force {
            Some((known, _)) if Arc::ptr_eq(known, model) => former.snapshot.clone(),
            _ => Arc::new(compile::snapshot(model, number)),
        };
        // Files may have changed though the configuration did not.
        self.stamps = stamps(&snapshot);
        let material = gather(&snapshot, &self.secrets);
        let same = |now: &Snapshot, then: &Snapshot| {
            now.listeners == then.listeners && now.clusters == then.clusters && now.clients == then.clients
        };
        if self.in_force.is_some() && material == former.material && same(&snapshot, &former.snapshot) {
            return None;
        }
        let is_needed = self.keeper.is_some() || !snapshot.listeners.is_empty() || has_proxies;
        let snapshot = Arc::new(Snapshot { revision: number, ..Arc::unwrap_or_clone(snapshot) });
        is_needed.then(|| Arc::new(Revision { snapshot, material }))
    }

    /// Whether a file of a certificate or key was replaced since it was read.
    pub fn has_new_files(&self) -> bool {
        self.in_force.as_ref().is_some_and(|(_, revision)| stamps(&revision.snapshot) != self.stamps)
    }

    /// What the proxy has in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.former().snapshot.clone()
    }

    fn former(&self) -> Arc<Revision> {
        self.in_force.as_ref().map(|(_, former)| former.clone()).unwrap_or_default()
    }

    /// Takes back what nothing leads to any more.
    pub async fn after(
        &mut self,
        model: &Arc<Model>,
        vips: &BTreeSet<IpAddr>,
        change: Change,
        network: &Network,
    ) -> Result<(), AgentError> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        if let Some(next) = change.next {
            if change.shrinks {
                keeper.apply(next.clone()).await?;
            }
            self.in_force = Some((model.clone(), next));
        }
        network.deliver_only(vips).await?;
        Ok(())
    }

    /// Ends every proxy and takes back every route.
    pub async fn stop(mut self, network: &Network) {
        self.keeper = None;
        self.options.inspect(|options| _ = options.directory.clear());
        if let Err(error) = network.deliver_only(&BTreeSet::new()).await {
            tracing::error!("{error}");
        }
    }

    fn keeper(
        &mut self,
        options: process::Options,
        loaded: &mut Loaded,
        shared: &Shared,
    ) -> Result<&Keeper, AgentError> {
        let keeper = match self.keeper.take() {
            Some(keeper) => keeper,
            None => {
                let (keeper, sockets) = Keeper::open(options)?;
                let mut state = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                loaded.steer(&mut state.maps, sockets.workers(), sockets.places())?;
                state.proxy = Some(keeper.reporter());
                keeper
            }
        };
        Ok(self.keeper.insert(keeper))
    }
}

/// Addresses that the proxy serves.
pub(super) fn addresses(image: &Image) -> BTreeSet<IpAddr> {
    image.vips.iter().filter(|(_, rule)| rule.rule == RuleId::PROXY).map(|(vip, _)| vip.address).collect()
}

/// `next` with the listeners of `former` that are not in it, as long as connections are still led to them. `None`: all are.
fn with_leaving(next: &Revision, former: &Revision) -> Option<Revision> {
    let (next, former, material) = (&next.snapshot, &former.snapshot, &next.material);
    let stays = |listener: &&Listener| next.listeners.iter().any(|one| one.name == listener.name);
    let leaving: Vec<Listener> = former.listeners.iter().filter(|listener| !stays(listener)).cloned().collect();
    if leaving.is_empty() {
        return None;
    }
    let all = former.clusters.iter().chain(&next.clusters);
    let clusters: BTreeMap<&ClusterName, &Arc<Cluster>> = all.map(|cluster| (&cluster.name, cluster)).collect();
    let snapshot = Snapshot {
        revision: next.revision,
        listeners: next.listeners.iter().cloned().chain(leaving).collect(),
        clusters: clusters.into_values().cloned().collect(),
        clients: next.clients.clone(),
    };
    Some(Revision { snapshot: Arc::new(snapshot), material: material.clone() })
}

/// Certificates, keys and authorities. Only the agent may read them, so it does; it looks at none of their bytes.
fn gather(snapshot: &Snapshot, secrets: &Secrets) -> Material {
    let mesh = |what: &str| format!("{what} are not handed to the proxy by this version");
    Material::gather(
        &snapshot.credentials(),
        |one| match one {
            Certificate::Secret { namespace, name } => secrets.pair(namespace, name),
            Certificate::Workload | Certificate::Files { .. } => Err(mesh("the mesh's certificates of this workload")),
        },
        |one| match one {
            Authorities::Secrets { namespace, names } => secrets.authorities(namespace, names),
            _ => Err(mesh("the mesh's authorities")),
        },
    )
}

/// Of every file that [`gather`] reads, in its order.
fn stamps(snapshot: &Snapshot) -> Vec<Option<Stamp>> {
    let credentials = snapshot.credentials();
    let pairs = credentials.certificates.iter().flat_map(|one| match one {
        Certificate::Files { chain, key } => vec![chain, key],
        Certificate::Secret { .. } | Certificate::Workload => Vec::new(),
    });
    let roots = credentials.authorities.iter().filter_map(|one| match one {
        Authorities::File(file) => Some(file),
        _ => None,
    });
    let stamp = |file: &Arc<str>| {
        let meta = fs::metadata(&**file).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    pairs.chain(roots).chain(&credentials.revocations).map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Addresses;

    fn revision(number: u64, names: &[&str]) -> Revision {
        let listener = |name: &&str| Listener {
            name: (*name).into(),
            addresses: Addresses::Own,
            port: std::num::NonZeroU16::MIN,
            gateway: "a/b".into(),
            chains: Vec::new(),
            place: Default::default(),
        };
        let snapshot = Snapshot {
            revision: number,
            listeners: names.iter().map(listener).collect(),
            clusters: Vec::new(),
            ..Snapshot::default()
        };
        Revision { snapshot: Arc::new(snapshot), ..Revision::default() }
    }

    #[test]
    fn a_listener_is_served_until_nothing_leads_to_it() {
        let names = |revision: &Revision| -> Vec<String> {
            revision.snapshot.listeners.iter().map(|listener| listener.name.to_string()).collect()
        };
        let both = with_leaving(&revision(2, &["b", "c"]), &revision(1, &["a", "b"])).unwrap();
        assert_eq!((both.snapshot.revision, names(&both)), (2, vec!["b".into(), "c".into(), "a".into()]));
        assert!(with_leaving(&revision(2, &["a", "b"]), &revision(1, &["a"])).is_none());
    }
}
