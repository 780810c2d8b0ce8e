//! One revision, ready to be carried out by any worker. Built once, shared by all, never changed.

use std::{collections::HashMap, sync::Arc};

use rustls::{ServerConfig, server::ProducesTickets};

use super::{
    material::Material,
    tls::{self, Credentials, Instead, Origination, Refused},
};
use crate::{
    router::{Router, Unusable},
    snapshot::{ClusterName, ServerTls, Snapshot},
};

#[derive(Debug)]
pub struct Prepared {
    router: Router,
    material: Material,
    credentials: Arc<Credentials>,
    /// By the place in memory of what they are made of, which the router's snapshot keeps.
    servers: HashMap<usize, Result<Arc<ServerConfig>, String>>,
    clusters: HashMap<ClusterName, Result<Arc<Origination>, String>>,
    tickets: Arc<dyn ProducesTickets>,
}

impl Prepared {
    /// Makes a revision ready. `old` is the one before it: what is as it was is kept, TLS sessions among it, and a good old
    /// certificate stands in for a bad new one. The second part says what is bad.
    ///
    /// # Errors
    /// A snapshot that no router can be made of; the old revision then stays in force.
    pub fn new(
        snapshot: Arc<Snapshot>,
        material: Material,
        old: Option<&Prepared>,
    ) -> Result<(Prepared, Vec<Refused>), Unusable> {
        let router = Router::new(snapshot.clone())?;
        let same = old.filter(|old| old.material == material);
        let (credentials, mut refused) = match same {
            Some(old) => (old.credentials.clone(), Vec::new()),
            None => {
                let (new, refused) = Credentials::new(&material, old.map(|old| &*old.credentials));
                (Arc::new(new), refused)
            }
        };
        let tickets = match old {
            Some(old) => old.tickets.clone(),
            None => rustls::crypto::aws_lc_rs::Ticketer::new()
                .map_err(|error| Unusable { rule: "TLS session tickets".into(), reason: error.to_string() })?,
        };
        let mut prepared =
            Prepared { router, material, credentials, servers: HashMap::new(), clusters: HashMap::new(), tickets };
        prepared.make_servers(same);
        prepared.make_clusters(same);
        if same.is_none() {
            refused.extend(prepared.unusable());
        }
        Ok((prepared, refused))
    }

    /// What cannot be spoken for want of a credential, or because its settings leave nothing.
    fn unusable(&self) -> Vec<Refused> {
        let snapshot = self.router.snapshot();
        let refused =
            |name: String, reason: &String| Refused { name, reason: reason.clone(), instead: Instead::Nothing };
        let servers = snapshot.listeners.iter().flat_map(|listener| &listener.chains).filter_map(|chain| {
            let made = self.server(chain.tls.as_ref()?)?;
            made.as_ref().err().map(|reason| refused(format!("TLS of {} ({})", chain.gateway, chain.place), reason))
        });
        let clusters = snapshot.clusters.iter().filter_map(|cluster| {
            let made = self.origination(&cluster.name)?;
            made.as_ref().err().map(|reason| refused(format!("TLS to {} ({})", cluster.name, cluster.place), reason))
        });
        servers.chain(clusters).collect()
    }

    fn make_servers(&mut self, same: Option<&Prepared>) {
        let all = self.router.snapshot().listeners.iter().flat_map(|listener| &listener.chains);
        for tls in all.filter_map(|chain| chain.tls.as_ref()) {
            let kept = same.and_then(|old| old.server_like(tls));
            let made = kept.unwrap_or_else(|| tls::server(tls, &self.credentials, &self.tickets));
            self.servers.insert(Arc::as_ptr(tls) as usize, made);
        }
    }

    fn make_clusters(&mut self, same: Option<&Prepared>) {
        for cluster in &self.router.snapshot().clusters {
            let Some(tls) = &cluster.tls else {
                continue;
            };
            let kept = same.and_then(|old| {
                let before = old.router.cluster(&cluster.name)?;
                old.clusters.get(&cluster.name).filter(|_| before.tls.as_ref() == Some(tls)).cloned()
            });
            let made = kept.unwrap_or_else(|| Origination::new(tls, &self.credentials).map(Arc::new));
            self.clusters.insert(cluster.name.clone(), made);
        }
    }

    fn server_like(&self, tls: &ServerTls) -> Option<Result<Arc<ServerConfig>, String>> {
        let mut all = self.router.snapshot().listeners.iter().flat_map(|listener| &listener.chains);
        let like = all.find_map(|chain| chain.tls.as_ref().filter(|one| ***one == *tls))?;
        self.servers.get(&(Arc::as_ptr(like) as usize)).cloned()
    }

    pub fn router(&self) -> &Router {
        &self.router
    }

    pub fn revision(&self) -> u64 {
        self.router.snapshot().revision
    }

    /// What a chain's handshakes use. `None`: it is not of this revision.
    pub(super) fn server(&self, tls: &Arc<ServerTls>) -> Option<&Result<Arc<ServerConfig>, String>> {
        self.servers.get(&(Arc::as_ptr(tls) as usize))
    }

    /// How a cluster is spoken to. `None`: in plain text.
    pub(super) fn origination(&self, cluster: &ClusterName) -> Option<&Result<Arc<Origination>, String>> {
        self.clusters.get(cluster)
    }
}
