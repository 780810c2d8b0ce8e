//! Header operations, done to a header map in the order in which the snapshot lists them.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::format::{Format, Variables};
use crate::snapshot::{HeaderAction, HeaderOperation};

/// A list of operations, names and formats parsed.
#[derive(Clone, Debug, Default)]
pub struct Operations {
    all: Vec<Operation>,
}

#[derive(Clone, Debug)]
enum Operation {
    Remove(HeaderName),
    Set(HeaderName, Format),
    Add(HeaderName, Format),
    Authority(Format),
}

/// A name that is none, or a value that no header can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadOperation {
    pub name: Arc<str>,
}

impl Operations {
    pub fn new(operations: &[HeaderOperation]) -> Result<Operations, BadOperation> {
        let mut all = Vec::with_capacity(operations.len());
        for HeaderOperation { name, action } in operations {
            let bad = || BadOperation { name: name.clone() };
            let is_authority = matches!(&**name, ":authority" | "host");
            let parse = || HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad());
            all.push(match action {
                HeaderAction::Remove if is_authority => continue,
                HeaderAction::Remove => Operation::Remove(parse()?),
                HeaderAction::Set(text) | HeaderAction::Add(text) if is_authority => {
                    Operation::Authority(Format::parse(text))
                }
                HeaderAction::Set(text) => Operation::Set(parse()?, Format::parse(text)),
                HeaderAction::Add(text) => Operation::Add(parse()?, Format::parse(text)),
            });
        }
        Ok(Operations { all })
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Does them; the result is the request's new authority, where an operation sets it. A value that comes out empty, or
    /// that no header can have, is not written.
    pub fn apply(&self, headers: &mut HeaderMap, variables: &impl Variables) -> Option<String> {
        let mut authority = None;
        for operation in &self.all {
            match operation {
                Operation::Remove(name) => {
                    headers.remove(name);
                }
                Operation::Set(name, format) => match value(format, headers, variables) {
                    Some(value) => drop(headers.insert(name, value)),
                    None => drop(headers.remove(name)),
                },
                Operation::Add(name, format) => {
                    if let Some(value) = value(format, headers, variables) {
                        headers.append(name, value);
                    }
                }
                Operation::Authority(format) => {
                    let text = format.render(headers, variables);
                    authority = Some(text.into_owned()).filter(|text| !text.is_empty()).or(authority);
                }
            }
        }
        authority
    }
}

fn value(format: &Format, headers: &HeaderMap, variables: &impl Variables) -> Option<HeaderValue> {
    let text: Cow<'_, str> = format.render(headers, variables);
    if text.is_empty() && !format.is_empty() {
        return None;
    }
    HeaderValue::from_str(&text).ok()
}
