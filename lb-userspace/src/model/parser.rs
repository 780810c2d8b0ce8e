//! Parses one configuration after another. With many objects, a change of a few of them is parsed together with what it
//! reaches, and the rest stays as it is; [`Parser::whole`] makes good afterwards what only a reading of everything can
//! tell: findings that compare all objects.

use std::{collections::HashSet, sync::Arc};

use super::{
    Door, Model,
    parse::{Identity, parse},
    reach::{Links, Reach},
};
use crate::{
    finding::{self, Finding},
    spec::{Change, Specs, Store},
};

/// Objects below which everything is parsed each time: that takes a few milliseconds.
const FEW: usize = 1_000;

/// The last model, and what it takes to continue it.
#[derive(Debug)]
pub struct Parser {
    identity: Identity,
    model: Arc<Model>,
    findings: Vec<Finding>,
    /// Of the last whole reading and all changes since.
    links: Option<Links>,
}

/// A model, and whether its findings are all there are.
#[derive(Debug)]
pub struct Parsed {
    pub model: Arc<Model>,
    pub extent: Extent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole,
    /// Only what a change reaches was parsed: [`Parser::whole`] is due when there is time.
    Part,
}

impl Parser {
    pub fn new(identity: Identity) -> Parser {
        Parser { identity, model: Arc::default(), findings: Vec::new(), links: None }
    }

    /// In reading order, of the last parsing.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Parses what the last merge changed, if that can be told, else everything.
    pub fn parse(&mut self, store: &Store) -> Parsed {
        match store.changes().and_then(|changes| self.part(changes)) {
            Some(model) => Parsed { model, extent: Extent::Part },
            None => Parsed { model: self.whole(store), extent: Extent::Whole },
        }
    }

    /// Parses everything.
    pub fn whole(&mut self, store: &Store) -> Arc<Model> {
        let (model, findings) = parse(&store.specs(), &self.identity);
        self.links = (store.len() > FEW).then(|| Links::new(store.manifests(), &self.identity));
        (self.model, self.findings) = (Arc::new(model), findings);
        self.model.clone()
    }

    /// Parses what the changes reach. `None`: nobody can tell.
    fn part(&mut self, changes: &[Change]) -> Option<Arc<Model>> {
        let mut links = self.links.take()?;
        let reach = links.follow(changes, &self.identity)?;
        self.links = Some(links);
        let (part, findings) = parse(&Specs::new(reach.manifests.values()), &self.identity);
        let objects: HashSet<String> = reach.keys.iter().map(ToString::to_string).collect();
        self.findings.retain(|finding| !objects.contains(&finding.object));
        self.findings.extend(findings.into_iter().filter(|finding| objects.contains(&finding.object)));
        finding::sort(&mut self.findings);
        self.model = Arc::new(spliced(&self.model, part, &reach));
        Some(self.model.clone())
    }
}

/// `model` with all that is reached taken from `part`.
fn spliced(model: &Model, part: Model, reach: &Reach) -> Model {
    let mut next = model.clone();
    next.listeners.retain(|listener| !is_reached(&listener.door, reach));
    for listener in part.listeners.into_iter().filter(|listener| is_reached(&listener.door, reach)) {
        let at = next.listeners.partition_point(|before| before.door <= listener.door);
        next.listeners.insert(at, listener);
    }
    next.clusters.retain(|name, _| !reach.has_host(&name.host));
    next.clusters.extend(part.clusters.into_iter().filter(|(name, _)| reach.has_host(&name.host)));
    next
}

fn is_reached(door: &Door, reach: &Reach) -> bool {
    match door {
        Door::Gateway { gateway, port, .. } => reach.has_gateway_port(&gateway.namespace, &gateway.name, port.get()),
        Door::Service { service, .. } => reach.has_service(&service.namespace, &service.name),
    }
}
