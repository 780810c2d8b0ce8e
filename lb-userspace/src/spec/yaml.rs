//! Text to [`Node`]s: the documents of one YAML or JSON file, each on its own.
//!
//! Hostile text ends in a [`SyntaxError`] soon: nesting, and what aliases may expand to, are bounded.

use std::collections::{HashMap, HashSet};

use serde_yaml::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    node::{Entry, Node, Position, Value},
    scalar,
};

/// Deepest nesting of lists and mappings in a document. Kubernetes objects stay under 30.
pub const MAX_DEPTH: usize = 100;

/// How much aliases may add to one file, in nodes and 16-byte pieces of text.
pub const MAX_EXPANSION: usize = 500_000;

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub position: Position,
    pub message: String,
}

/// Hands out the documents of a file's text, in order, without empty ones, one at a time so that a large file's are never all
/// held at once.
///
/// A document ends at `---` at the start of a line whatever came before it, so one broken document costs only itself.
///
/// `chunks` are those of the file, or some of them.
pub fn documents(chunks: &[(u32, &str)], mut out: impl FnMut(Result<Node, SyntaxError>)) {
    let mut budget = MAX_EXPANSION;
    for (first_line, chunk) in chunks {
        read_chunk(chunk, *first_line, &mut budget, &mut out);
    }
}

/// `text` cut before every `---` line, each piece with its first line's number less one.
pub fn chunks(text: &str) -> Vec<(u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut out = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in (0u32..).zip(text.split_inclusive('\n')) {
        let marker = content
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marker && at > start {
            out.push((start_line, &text[start..at]));
            (start, start_line) = (at, line);
        }
        at += content.len();
    }
    out.push((start_line, &text[start..]));
    out.retain(|(_, chunk)| !is_blank(chunk));
    out
}

/// Whether a piece holds nothing but comments, directives and document markers.
fn is_blank(chunk: &str) -> bool {
    chunk.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "---" || line == "..."
    })
}

fn read_chunk(chunk: &str, first_line: u32, budget: &mut usize, out: &mut impl FnMut(Result<Node, SyntaxError>)) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(chunk, options);
    let returns = returns(chunk);
    loop {
        let mut builder = Builder::new(Places { first_line, returns: &returns }, budget);
        match builder.document(&mut parser) {
            Ok(Some(node)) if node.value == Value::Null => {}
            Ok(Some(node)) => out(Ok(node)),
            Ok(None) => return,
            Err(error) => {
                // JSON allows what YAML does not (surrogate escapes, tabs): ask a JSON reader before giving up.
                out(json(chunk, first_line).ok_or(error));
                return;
            }
        }
    }
}

/// YAML ends a line at a lone carriage return too; editors, and whoever counts with us, do not. Where there is one: what comes before the
/// start of each line of YAML, as lines and as characters of the last of them. Else nothing.
fn returns(chunk: &str) -> Vec<(u32, u32)> {
    let is_lone = |(at, byte): (usize, u8)| byte == b'\r' && chunk.as_bytes().get(at + 1) != Some(&b'\n');
    if !chunk.bytes().enumerate().any(is_lone) {
        return Vec::new();
    }
    let (mut starts, mut line, mut column) = (vec![(0, 0)], 0, 0);
    let mut chars = chunk.chars().peekable();
    while let Some(c) = chars.next() {
        column += 1;
        match c {
            '\n' => (line, column) = (line + 1, 0),
            '\r' if chars.peek() != Some(&'\n') => {}
            _ => continue,
        }
        starts.push((line, column));
    }
    starts
}

/// Where a piece of text stands in its file.
#[derive(Clone, Copy)]
struct Places<'p> {
    /// The number of its first line less one.
    first_line: u32,
    returns: &'p [(u32, u32)],
}

impl Places<'_> {
    /// Of the reader's line, from 1, and column, from 0.
    fn position(self, line: usize, column: usize) -> Position {
        let clamp = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (line, before) = match (self.returns, line.checked_sub(1)) {
            (starts @ [_, ..], Some(at)) => {
                let (line, before) = starts.get(at).or(starts.last()).copied().unwrap_or_default();
                (line + 1, before)
            }
            _ => (clamp(line), 0),
        };
        let column = clamp(column).saturating_add(before).saturating_add(1);
        Position { line: self.first_line.saturating_add(line), column }
    }
}

/// The piece as JSON. Its fields have no positions of their own: the start of the text stands for all.
fn json(chunk: &str, first_line: u32) -> Option<Node> {
    if !chunk.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(chunk).ok()?;
    Some(from_json(value, Position { line: first_line + 1, column: 1 }))
}

fn from_json(json: serde_json::Value, position: Position) -> Node {
    let value = match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(bool) => Value::Bool(bool),
        serde_json::Value::Number(number) => Value::Number(number),
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(items) => {
            Value::Sequence(items.into_iter().map(|item| from_json(item, position)).collect())
        }
        serde_json::Value::Object(fields) => Value::Mapping(
            fields.into_iter().map(|(key, value)| Entry { key, position, value: from_json(value, position) }).collect(),
        ),
    };
    Node { position, value }
}

/// An open list or mapping.
struct Frame {
    position: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<(String, Position)> },
}

struct Builder<'b> {
    places: Places<'b>,
    budget: &'b mut usize,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
}

impl<'b> Builder<'b> {
    fn new(places: Places<'b>, budget: &'b mut usize) -> Builder<'b> {
        Builder { places, budget, stack: Vec::new(), anchors: HashMap::new(), root: None }
    }

    /// The next document, `None` at the end of the text.
    fn document<'i>(
        &mut self,
        parser: &mut impl Iterator<Item = Result<(Event<'i>, Span), ScanError>>,
    ) -> Result<Option<Node>, SyntaxError> {
        for event in parser {
            let (event, span) = event.map_err(|error| {
                let marker = error.marker();
                SyntaxError { position: self.position(marker.line(), marker.col()), message: error.info() }
            })?;
            let position = self.position(span.start.line(), span.start.col());
            if let Event::DocumentEnd = event {
                return Ok(Some(self.root.take().unwrap_or(Node { position, value: Value::Null })));
            }
            self.event(event, position)?;
        }
        Ok(None)
    }

    fn position(&self, line: usize, column: usize) -> Position {
        self.places.position(line, column)
    }

    fn event(&mut self, event: Event<'_>, position: Position) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar_value(text.into_owned(), style, tag.as_deref());
                self.finish(Node { position, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(position, anchor, Content::Sequence(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.open(position, anchor, Content::Mapping { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(position),
            Event::Alias(anchor) => self.alias(anchor, position),
            _ => Ok(()),
        }
    }

    fn open(&mut self, position: Position, anchor: usize, content: Content) -> Result<(), SyntaxError> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(SyntaxError { position, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        self.stack.push(Frame { position, anchor, content });
        Ok(())
    }

    fn close(&mut self, end: Position) -> Result<(), SyntaxError> {
        let Some(frame) = self.stack.pop() else {
            return Err(SyntaxError { position: end, message: "a list or mapping ends that never began".into() });
        };
        let value = match frame.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { entries, .. } => Value::Mapping(merged(entries)),
        };
        self.finish(Node { position: frame.position, value }, frame.anchor)
    }

    fn alias(&mut self, anchor: usize, position: Position) -> Result<(), SyntaxError> {
        let Some(target) = self.anchors.get(&anchor) else {
            return Err(SyntaxError { position, message: "an alias stands inside its own anchor".into() });
        };
        let depth = self.stack.len() + depth(target);
        let target = spend(target, self.budget, position)?;
        if depth > MAX_DEPTH {
            return Err(SyntaxError { position, message: format!("aliases nest deeper than {MAX_DEPTH} levels") });
        }
        self.add(target)
    }

    /// Takes a complete value: remembers it under its anchor, then adds it to what encloses it.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor != 0 {
            let copy = spend(&node, self.budget, node.position)?;
            self.anchors.insert(anchor, copy);
        }
        self.add(node)
    }

    fn add(&mut self, node: Node) -> Result<(), SyntaxError> {
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, key } => match key.take() {
                Some((key, position)) => entries.push(Entry { key, position, value: node }),
                None => *key = Some((key_text(&node)?, node.position)),
            },
        }
        Ok(())
    }
}

/// A copy of `node`, paid from the budget.
fn spend(node: &Node, budget: &mut usize, position: Position) -> Result<Node, SyntaxError> {
    match budget.checked_sub(cost(node, *budget)) {
        Some(left) => {
            *budget = left;
            Ok(node.clone())
        }
        None => {
            *budget = 0;
            Err(SyntaxError { position, message: "anchors and aliases expand to too much".into() })
        }
    }
}

/// What a copy of `node` costs; stops counting past `limit`.
fn cost(node: &Node, limit: usize) -> usize {
    let mut total = 0usize;
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        total += match &node.value {
            Value::Text(text) => 1 + text.len() / 16,
            Value::Sequence(items) => {
                open.extend(items);
                1
            }
            Value::Mapping(entries) => {
                open.extend(entries.iter().map(|entry| &entry.value));
                1 + entries.iter().map(|entry| 1 + entry.key.len() / 16).sum::<usize>()
            }
            _ => 1,
        };
        if total > limit {
            break;
        }
    }
    total
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Sequence(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
        _ => 0,
    }
}

fn key_text(node: &Node) -> Result<String, SyntaxError> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        Value::Null => Ok("null".into()),
        Value::Sequence(_) | Value::Mapping(_) => {
            Err(SyntaxError { position: node.position, message: "a list or mapping cannot be a key".into() })
        }
    }
}

/// Carries out `<<: *other`: the other mapping's keys where this one has none of that name.
fn merged(mut entries: Vec<Entry>) -> Vec<Entry> {
    let Some(at) = entries.iter().position(|entry| entry.key == "<<") else {
        return entries;
    };
    let sources = match entries.remove(at).value {
        Node { value: Value::Sequence(items), .. } => items,
        node => vec![node],
    };
    let mut keys: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for source in sources {
        let Value::Mapping(others) = source.value else {
            continue;
        };
        entries.extend(others.into_iter().filter(|other| keys.insert(other.key.clone())));
    }
    entries
}

fn scalar_value(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let core = tag.and_then(Tag::core_suffix);
    match (style, core) {
        (_, Some("str")) => Value::Text(text),
        (ScalarStyle::Plain, _) => scalar::plain(text),
        // `!!int "5"`: the tag asks for the number although the text is quoted.
        (_, Some("int" | "float" | "bool" | "null")) => scalar::plain(text),
        _ => Value::Text(text),
    }
}
