//! Documents to objects: which kind a document is of, its identity, and its fields in the kind's types.
//!
//! An object that does not fit rejects itself alone. Nothing here looks from one object to another.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    foreign, istio, kubernetes,
    node::{Flat, Node, Position, Positions, Value},
    object::{Created, Key, Kind, Manifest, Object, ObjectName},
    time, typed,
    validate::{self, Judgement, Subject},
    yaml,
};
use crate::finding::{Finding, Severity, code};

/// Namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What one file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSpecs {
    pub file: Arc<str>,
    /// Every object that could be told apart, in the order of the text.
    pub items: Vec<Item>,
    /// Whether some part of the file could not be read at all, so that objects may be hidden in it.
    pub incomplete: bool,
    /// How many objects of each kind there are, also of kinds that Meltemi does not read.
    pub kinds: BTreeMap<String, usize>,
    pub findings: Vec<Finding>,
}

impl FileSpecs {
    /// Adds what comes after in the same file.
    pub(super) fn append(&mut self, mut rest: FileSpecs) {
        self.items.append(&mut rest.items);
        self.incomplete |= rest.incomplete;
        for (kind, count) in rest.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        self.findings.append(&mut rest.findings);
    }
}

/// One object of a kind that Meltemi reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub key: Key,
    pub start: Position,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Valid(Manifest),
    /// Broken; findings say how.
    Rejected,
}

/// Reads a file's text. Never fails: what cannot be read becomes a finding.
pub fn read(file: &Arc<str>, text: &str) -> FileSpecs {
    read_documents(file, &yaml::chunks(text))
}

/// Reads some of a file's documents, each with its first line's number less one.
pub(super) fn read_documents(file: &Arc<str>, chunks: &[(u32, &str)]) -> FileSpecs {
    let mut reader = Reader { specs: unreadable(file) };
    yaml::documents(chunks, |document| match document {
        Ok(node) => reader.document(node),
        Err(error) => {
            reader.specs.incomplete = true;
            let message = format!("this is not valid YAML: {}", error.message);
            let remedy = "Nothing of this document is used.";
            reader.report(Severity::Error, code::SYNTAX, error.position, "", message, remedy);
        }
    });
    reader.specs
}

/// A file of which nothing is known, to which findings are added.
pub(super) fn unreadable(file: &Arc<str>) -> FileSpecs {
    FileSpecs { file: file.clone(), items: vec![], incomplete: false, kinds: BTreeMap::new(), findings: vec![] }
}

/// A file that is refused as a whole.
pub fn refused(file: &Arc<str>, message: String, remedy: &str) -> FileSpecs {
    let mut reader = Reader { specs: unreadable(file) };
    reader.specs.incomplete = true;
    reader.report(Severity::Error, code::SYNTAX, Position { line: 1, column: 1 }, "", message, remedy);
    reader.specs
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    labels: istio::Labels,
    annotations: istio::Labels,
    creation_timestamp: Option<String>,
}

/// What every object has besides its spec.
struct Head {
    key: Key,
    created: Created,
    labels: istio::Labels,
    annotations: istio::Labels,
}

struct Reader {
    specs: FileSpecs,
}

impl Reader {
    fn report(
        &mut self,
        severity: Severity,
        code: &'static str,
        position: Position,
        object: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.specs.findings.push(Finding {
            severity,
            code,
            file: self.specs.file.clone(),
            line: position.line,
            column: position.column,
            object: object.to_owned(),
            path: String::new(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    fn document(&mut self, node: Node) {
        let list = node.field("kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List"));
        if !(list && node.field("items").is_some()) {
            return self.object(node);
        }
        let Value::Mapping(entries) = node.value else {
            return;
        };
        for entry in entries.into_iter().filter(|entry| entry.key == "items") {
            match entry.value.value {
                Value::Sequence(items) => items.into_iter().for_each(|item| self.document(item)),
                Value::Null => {}
                _ => {
                    self.specs.incomplete = true;
                    self.report(
                        Severity::Error,
                        code::INVALID,
                        entry.position,
                        "",
                        "`items` is not a list",
                        "Write one.",
                    );
                }
            }
        }
    }

    fn object(&mut self, node: Node) {
        let text = |field: &str| node.field(field).and_then(Node::text).map(str::to_owned);
        let (Some(kind), Some(api_version)) = (text("kind"), text("apiVersion")) else {
            self.specs.incomplete = true;
            let message = "this is no Kubernetes object: it lacks `apiVersion` or `kind`";
            return self.report(
                Severity::Error,
                code::INVALID,
                node.position,
                "",
                message,
                "Write both, each as text.",
            );
        };
        *self.specs.kinds.entry(kind.clone()).or_default() += 1;
        match foreign::recognise(&kind, &api_version) {
            Ok(kind) => self.known(kind, node),
            Err(foreign) => {
                let position = node.field("kind").map_or(node.position, |kind| kind.position);
                let name = node.field("metadata").and_then(|metadata| metadata.field("name")).and_then(Node::text);
                let object = name.map_or(kind.clone(), |name| format!("{kind} {name}"));
                self.report(foreign.severity, foreign.code, position, &object, foreign.message, foreign.remedy);
            }
        }
    }

    fn known(&mut self, kind: Kind, node: Node) {
        let start = node.position;
        let Flat { mut json, positions, duplicates, nulls } = node.into_json();
        let metadata = json.as_object_mut().and_then(|fields| fields.shift_remove("metadata")).unwrap_or_default();
        let mut draft =
            Draft { kind, file: self.specs.file.clone(), positions, problems: Vec::new(), object: kind.name().into() };
        let Some(metadata) = draft.typed::<Metadata>(optional(metadata), "metadata", Unknown::Allowed) else {
            self.specs.incomplete = true;
            self.specs.findings.append(&mut draft.problems);
            return;
        };
        let Some(name) = metadata.name.as_deref().filter(|name| !name.is_empty()) else {
            self.specs.incomplete = true;
            draft.error("metadata", "the object has no `metadata.name`", "Give it a name.");
            self.specs.findings.append(&mut draft.problems);
            return;
        };
        let namespace = match metadata.namespace.as_deref() {
            _ if !kind.is_namespaced() => "",
            None | Some("") => DEFAULT_NAMESPACE,
            Some(namespace) => namespace,
        };
        let key = Key { kind, name: ObjectName { namespace: namespace.into(), name: name.into() } };
        draft.object = key.to_string();
        for duplicate in duplicates {
            draft.error(&duplicate.path, "this key stands twice in one mapping", "Remove one of the two.");
            // The path alone would lead to either of the two.
            if let Some(finding) = draft.problems.last_mut() {
                (finding.line, finding.column) = (duplicate.position.line, duplicate.position.column);
            }
        }
        for path in nulls.iter().filter(|_| kind == Kind::VirtualService) {
            draft.null_condition(path);
        }
        let created = draft.created(metadata.creation_timestamp.as_deref());
        let Metadata { labels, annotations, .. } = metadata;
        let manifest = draft.manifest(Head { key: key.clone(), created, labels, annotations }, json);
        let outcome = match manifest {
            Some(manifest) if !draft.problems.iter().any(|problem| problem.severity == Severity::Error) => {
                Outcome::Valid(manifest)
            }
            _ => Outcome::Rejected,
        };
        self.specs.findings.append(&mut draft.problems);
        self.specs.items.push(Item { key, start, outcome });
    }
}

/// Fields a kind does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// Reported: the types here name every field of the kind.
    Reported,
    /// The kind has many fields that do not concern Meltemi.
    Allowed,
}

/// An object on its way to a [`Manifest`].
struct Draft {
    kind: Kind,
    file: Arc<str>,
    positions: Positions,
    problems: Vec<Finding>,
    object: String,
}

impl Draft {
    fn finding(&mut self, severity: Severity, code: &'static str, path: &str, message: String, remedy: String) {
        let position = self.positions.locate(path);
        self.problems.push(Finding {
            severity,
            code,
            file: self.file.clone(),
            line: position.line,
            column: position.column,
            object: self.object.clone(),
            path: path.to_owned(),
            message,
            remedy,
        });
    }

    fn error(&mut self, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.finding(Severity::Error, code::INVALID, path, message.into(), remedy.into());
    }

    fn typed<T: DeserializeOwned>(&mut self, json: serde_json::Value, prefix: &str, unknown: Unknown) -> Option<T> {
        let typed::Typed { value, unknown: extra } = typed::typed(json, prefix);
        if unknown == Unknown::Reported {
            for field in extra {
                let remedy = match field.nearest {
                    Some(nearest) => format!("Did you mean `{nearest}`?"),
                    None => format!("{} has no such field; remove it.", self.kind.name()),
                };
                let message = "unknown field, it has no effect".to_owned();
                self.finding(Severity::Warning, code::UNKNOWN_FIELD, &field.path, message, remedy);
            }
        }
        match value {
            Ok(value) => Some(value),
            Err(mut error) => {
                if self.kind == Kind::Secret
                    && let Some(at) = error.message.find(", found ")
                {
                    error.message.truncate(at);
                }
                self.error(&error.path, error.message, error.remedy);
                None
            }
        }
    }

    /// A condition of an http match that is null would be gone without a word, and the match be wider than it looks.
    fn null_condition(&mut self, path: &str) {
        let inside = |field: &str| path.contains(".match[") && path.contains(&format!("].{field}"));
        let remedy = "Write `{}` to ask for presence only.";
        if inside("headers") {
            self.error(path, "a header to match is null", remedy);
        } else if inside("withoutHeaders") || inside("queryParams") {
            let message = "null asks for nothing: the API server removes it".to_owned();
            self.finding(Severity::Warning, code::NO_EFFECT, path, message, remedy.to_owned());
        }
    }

    fn created(&mut self, text: Option<&str>) -> Created {
        let Some(text) = text else {
            return Created(None);
        };
        let time = time::parse_rfc3339(text);
        if time.is_none() {
            self.error(
                "metadata.creationTimestamp",
                format!("`{text}` is not a time"),
                "Write it like 2026-01-31T12:00:00Z.",
            );
        }
        Created(time)
    }

    fn manifest(&mut self, head: Head, mut json: serde_json::Value) -> Option<Manifest> {
        Some(match self.kind {
            Kind::Gateway => Manifest::Gateway(self.istio(head, json, validate::gateway)?),
            Kind::VirtualService => Manifest::VirtualService(self.istio(head, json, validate::virtual_service)?),
            Kind::DestinationRule => Manifest::DestinationRule(self.istio(head, json, validate::destination_rule)?),
            Kind::ServiceEntry => Manifest::ServiceEntry(self.istio(head, json, validate::service_entry)?),
            Kind::WorkloadEntry => Manifest::WorkloadEntry(self.istio(head, json, validate::workload_entry)?),
            Kind::WorkloadGroup => Manifest::WorkloadGroup(self.istio(head, json, validate::workload_group)?),
            Kind::Service => {
                let spec = json.as_object_mut().and_then(|fields| fields.shift_remove("spec")).unwrap_or_default();
                let spec: kubernetes::Service = self.typed(optional(spec), "spec", Unknown::Allowed)?;
                Manifest::Service(self.checked(head, spec, validate::service))
            }
            Kind::Endpoints => {
                let spec = self.typed(json, "", Unknown::Allowed)?;
                Manifest::Endpoints(self.checked(head, spec, validate::endpoints))
            }
            Kind::EndpointSlice => {
                let spec = self.typed(json, "", Unknown::Allowed)?;
                Manifest::EndpointSlice(self.checked(head, spec, validate::endpoint_slice))
            }
            Kind::Pod => {
                let spec = self.typed(json, "", Unknown::Allowed)?;
                Manifest::Pod(self.checked(head, spec, validate::pod))
            }
            Kind::Namespace => {
                let spec = self.typed(json, "", Unknown::Allowed)?;
                Manifest::Namespace(self.checked(head, spec, |_, _| Vec::new()))
            }
            Kind::Secret => {
                let spec = self.typed(json, "", Unknown::Allowed)?;
                Manifest::Secret(self.checked(head, spec, |_, _| Vec::new()))
            }
        })
    }

    fn istio<T: DeserializeOwned>(
        &mut self,
        head: Head,
        json: serde_json::Value,
        check: impl FnOnce(Subject<'_>, &T) -> Vec<Judgement>,
    ) -> Option<Arc<Object<T>>> {
        let serde_json::Value::Object(mut fields) = json else {
            return None;
        };
        let spec = fields.shift_remove("spec");
        for field in fields.keys().filter(|field| !matches!(field.as_str(), "apiVersion" | "kind" | "status")) {
            let mut path = String::new();
            super::node::push_field(&mut path, field);
            let message = "unknown field, it has no effect".to_owned();
            let remedy = "Fields of these kinds belong under `spec`.".to_owned();
            self.finding(Severity::Warning, code::UNKNOWN_FIELD, &path, message, remedy);
        }
        let spec = self.typed(optional(spec.unwrap_or_default()), "spec", Unknown::Reported)?;
        Some(self.checked(head, spec, check))
    }

    fn checked<T>(
        &mut self,
        head: Head,
        spec: T,
        check: impl FnOnce(Subject<'_>, &T) -> Vec<Judgement>,
    ) -> Arc<Object<T>> {
        let ObjectName { namespace, name } = &head.key.name;
        let subject = Subject { name, namespace, labels: &head.labels, annotations: &head.annotations };
        for judgement in check(subject, &spec) {
            let Judgement { severity, code, path, message, remedy } = judgement;
            self.finding(severity, code, &path, message, remedy.to_owned());
        }
        let Head { key, created, labels, annotations } = head;
        let (file, positions) = (self.file.clone(), self.positions.clone());
        Arc::new(Object { key, created, labels, annotations, file, positions, spec })
    }
}

/// A field that is left out reads as an empty mapping.
fn optional(json: serde_json::Value) -> serde_json::Value {
    match json {
        serde_json::Value::Null => serde_json::Value::Object(serde_json::Map::new()),
        json => json,
    }
}
