//! The routes of one host, found by path and by header. List order stays the law: the index only leaves out routes that cannot
//! fit, and of what is left the first that fits is taken.

use std::{borrow::Cow, collections::HashMap};

use http::HeaderName;

use super::pattern::literal_prefix;
use crate::snapshot::{Case, Condition, HeaderCondition, StringMatch};

/// Positions of routes, rising in each list.
#[derive(Debug, Default)]
struct Routes {
    plain: Vec<u32>,
    /// Those that ask for one exact value of a header, by that: many routes of one path differ by nothing else.
    by_header: Vec<(HeaderName, ByValue)>,
}

type ByValue = HashMap<Box<[u8]>, Vec<u32>>;

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

impl Routes {
    fn push(&mut self, at: u32, condition: &Condition) {
        let exact = condition.headers.iter().find_map(|(name, asked)| match asked {
            HeaderCondition::Is(StringMatch::Exact(value)) => {
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
            }
            _ => None,
        });
        let Some((name, value)) = exact else { return self.plain.push(at) };
        let known = self.by_header.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
            self.by_header.push((name, ByValue::new()));
            self.by_header.len() - 1
        });
        self.by_header[known].1.entry(value.as_bytes().into()).or_default().push(at);
    }
}

impl Index {
    pub fn new<'c>(conditions: impl Iterator<Item = &'c Condition>) -> Index {
        let mut index = Index::default();
        let mut prefixes: [HashMap<Box<str>, Routes>; 2] = Default::default();
        for (at, condition) in conditions.enumerate() {
            let at = at as u32;
            let Some(uri) = &condition.uri else {
                index.anywhere.push(at, condition);
                continue;
            };
            match (&uri.text, uri.case) {
                (StringMatch::Exact(text), Case::Sensitive) => {
                    index.sensitive.exact.entry((**text).into()).or_default().push(at, condition);
                }
                (StringMatch::Exact(text), Case::Ignored) => {
                    index.folded.exact.entry(text.to_ascii_lowercase().into()).or_default().push(at, condition);
                }
                (StringMatch::Prefix(text), Case::Sensitive) => {
                    prefixes[0].entry((**text).into()).or_default().push(at, condition);
                }
                (StringMatch::Prefix(text), Case::Ignored) => {
                    prefixes[1].entry(text.to_ascii_lowercase().into()).or_default().push(at, condition);
                }
                (StringMatch::Regex(pattern), _) => match literal_prefix(pattern) {
                    none if none.is_empty() => index.anywhere.push(at, condition),
                    prefix => prefixes[0].entry(prefix.into()).or_default().push(at, condition),
                },
            }
        }
        let [sensitive, folded] = prefixes;
        index.sensitive.prefixes = Prefixes::new(sensitive);
        index.folded.prefixes = Prefixes::new(folded);
        index
    }

    /// The first route for which `fits` holds, of those whose path and header may fit.
    pub fn first<'h>(
        &self,
        path: &str,
        header: impl Fn(&HeaderName) -> Option<Cow<'h, [u8]>>,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut best = u32::MAX;
        let mut list = |routes: &[u32]| {
            let found = routes.iter().take_while(|at| **at < best).find(|at| fits(**at as usize));
            best = found.copied().unwrap_or(best);
        };
        let mut scan = |routes: &Routes| {
            list(&routes.plain);
            for (name, by_value) in &routes.by_header {
                header(name).and_then(|value| by_value.get(&*value)).into_iter().for_each(|routes| list(routes));
            }
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

    fn each(&self, path: &str, scan: &mut impl FnMut(&Routes)) {
        if let Some(routes) = self.exact.get(path) {
            scan(routes);
        }
        self.prefixes.each(path, scan);
    }
}

impl Prefixes {
    fn new(all: HashMap<Box<str>, Routes>) -> Prefixes {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
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

    fn each(&self, path: &str, scan: &mut impl FnMut(&Routes)) {
        let mut at = self.nodes.partition_point(|node| *node.prefix <= *path).checked_sub(1);
        while let Some(node) = at.map(|at| &self.nodes[at]) {
            if path.starts_with(&*node.prefix) {
                scan(&node.routes);
            }
            at = node.parent;
        }
    }
}
