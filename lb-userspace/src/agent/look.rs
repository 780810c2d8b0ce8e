//! What the host looks like to a configuration: asked of the kernel only as far as it is not known.

use super::{Agent, AgentError, Options};
use crate::{
    compile::{self, Host},
    model::Model,
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// What is asked of the host for a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ways {
    /// The ways to endpoints that were not there before.
    Known,
    /// Everything: there is news, or it was long ago.
    Anew,
}

impl Agent {
    /// What this host looks like to `model`.
    pub(super) async fn look(&mut self, model: &Model, ways: Ways) -> Result<Arc<Host>, AgentError> {
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
}
