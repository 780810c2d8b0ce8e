//! `HTTPMatchRequest` to a [`Condition`]: what is left of it when port, gateways and labels are decided.

use std::sync::Arc;

use crate::{
    snapshot::{Case, Condition, HeaderCondition, StringMatch, UriMatch},
    spec::{istio::HttpMatch, re2, value::StringMatch as Written},
};

/// Keys that have fields of their own; Istio takes them among the headers and ignores them.
const NO_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

/// A header key that stands for a claim of a JWT.
const CLAIM: &str = "@request.auth.claims";

/// The first field that is not carried out. A match with one must not be widened by leaving it out.
pub fn unsupported(item: &HttpMatch) -> Option<String> {
    let keys = item.headers.keys().map(|key| ("headers", key));
    let mut keys = keys.chain(item.without_headers.keys().map(|key| ("withoutHeaders", key)));
    keys.find(|(_, key)| key.starts_with(CLAIM)).map(|(field, key)| format!("{field}.{key}"))
}

pub fn condition(item: &HttpMatch) -> Condition {
    let case = if item.ignore_uri_case { Case::Ignored } else { Case::Sensitive };
    let uri = item.uri.as_ref().and_then(text).map(|text| UriMatch { text, case });
    let is_header = |key: &String| !NO_HEADERS.contains(&key.as_str());
    let name = |key: &String| Arc::from(key.to_ascii_lowercase());
    let with = item.headers.iter().filter(|(key, _)| is_header(key)).map(|(key, value)| {
        let condition = text(value).map_or(HeaderCondition::Present, HeaderCondition::Is);
        (name(key), condition)
    });
    let without = item.without_headers.iter().filter(|(key, _)| is_header(key)).map(|(key, value)| {
        let condition = match text(value) {
            None => HeaderCondition::Absent,
            // No expression of RE2, but admission takes it here, for any value.
            Some(StringMatch::Regex(any)) if &*any == "*" => HeaderCondition::Absent,
            Some(text) => HeaderCondition::IsNot(text),
        };
        (name(key), condition)
    });
    Condition {
        uri,
        scheme: item.scheme.as_ref().and_then(text),
        method: item.method.as_ref().and_then(text),
        authority: item.authority.as_ref().and_then(text),
        headers: with.chain(without).collect(),
        query: item.query_params.iter().map(|(key, value)| (key.as_str().into(), text(value))).collect(),
        client: None,
    }
}

/// `None`: anything, as long as it is there.
pub fn text(written: &Written) -> Option<StringMatch> {
    Some(match written {
        Written::Present => return None,
        Written::Exact(text) => StringMatch::Exact(text.as_str().into()),
        Written::Prefix(text) => StringMatch::Prefix(text.as_str().into()),
        Written::Regex(text) => StringMatch::Regex(regex(text)),
    })
}

/// An expression of RE2 as the router reads it. One that is none stays: admission has refused it, but for the `*` of
/// `withoutHeaders`.
pub fn regex(written: &str) -> Arc<str> {
    re2::to_rust(written).map_or_else(|_| written.into(), Into::into)
}

/// Every expression of a condition.
pub fn patterns(condition: &Condition) -> Vec<&Arc<str>> {
    let headers = condition.headers.iter().filter_map(|(_, header)| match header {
        HeaderCondition::Is(text) | HeaderCondition::IsNot(text) => Some(text),
        HeaderCondition::Present | HeaderCondition::Absent => None,
    });
    let single = [&condition.scheme, &condition.method, &condition.authority].into_iter().flatten();
    let all = condition.uri.iter().map(|uri| &uri.text).chain(single).chain(headers);
    let all = all.chain(condition.query.iter().filter_map(|(_, text)| text.as_ref()));
    all.filter_map(|text| match text {
        StringMatch::Regex(pattern) => Some(pattern),
        StringMatch::Exact(_) | StringMatch::Prefix(_) => None,
    })
    .collect()
}
