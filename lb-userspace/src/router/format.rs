//! Envoy's formats in header values: `%COMMAND(argument):length%` is a value of the request, `%%` a percent sign.

use std::{borrow::Cow, sync::Arc};

use http::HeaderMap;

/// What the proxy knows of a request besides its headers.
pub trait Variables {
    /// Value of a command, such as `DOWNSTREAM_REMOTE_ADDRESS`, with what stands in its parentheses. `None`: unknown here.
    fn value(&self, command: &str, argument: Option<&str>) -> Option<Cow<'_, str>>;
}

/// No command has a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Variables for Nothing {
    fn value(&self, _: &str, _: Option<&str>) -> Option<Cow<'_, str>> {
        None
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Arc<str>),
    /// `REQ(name?alternative)`: a request header.
    Header {
        name: Arc<str>,
        alternative: Option<Arc<str>>,
        most: Option<usize>,
    },
    Command {
        name: Arc<str>,
        argument: Option<Arc<str>>,
        most: Option<usize>,
    },
}

impl Format {
    /// A percent sign that begins no command stands for itself.
    pub fn parse(text: &str) -> Format {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            match rest.split_once('%').and_then(|(inside, after)| Some((command(inside)?, after))) {
                Some((piece, after)) => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
                    }
                    pieces.push(piece);
                    rest = after;
                }
                None => plain.push('%'),
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Format { pieces }
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What has no value becomes nothing.
    pub fn render(&self, headers: &HeaderMap, variables: &impl Variables) -> Cow<'_, str> {
        if let [Piece::Text(text)] = &self.pieces[..] {
            return Cow::Borrowed(text);
        }
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Header { name, alternative, most } => {
                    let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
                    let value = get(name).or_else(|| get(alternative.as_deref()?));
                    out.push_str(cut(value.unwrap_or_default(), *most));
                }
                Piece::Command { name, argument, most } => {
                    let value = variables.value(name, argument.as_deref()).unwrap_or_default();
                    out.push_str(cut(&value, *most));
                }
            }
        }
        Cow::Owned(out)
    }
}

fn cut(text: &str, most: Option<usize>) -> &str {
    let end = most.filter(|most| *most < text.len()).unwrap_or(text.len());
    (0..=end).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

/// `NAME`, `NAME(argument)` or either with `:length`.
fn command(inside: &str) -> Option<Piece> {
    let end = inside.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_').unwrap_or(inside.len());
    let (name, mut rest) = inside.split_at(end);
    let mut argument = None;
    if let Some(open) = rest.strip_prefix('(') {
        let (inner, after) = open.rsplit_once(')')?;
        argument = Some(inner);
        rest = after;
    }
    let most = match rest.strip_prefix(':') {
        Some(digits) => Some(digits.parse().ok()?),
        None if rest.is_empty() => None,
        None => return None,
    };
    if name.is_empty() {
        return None;
    }
    Some(match (name, argument) {
        ("REQ", Some(names)) => {
            let (name, alternative) = match names.split_once('?') {
                Some((name, alternative)) => (name, Some(alternative.to_ascii_lowercase().into())),
                None => (names, None),
            };
            Piece::Header { name: name.to_ascii_lowercase().into(), alternative, most }
        }
        (name, argument) => Piece::Command { name: name.into(), argument: argument.map(Into::into), most },
    })
}
