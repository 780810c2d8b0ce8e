//! A document as written: every value with its position, before any kind gives it meaning.
//!
//! [`Node::into_json`] leaves the positions behind in [`Positions`], which is small enough to keep for every object.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use serde_json::{Map, Number};

/// A place in a file, 1-based, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

/// A value and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub position: Position,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Sequence(Vec<Node>),
    /// In the order of the text; a key written twice is here twice.
    Mapping(Vec<Entry>),
}

/// One `key: value` pair. `position` is the key's.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub position: Position,
    pub value: Node,
}

/// A key that stands twice in one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateKey {
    pub path: String,
    pub position: Position,
}

/// Where each field path of one object stands. Sorted by a hash of the path: 16 bytes a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions {
    start: Position,
    fields: Arc<[(u64, Position)]>,
}

impl Positions {
    /// Positions of an object of which nothing but its start is known.
    pub fn only(start: Position) -> Positions {
        Positions { start, fields: Arc::default() }
    }

    /// The position of `path` (`spec.tcp[0].route[1].weight`), or else of the nearest enclosing field that exists.
    pub fn locate(&self, path: &str) -> Position {
        let mut path = path;
        loop {
            if path.is_empty() {
                return self.start;
            }
            let hash = hash(path);
            if let Ok(at) = self.fields.binary_search_by_key(&hash, |field| field.0) {
                return self.fields[at].1;
            }
            path = parent(path);
        }
    }
}

/// `path` without its last step.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |at| &path[..at])
}

fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Appends a field name to a path: `.name`, or `["a.b"]` where the name itself has dots or brackets.
pub fn push_field(path: &mut String, key: &str) {
    if key.contains(['.', '[', ']', '"']) {
        path.push_str(&format!("[{key:?}]"));
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Appends a list index to a path.
pub fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

/// What [`Node::into_json`] leaves behind.
pub struct Flat {
    pub json: serde_json::Value,
    pub positions: Positions,
    pub duplicates: Vec<DuplicateKey>,
    /// Paths of fields that were null and are gone.
    pub nulls: Vec<String>,
}

impl Node {
    /// The value of a field of a mapping.
    pub fn field(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Splits the tree into plain JSON and positions by path.
    ///
    /// Fields that are null are left out, as the API server does; items of lists stay, because `- ` counts there.
    /// Whole numbers written as floats (`5.0`) become integers: Argo Rollouts writes weights like that.
    pub fn into_json(self) -> Flat {
        let start = self.position;
        let mut walk = Walk::default();
        let json = walk.value(self.value);
        walk.fields.sort_unstable_by_key(|field| field.0);
        let positions = Positions { start, fields: walk.fields.into() };
        Flat { json, positions, duplicates: walk.duplicates, nulls: walk.nulls }
    }
}

#[derive(Default)]
struct Walk {
    path: String,
    fields: Vec<(u64, Position)>,
    duplicates: Vec<DuplicateKey>,
    nulls: Vec<String>,
}

impl Walk {
    fn value(&mut self, value: Value) -> serde_json::Value {
        match value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(bool) => serde_json::Value::Bool(bool),
            Value::Number(number) => serde_json::Value::Number(whole(number)),
            Value::Text(text) => serde_json::Value::String(text),
            Value::Sequence(items) => serde_json::Value::Array(self.items(items)),
            Value::Mapping(entries) => serde_json::Value::Object(self.entries(entries)),
        }
    }

    fn items(&mut self, items: Vec<Node>) -> Vec<serde_json::Value> {
        let length = self.path.len();
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            push_index(&mut self.path, index);
            self.fields.push((hash(&self.path), item.position));
            out.push(self.value(item.value));
            self.path.truncate(length);
        }
        out
    }

    fn entries(&mut self, entries: Vec<Entry>) -> Map<String, serde_json::Value> {
        let length = self.path.len();
        let mut out = Map::with_capacity(entries.len());
        for entry in entries {
            push_field(&mut self.path, &entry.key);
            self.fields.push((hash(&self.path), entry.position));
            if out.contains_key(&entry.key) {
                self.duplicates.push(DuplicateKey { path: self.path.clone(), position: entry.position });
            }
            if entry.value.value != Value::Null {
                let value = self.value(entry.value.value);
                out.insert(entry.key, value);
            } else {
                self.nulls.push(self.path.clone());
            }
            self.path.truncate(length);
        }
        out
    }
}

fn whole(number: Number) -> Number {
    match number.as_f64() {
        // 2^53: beyond it a float no longer names one integer.
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 => {
            Number::from(float as i64)
        }
        _ => number,
    }
}
