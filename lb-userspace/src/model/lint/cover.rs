//! Whether one http match takes every request that another would.

use std::collections::BTreeMap;

use crate::spec::{
    istio::{HttpMatch, Labels},
    value::StringMatch,
};

/// Whether every request that fits `b` fits `a` too. `false` where it cannot be told.
pub fn covers(a: &HttpMatch, b: &HttpMatch) -> bool {
    let subset = |a: &Labels, b: &Labels| a.iter().all(|(key, value)| b.get(key) == Some(value));
    let gateways = a.gateways.is_empty()
        || (!b.gateways.is_empty() && b.gateways.iter().all(|gateway| a.gateways.contains(gateway)));
    let port = a.port.is_none_or(|port| port == 0 || b.port == Some(port));
    let namespace = a.source_namespace.as_deref().unwrap_or_default();
    gateways
        && port
        && subset(&a.source_labels, &b.source_labels)
        && (namespace.is_empty() || b.source_namespace.as_deref() == Some(namespace))
        && uri(a, b)
        && field(&a.scheme, &b.scheme)
        && field(&a.method, &b.method)
        && field(&a.authority, &b.authority)
        && headers(&a.headers, &b.headers)
        && headers(&a.query_params, &b.query_params)
        && a.without_headers.iter().all(|(name, value)| b.without_headers.get(name) == Some(value))
}

/// Whether a match has no condition of its own on the request but perhaps the path `/` or `.*`.
pub fn is_catch_all(item: &HttpMatch) -> bool {
    let everything = match &item.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(StringMatch::Regex(regex)) => regex == ".*",
        Some(_) => false,
    };
    everything
        && item.headers.is_empty()
        && item.query_params.is_empty()
        && item.without_headers.is_empty()
        && item.method.is_none()
        && item.scheme.is_none()
        && item.authority.is_none()
}

fn uri(a: &HttpMatch, b: &HttpMatch) -> bool {
    let lower = |uri: &Option<StringMatch>| match uri {
        Some(StringMatch::Exact(text)) => Some(StringMatch::Exact(text.to_lowercase())),
        Some(StringMatch::Prefix(text)) => Some(StringMatch::Prefix(text.to_lowercase())),
        other => other.clone(),
    };
    match &a.uri {
        Some(StringMatch::Prefix(prefix)) if prefix.is_empty() || prefix == "/" => return true,
        Some(StringMatch::Regex(regex)) if regex == ".*" => return true,
        _ => {}
    }
    match (a.ignore_uri_case, b.ignore_uri_case) {
        (true, _) => field(&lower(&a.uri), &lower(&b.uri)),
        (false, false) => field(&a.uri, &b.uri),
        // `b` takes more ways of writing than `a` names.
        (false, true) => a.uri.is_none(),
    }
}

/// A field that both may leave out; every request has the fields this is used for.
fn field(a: &Option<StringMatch>, b: &Option<StringMatch>) -> bool {
    match (a, b) {
        (None | Some(StringMatch::Present), _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => implies(b, a),
    }
}

/// Every header that `a` asks for is asked for as narrowly by `b`.
fn headers(a: &BTreeMap<String, StringMatch>, b: &BTreeMap<String, StringMatch>) -> bool {
    // Istio ignores these four as header names.
    let counts = |name: &str| !matches!(name, "uri" | "scheme" | "method" | "authority");
    a.iter().filter(|(name, _)| counts(name)).all(|(name, a)| b.get(name).is_some_and(|b| implies(b, a)))
}

/// Whether every text that fits `narrow` fits `wide`.
fn implies(narrow: &StringMatch, wide: &StringMatch) -> bool {
    match (narrow, wide) {
        (_, StringMatch::Present) => true,
        (StringMatch::Exact(text), StringMatch::Exact(wide)) => text == wide,
        (StringMatch::Exact(text) | StringMatch::Prefix(text), StringMatch::Prefix(wide)) => {
            text.starts_with(wide.as_str())
        }
        (_, StringMatch::Regex(wide)) if wide == ".*" => true,
        (StringMatch::Regex(narrow), StringMatch::Regex(wide)) => narrow == wide,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> HttpMatch {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_takes_what() {
        let cases = [
            ("{}", r#"{"uri": {"exact": "/a"}}"#, true),
            (r#"{"uri": {"exact": "/a"}}"#, "{}", false),
            (r#"{"uri": {"prefix": "/a"}}"#, r#"{"uri": {"exact": "/ab"}}"#, true),
            (r#"{"uri": {"prefix": "/a"}}"#, r#"{"uri": {"prefix": "/a/b"}}"#, true),
            (r#"{"uri": {"prefix": "/a/b"}}"#, r#"{"uri": {"prefix": "/a"}}"#, false),
            (r#"{"uri": {"prefix": "/"}}"#, "{}", true),
            (r#"{"uri": {"prefix": "/"}}"#, r#"{"uri": {"regex": "/x.*"}}"#, true),
            (r#"{"uri": {"regex": ".*"}}"#, "{}", true),
            (r#"{"uri": {"regex": ".*"}}"#, r#"{"uri": {"exact": "/a"}, "ignoreUriCase": true}"#, true),
            (r#"{"uri": {"regex": "/x.*"}}"#, r#"{"uri": {"regex": "/x.*"}}"#, true),
            (r#"{"uri": {"regex": "/x.*"}}"#, r#"{"uri": {"exact": "/xy"}}"#, false),
            (r#"{"uri": {"exact": "/A"}}"#, r#"{"uri": {"exact": "/a"}}"#, false),
            (r#"{"uri": {"exact": "/A"}, "ignoreUriCase": true}"#, r#"{"uri": {"exact": "/a"}}"#, true),
            (r#"{"uri": {"exact": "/a"}}"#, r#"{"uri": {"exact": "/a"}, "ignoreUriCase": true}"#, false),
            (r#"{"headers": {"x": {}}}"#, r#"{"headers": {"x": {"exact": "1"}}}"#, true),
            (r#"{"headers": {"x": {"exact": "1"}}}"#, r#"{"headers": {"y": {"exact": "1"}}}"#, false),
            (r#"{"headers": {"uri": {"exact": "1"}}}"#, "{}", true),
            ("{}", r#"{"withoutHeaders": {"x": {}}}"#, true),
            (r#"{"withoutHeaders": {"x": {}}}"#, "{}", false),
            (r#"{"queryParams": {"q": {}}}"#, r#"{"queryParams": {"q": {"prefix": "a"}}}"#, true),
            (r#"{"method": {"exact": "GET"}}"#, r#"{"method": {"exact": "POST"}}"#, false),
            (r#"{"port": 80}"#, "{}", false),
            ("{}", r#"{"port": 80}"#, true),
            (r#"{"gateways": ["g"]}"#, "{}", false),
            (r#"{"gateways": ["g", "mesh"]}"#, r#"{"gateways": ["g"]}"#, true),
            (r#"{"sourceLabels": {"a": "b"}}"#, "{}", false),
            (r#"{"sourceNamespace": "n"}"#, r#"{"sourceNamespace": "n"}"#, true),
        ];
        for (a, b, expected) in cases {
            assert_eq!(covers(&item(a), &item(b)), expected, "{a} over {b}");
        }
    }
}
