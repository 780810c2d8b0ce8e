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
    spec::{Change, Key, Manifest, Specs, Store},
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
    /// Nothing has changed since the last parsing.
    Nothing,
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

    /// Parses what the last merge changed, if that can be told, else everything. To be called after every merge.
    pub fn parse(&mut self, store: &Store) -> Parsed {
        let changes = store.changes();
        if changes.is_some_and(<[Change]>::is_empty) {
            return Parsed { model: self.model.clone(), extent: Extent::Nothing };
        }
        match changes.and_then(|changes| self.part(changes)) {
            Some(model) => Parsed { model, extent: Extent::Part },
            None => Parsed { model: self.whole(store), extent: Extent::Whole },
        }
    }

    /// Parses everything.
    pub fn whole(&mut self, store: &Store) -> Arc<Model> {
        self.take(self.task(store).run())
    }

    /// The parsing of everything that there is now.
    pub fn task(&self, store: &Store) -> Task {
        let manifests = store.manifests().map(|(key, manifest)| (key.clone(), manifest.clone())).collect();
        Task { manifests, identity: self.identity.clone(), former: self.model.clone() }
    }

    /// Goes on from what a task found. The store must be what it was.
    pub fn take(&mut self, whole: Whole) -> Arc<Model> {
        (self.model, self.findings, self.links) = (whole.model, whole.findings, whole.links);
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

/// A parsing of everything, to be done wherever there is time for it.
#[derive(Debug)]
pub struct Task {
    manifests: Vec<(Key, Manifest)>,
    identity: Identity,
    former: Arc<Model>,
}

/// What a [`Task`] found.
#[derive(Debug)]
pub struct Whole {
    model: Arc<Model>,
    findings: Vec<Finding>,
    links: Option<Links>,
}

impl Task {
    pub fn run(self) -> Whole {
        let (mut model, findings) = parse(&Specs::new(self.manifests.iter().map(|(_, one)| one)), &self.identity);
        share(&mut model, &self.former);
        let manifests = self.manifests.iter().map(|(key, manifest)| (key, manifest));
        let links = (self.manifests.len() > FEW).then(|| Links::new(manifests, &self.identity));
        Whole { model: Arc::new(model), findings, links }
    }
}

/// What is in `model` as it was in `former` becomes the same one, so that a glance tells.
fn share(model: &mut Model, former: &Model) {
    let mut old = former.listeners.iter().peekable();
    for listener in &mut model.listeners {
        while old.next_if(|old| old.door < listener.door).is_some() {}
        if let Some(old) = old.next_if(|old| *old == listener) {
            *listener = old.clone();
        }
    }
    if model.clients == former.clients {
        model.clients = former.clients.clone();
    }
    for (name, cluster) in &mut model.clusters {
        if let Some(old) = former.clusters.get(name).filter(|old| *old == cluster) {
            *cluster = old.clone();
        }
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
