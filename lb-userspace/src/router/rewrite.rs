//! The request as it leaves, and where a redirect points.

use std::borrow::Cow;

use regex::bytes::{Captures, Regex};

use super::{condition::Request, pattern::BadPattern, pattern::anywhere};
use crate::snapshot::{
    AuthorityRewrite, Case, Condition, PathRewrite, Redirect, RedirectPath, RedirectPort, Rewrite, StringMatch,
};

/// A `uriRegexRewrite`, compiled.
#[derive(Debug)]
pub(super) struct Substitution {
    regex: Regex,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

impl Substitution {
    /// `None`: the path is not rewritten by an expression.
    pub fn new(rewrite: &Rewrite) -> Result<Option<Substitution>, BadPattern> {
        let PathRewrite::Regex { pattern, substitution } = &rewrite.path else {
            return Ok(None);
        };
        Ok(Some(Substitution { regex: anywhere(pattern)?, pieces: pieces(substitution) }))
    }

    fn apply(&self, path: &str) -> String {
        let replaced = self.regex.replace_all(path.as_bytes(), |groups: &Captures<'_>| {
            let mut out = Vec::new();
            for piece in &self.pieces {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text),
                    Piece::Group(group) => {
                        out.extend_from_slice(groups.get(*group).map_or(&b""[..], |group| group.as_bytes()));
                    }
                }
            }
            out
        });
        String::from_utf8_lossy(&replaced).into_owned()
    }
}

/// RE2's form: `\0` to `\9` are groups, `\\` is a backslash.
fn pieces(substitution: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, byte == b'\\') {
            (_, true) => match bytes.next() {
                Some(digit @ b'0'..=b'9') => {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                    pieces.push(Piece::Group(usize::from(digit - b'0')));
                }
                other => text.extend(other.or(Some(b'\\'))),
            },
            (byte, false) => text.push(byte),
        }
    }
    pieces.push(Piece::Text(text));
    pieces
}

/// A request's path (with its query) and authority after a rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten<'r> {
    pub path_and_query: Cow<'r, str>,
    pub authority: Cow<'r, str>,
}

pub(super) fn rewrite<'r>(
    rewrite: &'r Rewrite,
    substitution: Option<&Substitution>,
    condition: &Condition,
    request: &Request<'r>,
) -> Rewritten<'r> {
    let path = match (&rewrite.path, substitution) {
        (PathRewrite::Uri(uri), _) => Cow::Owned(replaced(condition, request.path, uri)),
        (PathRewrite::Regex { .. }, Some(substitution)) => Cow::Owned(substitution.apply(request.path)),
        (PathRewrite::Kept | PathRewrite::Regex { .. }, _) => Cow::Borrowed(request.path),
    };
    let authority = match &rewrite.authority {
        AuthorityRewrite::Kept => Cow::Borrowed(request.authority),
        AuthorityRewrite::Set(authority) => Cow::Borrowed(&**authority),
    };
    Rewritten { path_and_query: with_query(path, request.query), authority }
}

fn with_query<'r>(path: Cow<'r, str>, query: Option<&str>) -> Cow<'r, str> {
    match query {
        None => path,
        Some(query) => Cow::Owned(format!("{path}?{query}")),
    }
}

/// `text` instead of the prefix that the condition names, or of the whole path where it names none. A rule without any uri
/// match is as good as one with prefix `/`.
fn replaced(condition: &Condition, path: &str, text: &str) -> String {
    let length = match &condition.uri {
        None => 1,
        Some(uri) => match (&uri.text, uri.case) {
            (StringMatch::Prefix(prefix), Case::Sensitive | Case::Ignored) => prefix.len(),
            (StringMatch::Exact(_) | StringMatch::Regex(_), _) => path.len(),
        },
    };
    format!("{text}{}", path.get(length..).unwrap_or_default())
}

/// The `Location` of a redirect. `port` is the listener's.
pub(super) fn location(redirect: &Redirect, condition: &Condition, request: &Request<'_>, port: u16) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    let authority = match (&redirect.authority, redirect.port) {
        (Some(authority), None | Some(RedirectPort::OfScheme)) => Cow::Borrowed(&**authority),
        (None, None) => without_default_port(request.authority, request.scheme, scheme),
        (own, port_wanted) => {
            let host = without_port(own.as_deref().unwrap_or(request.authority));
            let number = match port_wanted {
                Some(RedirectPort::Number(number)) => Some(number),
                Some(RedirectPort::OfListener) => Some(port),
                Some(RedirectPort::OfScheme) | None => None,
            };
            match number.filter(|number| default_port(scheme) != *number) {
                Some(number) => Cow::Owned(format!("{host}:{number}")),
                None => Cow::Borrowed(host),
            }
        }
    };
    let path = match &redirect.path {
        RedirectPath::Kept => Cow::Borrowed(request.path),
        RedirectPath::Replaced(path) => Cow::Borrowed(&**path),
        RedirectPath::Prefix(prefix) => Cow::Owned(replaced(condition, request.path, prefix)),
    };
    // A path that brings its own query keeps that one.
    let query = request.query.filter(|_| !path.contains('?'));
    format!("{scheme}://{authority}{}", with_query(path, query))
}

/// Where `httpsRedirect` points: the same with `https`.
pub(super) fn https_location(request: &Request<'_>) -> String {
    let path = with_query(Cow::Borrowed(request.path), request.query);
    format!("https://{}{path}", without_default_port(request.authority, request.scheme, "https"))
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// The old scheme's default port goes when the scheme changes.
fn without_default_port<'a>(authority: &'a str, old: &str, new: &str) -> Cow<'a, str> {
    let host = without_port(authority);
    let is_default = authority[host.len()..].strip_prefix(':') == Some(if old == "https" { "443" } else { "80" });
    Cow::Borrowed(if old != new && is_default { host } else { authority })
}

pub(super) fn without_port(authority: &str) -> &str {
    match authority.rfind(']').or_else(|| (!authority.contains(']')).then_some(0)) {
        Some(end) => authority[end..].find(':').map_or(authority, |colon| &authority[..end + colon]),
        None => authority,
    }
}
