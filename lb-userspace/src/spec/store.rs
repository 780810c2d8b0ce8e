//! The objects in force: the newest load, with the last good version of what is broken in it.
//!
//! An object that is there but broken keeps its last good version. A file that does not parse keeps every object last
//! read from it. An object or a file that is gone is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    object::{Key, Manifest, Specs},
    read::{FileSpecs, Outcome},
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
}

impl Store {
    /// Takes a new load in, and gives back the findings of the load and of objects that stand twice in it.
    ///
    /// `unreadable` names files, or directories with their files, that exist but could not be read this time.
    pub fn merge(&mut self, files: &[FileSpecs], unreadable: &[Arc<str>]) -> Vec<Finding> {
        let mut findings: Vec<Finding> = files.iter().flat_map(|file| file.findings.clone()).collect();
        let mut next: BTreeMap<Key, Held> = BTreeMap::new();
        let mut rejected = BTreeSet::new();
        for file in files {
            for item in &file.items {
                match &item.outcome {
                    Outcome::Rejected => {
                        rejected.insert(item.key.clone());
                    }
                    Outcome::Valid(manifest) => {
                        let held = Held { file: file.file.clone(), manifest: manifest.clone() };
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

    /// The objects in force.
    pub fn specs(&self) -> Specs {
        Specs::new(self.held.values().map(|held| &held.manifest))
    }
}

fn is_under(file: &str, path: &str) -> bool {
    file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'))
}

fn defined_twice(file: &FileSpecs, item: &super::read::Item, earlier: &Held) -> Finding {
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
