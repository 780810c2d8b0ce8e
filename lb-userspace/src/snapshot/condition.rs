//! When a route fits a request: `HTTPMatchRequest`, as far as it is decided by the request itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ClientMatch;

/// Every part that is there must fit. The default fits everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    pub uri: Option<UriMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    /// `:authority` as sent, which may have a port.
    pub authority: Option<StringMatch>,
    /// By lower-case name. Several fields of one name are matched as one text, joined with commas.
    pub headers: Vec<(Arc<str>, HeaderCondition)>,
    /// By name; `None`: the parameter must be there, whatever its value. Only its first occurrence counts.
    pub query: Vec<(Arc<str>, Option<StringMatch>)>,
    /// Of whoever connects.
    pub client: Option<ClientMatch>,
}

impl Condition {
    /// Whether every request fits, but for its path if that must begin with `/`. As in Istio these are no path, the prefix `/` and the
    /// expression `.*`; others that fit everything are not recognised.
    pub fn is_catch_all(&self) -> bool {
        let any_path = match self.uri.as_ref().map(|uri| &uri.text) {
            None => true,
            Some(StringMatch::Prefix(prefix)) => &**prefix == "/",
            Some(StringMatch::Regex(pattern)) => &**pattern == ".*",
            Some(StringMatch::Exact(_)) => false,
        };
        any_path && *self == Condition { uri: self.uri.clone(), ..Condition::default() }
    }
}

/// A match of the path without its query, in the normal form of `router::path`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UriMatch {
    pub text: StringMatch,
    pub case: Case,
}

/// `ignoreUriCase`; without effect on regular expressions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Case {
    #[default]
    Sensitive,
    Ignored,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StringMatch {
    Exact(Arc<str>),
    /// Of the raw text: `/foo` fits `/foobar`.
    Prefix(Arc<str>),
    /// Of the whole text: an expression of the `regex` crate, Unicode on, that means what Istio's RE2 says (`spec::re2`).
    Regex(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderCondition {
    Present,
    Absent,
    Is(StringMatch),
    /// `withoutHeaders` with a value: also fits where the header is absent.
    IsNot(StringMatch),
}
