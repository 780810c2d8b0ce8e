//! Expressions and the other ways in which one text fits another.

use std::{collections::HashMap, fmt, sync::Arc};

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

use crate::snapshot::StringMatch;

/// Bytes that one compiled expression may take: RE2's own limit, 8 MiB.
const SIZE: usize = 8 << 20;
/// Bytes of its cache while it is matched.
const CACHE: usize = 1 << 20;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPattern {
    pub pattern: Arc<str>,
    pub reason: String,
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no expression that can be used: {}", self.pattern, self.reason)
    }
}

impl std::error::Error for BadPattern {}

/// Compiled expressions, each text once.
#[derive(Debug, Default)]
pub struct Patterns {
    whole: HashMap<Arc<str>, Regex>,
}

impl Patterns {
    /// An expression that must fit a whole text.
    pub fn whole(&mut self, pattern: &Arc<str>) -> Result<Regex, BadPattern> {
        if let Some(known) = self.whole.get(pattern) {
            return Ok(known.clone());
        }
        // On its own first, so that `a)|(b` is an error and not two alternatives.
        hir(pattern)?;
        let compiled = compile(pattern, &format!(r"\A(?:{pattern})\z"))?;
        self.whole.insert(pattern.clone(), compiled.clone());
        Ok(compiled)
    }
}

/// An expression that is searched for in a text.
pub fn anywhere(pattern: &Arc<str>) -> Result<Regex, BadPattern> {
    compile(pattern, pattern)
}

fn compile(pattern: &Arc<str>, text: &str) -> Result<Regex, BadPattern> {
    let built = RegexBuilder::new(text).size_limit(SIZE).dfa_size_limit(CACHE).build();
    built.map_err(|error| bad(pattern, &error.to_string()))
}

fn hir(pattern: &Arc<str>) -> Result<Hir, BadPattern> {
    let parsed = regex_syntax::ParserBuilder::new().utf8(false).build().parse(pattern);
    parsed.map_err(|error| bad(pattern, &error.to_string()))
}

fn bad(pattern: &Arc<str>, reason: &str) -> BadPattern {
    // Messages of the parser have a drawing in front of what is wrong.
    let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    BadPattern { pattern: pattern.clone(), reason }
}

/// The text with which everything begins that the expression fits as a whole.
pub(super) fn literal_prefix(pattern: &Arc<str>) -> String {
    let Ok(hir) = hir(pattern) else { return String::new() };
    let mut prefix = Vec::new();
    leading(&hir, &mut prefix);
    String::from_utf8(prefix).unwrap_or_default()
}

/// Whether the whole of `hir` is literal, so that what follows may be looked at too.
fn leading(hir: &Hir, prefix: &mut Vec<u8>) -> bool {
    match hir.kind() {
        HirKind::Empty => true,
        HirKind::Literal(literal) => {
            prefix.extend_from_slice(&literal.0);
            true
        }
        HirKind::Capture(capture) => leading(&capture.sub, prefix),
        HirKind::Concat(parts) => parts.iter().all(|part| leading(part, prefix)),
        HirKind::Class(_) | HirKind::Look(_) | HirKind::Repetition(_) | HirKind::Alternation(_) => false,
    }
}

/// A compiled [`StringMatch`].
#[derive(Clone, Debug)]
pub enum Text {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Regex(Regex),
}

impl Text {
    pub fn new(text: &StringMatch, patterns: &mut Patterns) -> Result<Text, BadPattern> {
        Ok(match text {
            StringMatch::Exact(text) => Text::Exact(text.clone()),
            StringMatch::Prefix(text) => Text::Prefix(text.clone()),
            StringMatch::Regex(pattern) => Text::Regex(patterns.whole(pattern)?),
        })
    }

    pub fn fits(&self, text: &[u8]) -> bool {
        match self {
            Text::Exact(exact) => exact.as_bytes() == text,
            Text::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Text::Regex(regex) => regex.is_match(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_fit_the_whole_text() {
        let mut patterns = Patterns::default();
        for (pattern, text, fits) in [
            ("a.c", "abc", true),
            ("a.c", "xabc", false),
            ("a.c", "abcx", false),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("a.c", "a\u{e9}c", true),
            ("[0-9]+", "12", true),
            (r"(?i)abc", "ABC", true),
            (r"\pL+", "\u{e9}", true),
            ("", "", true),
        ] {
            let regex = patterns.whole(&pattern.into()).unwrap();
            assert_eq!(regex.is_match(text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for pattern in ["*", "(", "a)|(b", "(?=a)", r"(a)\1", "(a{1000}){1000}"] {
            let error = Patterns::default().whole(&pattern.into()).unwrap_err();
            assert!(!error.reason.is_empty() && !error.reason.contains('\n'), "{error}");
        }
    }

    #[test]
    fn literal_prefixes() {
        for (pattern, prefix) in [
            ("/api/v1/.*", "/api/v1/"),
            ("/api/v[0-9]+", "/api/v"),
            ("/ab*", "/a"),
            ("/a|/b", ""),
            ("/a(b|c)", "/a"),
            ("/x/(abc)/d?", "/x/abc/"),
            ("(?i)/a", "/"),
            ("^/a", ""),
            ("/same", "/same"),
        ] {
            assert_eq!(literal_prefix(&pattern.into()), prefix, "{pattern}");
        }
    }
}
