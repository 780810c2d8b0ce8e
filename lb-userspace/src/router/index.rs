//! The routes of one host, found by path. List order stays the law: the index only leaves out routes whose path cannot fit,
//! and of what is left the first that fits is taken.

use std::collections::HashMap;

use super::pattern::literal_prefix;
use crate::snapshot::{Case, Condition, StringMatch};

/// Positions of routes, rising in each list.
type Routes = Vec<u32>;

#[derive(Debug, Default)]
pub(super) struct Index {
    sensitive: Paths,
    /// Keys in lower case.
    folded: Paths,
    /// Those whose path says too little.
    anywhere: Routes,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Routes>,
    prefixes: Prefixes,
}

/// Prefixes in order, each with the longest other one that it begins with: all prefixes of a path are one chain.
#[derive(Debug, Default)]
struct Prefixes {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    prefix: Box<str>,
    parent: Option<usize>,
    routes: Routes,
}

impl Index {
    pub fn new<'c>(conditions: impl Iterator<Item = &'c Condition>) -> Index {
        let mut index = Index::default();
        let mut prefixes: [HashMap<Box<str>, Routes>; 2] = Default::default();
        for (at, condition) in conditions.enumerate() {
            let at = at as u32;
            let Some(uri) = &condition.uri else {
                index.anywhere.push(at);
                continue;
            };
            match (&uri.text, uri.case) {
                (StringMatch::Exact(text), Case::Sensitive) => {
                    index.sensitive.exact.entry((**text).into()).or_default().push(at);
                }
                (StringMatch::Exact(text), Case::Ignored) => {
                    index.folded.exact.entry(text.to_ascii_lowercase().into()).or_default().push(at);
                }
                (StringMatch::Prefix(text), Case::Sensitive) => {
                    prefixes[0].entry((**text).into()).or_default().push(at);
                }
                (StringMatch::Prefix(text), Case::Ignored) => {
                    prefixes[1].entry(text.to_ascii_lowercase().into()).or_default().push(at);
                }
                (StringMatch::Regex(pattern), _) => match literal_prefix(pattern) {
                    none if none.is_empty() => index.anywhere.push(at),
                    prefix => prefixes[0].entry(prefix.into()).or_default().push(at),
                },
            }
        }
        let [sensitive, folded] = prefixes;
        index.sensitive.prefixes = Prefixes::new(sensitive);
        index.folded.prefixes = Prefixes::new(folded);
        index
    }

    /// The first route for which `fits` holds, of those whose path may fit.
    pub fn first(&self, path: &str, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = u32::MAX;
        let mut scan = |routes: &[u32]| {
            let found = routes.iter().take_while(|at| **at < best).find(|at| fits(**at as usize));
            best = found.copied().unwrap_or(best);
        };
        self.sensitive.each(path, &mut scan);
        if !self.folded.is_empty() {
            self.folded.each(&path.to_ascii_lowercase(), &mut scan);
        }
        scan(&self.anywhere);
        (best != u32::MAX).then_some(best as usize)
    }
}

impl Paths {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.nodes.is_empty()
    }

    fn each(&self, path: &str, scan: &mut impl FnMut(&[u32])) {
        if let Some(routes) = self.exact.get(path) {
            scan(routes);
        }
        self.prefixes.each(path, scan);
    }
}

impl Prefixes {
    fn new(all: HashMap<Box<str>, Routes>) -> Prefixes {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort();
        let mut nodes: Vec<Node> = Vec::with_capacity(all.len());
        for (prefix, routes) in all {
            // In sorted order the longest prefix of this one is its neighbour before it, or one of that one's parents.
            let mut parent = nodes.len().checked_sub(1);
            while let Some(at) = parent
                && !prefix.starts_with(&*nodes[at].prefix)
            {
                parent = nodes[at].parent;
            }
            nodes.push(Node { prefix, parent, routes });
        }
        Prefixes { nodes }
    }

    fn each(&self, path: &str, scan: &mut impl FnMut(&[u32])) {
        let mut at = self.nodes.partition_point(|node| *node.prefix <= *path).checked_sub(1);
        while let Some(node) = at.map(|at| &self.nodes[at]) {
            if path.starts_with(&*node.prefix) {
                scan(&node.routes);
            }
            at = node.parent;
        }
    }
}
