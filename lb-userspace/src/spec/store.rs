//! The objects in force: the newest load, with the last good version of what is broken in it.
//!
//! An object that is there but broken keeps its last good version. A file that does not parse keeps every object last
//! read from it. An object or a file that is gone is gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    object::{Key, Manifest, Specs},
    read::{FileSpecs, Item, Outcome},
};
use crate::finding::{Finding, Severity, code};

/// One object in force, and the file it came from.
#[derive(Clone, Debug)]
struct Held {
    file: Arc<str>,
    manifest: Manifest,
}

/// What is in force. Start with `Store::default()`, then [`Store::merge`] every load.
#[derive(Clone, Debug, Default)]
pub struct Store {
    held: BTreeMap<Key, Held>,
    /// The files of the last load, if all could be read and no object stands in two of them.
    files: Option<Vec<Arc<FileSpecs>>>,
    /// Objects that are broken in those files.
    rejected: HashSet<Key>,
    /// What the last merge changed, where it went file by file.
    changes: Option<Vec<Change>>,
}

/// An object that is there, or is not any more, or is not what it was.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: Key,
    /// `None`: it is gone.
    pub now: Option<Manifest>,
}

impl Store {
    /// Takes a new load in, and gives back the findings of the load and of objects that stand twice in it. An object that
    /// says what it said before is the one it was before.
    ///
    /// `unreadable` names files, or directories with their files, that exist but could not be read this time.
    pub fn merge<F: Clone + Into<Arc<FileSpecs>>>(&mut self, files: &[F], unreadable: &[Arc<str>]) -> Vec<Finding> {
        let files: Vec<Arc<FileSpecs>> = files.iter().cloned().map(Into::into).collect();
        let mut findings: Vec<Finding> = files.iter().flat_map(|file| file.findings.clone()).collect();
        let former = self.files.take().filter(|_| unreadable.is_empty());
        self.changes = former.and_then(|former| self.exchange(&former, &files));
        if self.changes.is_some() {
            self.files = Some(files);
            return findings;
        }
        let twice = self.rebuild(&files, unreadable);
        if unreadable.is_empty() && twice.is_empty() {
            self.rejected = files.iter().flat_map(|file| rejected(file)).cloned().collect();
            self.files = Some(files);
        }
        findings.extend(twice);
        findings
    }

    /// Takes over only the files that changed. `None`: something in them is broken or was, or some object stands in two files,
    /// and nothing can be said file by file; then `held` must be built anew.
    fn exchange(&mut self, former: &[Arc<FileSpecs>], files: &[Arc<FileSpecs>]) -> Option<Vec<Change>> {
        let same_names = former.len() == files.len() && former.iter().zip(files).all(|(old, new)| old.file == new.file);
        let changed: Vec<_> = former.iter().zip(files).filter(|(old, new)| !Arc::ptr_eq(old, new)).collect();
        if !same_names || !changed.iter().all(|(old, new)| is_plain(old) && is_plain(new)) {
            return None;
        }
        let mut changes = Vec::new();
        for (old, new) in changed {
            let kept: HashSet<&Key> = new.items.iter().map(|item| &item.key).collect();
            // What is broken elsewhere has its last good version perhaps from here.
            let elsewhere = || old.items.iter().any(|item| self.rejected.contains(&item.key));
            if kept.len() < new.items.len() || !self.rejected.is_empty() && elsewhere() {
                return None;
            }
            for item in old.items.iter().filter(|item| !kept.contains(&item.key)) {
                self.held.remove(&item.key);
                changes.push(Change { key: item.key.clone(), now: None });
            }
            for (key, manifest) in new.items.iter().filter_map(valid) {
                match self.held.get(key) {
                    Some(held) if held.file != new.file => return None,
                    Some(held) if held.manifest == *manifest => {}
                    _ => {
                        let held = Held { file: new.file.clone(), manifest: manifest.clone() };
                        self.held.insert(key.clone(), held);
                        changes.push(Change { key: key.clone(), now: Some(manifest.clone()) });
                    }
                }
            }
        }
        Some(changes)
    }

    /// Builds `held` anew, with the last good version of what is broken or hidden.
    fn rebuild(&mut self, files: &[Arc<FileSpecs>], unreadable: &[Arc<str>]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut next: BTreeMap<Key, Held> = BTreeMap::new();
        let mut rejected = BTreeSet::new();
        for file in files {
            for item in &file.items {
                match &item.outcome {
                    Outcome::Rejected => {
                        rejected.insert(item.key.clone());
                    }
                    Outcome::Valid(manifest) => {
                        let former = self.held.get(&item.key).map(|held| &held.manifest);
                        let manifest = former.filter(|former| *former == manifest).unwrap_or(manifest).clone();
                        let held = Held { file: file.file.clone(), manifest };
                        if let Some(earlier) = next.insert(item.key.clone(), held) {
                            findings.push(defined_twice(file, item, &earlier));
                        }
                    }
                }
            }
        }
        let incomplete: BTreeSet<&str> = files.iter().filter(|file| file.incomplete).map(|file| &*file.file).collect();
        for (key, held) in std::mem::take(&mut self.held) {
            let hidden = incomplete.contains(&*held.file) || unreadable.iter().any(|path| is_under(&held.file, path));
            if rejected.contains(&key) || hidden {
                next.entry(key).or_insert(held);
            }
        }
        self.held = next;
        findings
    }

    /// What the last merge changed; `None` where that cannot be told.
    pub fn changes(&self) -> Option<&[Change]> {
        self.changes.as_deref()
    }

    /// The objects in force, by their order.
    pub fn manifests(&self) -> impl Iterator<Item = (&Key, &Manifest)> {
        self.held.iter().map(|(key, held)| (key, &held.manifest))
    }

    /// Number of objects in force.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The objects in force.
    pub fn specs(&self) -> Specs {
        Specs::new(self.held.values().map(|held| &held.manifest))
    }
}

/// Whether a file is whole and has no broken object in it.
fn is_plain(file: &FileSpecs) -> bool {
    !file.incomplete && file.items.iter().all(|item| valid(item).is_some())
}

/// The objects of a file that are broken.
fn rejected(file: &FileSpecs) -> impl Iterator<Item = &Key> {
    file.items.iter().filter(|item| valid(item).is_none()).map(|item| &item.key)
}

fn valid(item: &Item) -> Option<(&Key, &Manifest)> {
    match &item.outcome {
        Outcome::Valid(manifest) => Some((&item.key, manifest)),
        Outcome::Rejected => None,
    }
}

fn is_under(file: &str, path: &str) -> bool {
    file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'))
}

fn defined_twice(file: &FileSpecs, item: &Item, earlier: &Held) -> Finding {
    Finding {
        severity: Severity::Warning,
        code: code::DEFINED_TWICE,
        file: file.file.clone(),
        line: item.start.line,
        column: item.start.column,
        object: item.key.to_string(),
        path: String::new(),
        message: format!("this object is also in {}; this later one is used", earlier.file),
        remedy: "Remove one of the two.".into(),
    }
}
